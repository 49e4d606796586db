"""What a worker did, for Prometheus.  Stands around the ports and counts; knows no Redis, no images, no HTTP.

Names and units follow https://prometheus.io/docs/practices/naming/.  Each `Metrics` has a registry of its own.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from redis_consumer import __version__
from redis_consumer.errors import LeaseLost
from redis_consumer.job import FINAL
from redis_consumer.queues.depth import age_seconds
from redis_consumer.storage.base import Content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from redis_consumer.errors import ConsumerError, Failure
    from redis_consumer.job import Job, Status
    from redis_consumer.queues.base import Child, FieldValue, JobQueue, Place
    from redis_consumer.queues.depth import Depth
    from redis_consumer.storage.base import Storage, Upload
    from redis_consumer.storage.ranges import RangeFile

STAGE_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
CLAIM_BUCKETS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
T = TypeVar("T")

UNFINISHED = "Unfinished"
"""The error class of a job that the worker took away from its handler: at the drain, or at MAX_JOB_SECONDS."""


class Metrics:
    """An `Observer` (see `redis_consumer.middleware`) that Prometheus can ask.

    `stages` says which field of a job takes the seconds of which stage.
    """

    def __init__(self, *, queue: str, consumer_type: str, stages: Mapping[str, str]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        about = Info("redis_consumer", "Who this is", registry=self.registry)
        about.info({"version": __version__, "queue": queue, "consumer_type": consumer_type})
        self.stages = stages
        self.jobs = self._counter("jobs", "Jobs that left a lane: done, failed, released or lost", "status", "error")
        self.deliveries = self._counter("deliveries", "Claims; repeated: not the first of the job", "repeated")
        # Known from the start, so that a rate can be told from the first one on.
        self.jobs.labels("done", "")
        self.deliveries.labels("false")
        self.deliveries.labels("true")
        self.lease_losses = self._counter("lease_losses", "Jobs that turned out to be no longer ours")
        self.sweeps = self._counter("sweeps", "Searches for jobs of dead workers")
        self.swept_jobs = self._counter("swept_jobs", "Jobs that a sweep put back into their queue")
        self.retries = self._counter("model_server_retries", "Calls repeated, by what the server said", "error")
        self.downloaded = self._counter("downloaded_bytes", "Bytes of inputs")
        self.uploaded = self._counter("uploaded_bytes", "Bytes of results")
        self.stage_seconds = self._histogram("stage_seconds", "Time of a job in a stage", STAGE_BUCKETS, "stage")
        self.claim_seconds = self._histogram("claim_latency_seconds", "From submission to first claim", CLAIM_BUCKETS)

    def lane(self, queue: JobQueue) -> tuple[MeasuredQueue, Callable[[Callable[[Job], str], Job], str]]:
        """See `Observer.lane`."""
        measured = MeasuredQueue(queue, self)
        return measured, measured.watch

    def storage(self, storage: Storage) -> MeasuredStorage:
        """See `Observer.storage`."""
        return MeasuredStorage(storage, self)

    def sweep(self, sweep: Callable[[], int]) -> Callable[[], int]:
        """See `Observer.sweep`."""

        def counted() -> int:
            self.sweeps.inc()
            returned = sweep()
            self.swept_jobs.inc(returned)
            return returned

        return counted

    def refused(self, error: ConsumerError) -> None:
        """See `Observer.refused`."""
        self.retries.labels(type(error).__name__).inc()

    def watch_queue(self, queue: str, depth: Callable[[], Depth | None]) -> None:
        """Tell what waits in a queue, too; `depth` is asked at each scrape, and None is left out."""
        self.registry.register(Waiting(queue, depth))

    def watch_slots(self, allowed: Callable[[], int]) -> None:
        """Tell how many requests to the model server may be in flight; `allowed` is asked at each scrape."""
        text = "Requests that may be in flight to the model server; lowered when it refuses"
        Gauge("redis_consumer_model_server_slots", text, registry=self.registry).set_function(allowed)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"redis_consumer_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"redis_consumer_{name}", text, labels, buckets=buckets, registry=self.registry)


class Waiting(Collector):
    """What waits in one queue."""

    def __init__(self, queue: str, depth: Callable[[], Depth | None]) -> None:
        self._queue, self._depth = queue, depth

    def collect(self) -> Iterator[Metric]:
        """Ask, and give what came."""
        jobs = GaugeMetricFamily("redis_consumer_queue_jobs", "Jobs that wait", labels=["queue"])
        age = GaugeMetricFamily("redis_consumer_queue_age_seconds", "Age of the job that is next", labels=["queue"])
        if depth := self._depth():
            jobs.add_metric([self._queue], depth.jobs)
            age.add_metric([self._queue], depth.oldest_seconds)
        yield from (jobs, age)

    def describe(self) -> Iterator[Metric]:
        """Say nothing: at the registration nobody is to be asked."""
        yield from ()


class MeasuredQueue:
    """A lane's `JobQueue` that counts.  An end is counted once, whoever brings it about."""

    def __init__(self, queue: JobQueue, metrics: Metrics) -> None:
        self._queue, self._metrics = queue, metrics
        self._token = ""
        """Of the job in hand."""
        self._error = ""
        """The class of what its handler raised."""
        self._seconds: dict[str, float] = {}

    def watch(self, handle: Callable[[Job], str], job: Job) -> str:
        """Note what the handler raises: the middleware of this lane."""
        self._error = UNFINISHED
        try:
            status = handle(job)
        except LeaseLost as error:
            self._lost(job, error)
            raise
        except BaseException as error:
            self._error = type(error).__name__
            raise
        self._error = ""
        return status

    def claim(self, *, timeout: float) -> Job | None:
        """See `JobQueue.claim`."""
        job = self._queue.claim(timeout=timeout)
        if job:
            self._token, self._seconds, self._error = job.token, {}, ""
            self._metrics.deliveries.labels("true" if job.deliveries > 1 else "false").inc()
            if job.deliveries == 1 and (seconds := age_seconds(job.get("created_at"))):
                self._metrics.claim_seconds.observe(seconds)
        return job

    def update(self, job: Job, fields: Mapping[str, FieldValue]) -> None:
        """See `JobQueue.update`."""
        self._write(self._queue.update, job, fields)

    def announce(self, job: Job, fields: Mapping[str, FieldValue]) -> None:
        """See `JobQueue.announce`."""
        self._write(self._queue.announce, job, fields)

    def settle(self, job: Job, status: str, fields: Mapping[str, FieldValue], failure: Failure | None = None) -> None:
        """See `JobQueue.settle`."""
        error = self._error
        self._held(job, lambda: self._queue.settle(job, status, fields, failure))
        self._end(job, str(status), error)

    def release(self, job: Job, to: Place, *, seconds: float = 0.0, failure: Failure | None = None) -> Status:
        """See `JobQueue.release`."""
        error = self._error
        status = self._held(job, lambda: self._queue.release(job, to, seconds=seconds, failure=failure))
        self._end(job, status if status in FINAL else "released", error)
        return status

    def submit_children(self, parent: Job, children: Iterable[Child]) -> list[str]:
        """See `JobQueue.submit_children`."""
        return self._held(parent, lambda: self._queue.submit_children(parent, children))

    def children(self, parent: Job) -> Iterator[tuple[str, dict[str, str]]]:
        """See `JobQueue.children`."""
        return self._queue.children(parent)

    def heartbeat(self, job: Job) -> None:
        """See `JobQueue.heartbeat`."""
        self._queue.heartbeat(job)

    def wake(self) -> None:
        """See `JobQueue.wake`."""
        self._queue.wake()

    def close(self) -> None:
        """See `JobQueue.close`."""
        self._queue.close()

    def _write(
        self, write: Callable[[Job, Mapping[str, FieldValue]], None], job: Job, fields: Mapping[str, FieldValue]
    ) -> None:
        self._held(job, lambda: write(job, fields))
        for name, stage in self._metrics.stages.items():
            with suppress(KeyError, ValueError):  # a consumer of somebody's own may write anything there
                self._seconds[stage] = float(fields[name])

    def _held(self, job: Job, action: Callable[[], T]) -> T:
        try:
            return action()
        except LeaseLost as error:
            self._lost(job, error)
            raise

    def _lost(self, job: Job, error: LeaseLost) -> None:
        if self._end(job, "lost", type(error).__name__):
            self._metrics.lease_losses.inc()

    def _end(self, job: Job, status: str, error: str) -> bool:
        if job.token != self._token:
            return False
        self._token = ""
        self._metrics.jobs.labels(status, error).inc()
        for stage, seconds in self._seconds.items():
            self._metrics.stage_seconds.labels(stage).observe(seconds)
        return True


class MeasuredStorage:
    """A `Storage` that counts bytes."""

    def __init__(self, storage: Storage, metrics: Metrics) -> None:
        self._storage, self._metrics = storage, metrics

    def download(self, key: str, folder: str | Path) -> str:
        """See `Storage.download`."""
        path = self._storage.download(key, folder)
        self._metrics.downloaded.inc(Path(path).stat().st_size)
        return path

    @contextmanager
    def open(self, key: str) -> Iterator[RangeFile]:
        """See `Storage.open`."""
        with self._storage.open(key) as file:
            try:
                yield file
            finally:
                self._metrics.downloaded.inc(file.fetched)

    def upload(self, file: str | Path | Content, subdir: str | None = None) -> Upload:
        """See `Storage.upload`."""
        upload = self._storage.upload(file, subdir)
        self._metrics.uploaded.inc(file.size if isinstance(file, Content) else Path(file).stat().st_size)
        return upload

    def deposit(self, path: str | Path) -> Upload:
        """See `Storage.deposit`."""
        return self._storage.deposit(path)

    def remove(self, keys: Iterable[str]) -> None:
        """See `Storage.remove`."""
        self._storage.remove(keys)

    def url(self, key: str) -> str:
        """See `Storage.url`."""
        return self._storage.url(key)

    def check(self) -> None:
        """See `Storage.check`."""
        self._storage.check()
