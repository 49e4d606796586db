"""The composition root: the only file that knows which adapters are used."""

from __future__ import annotations

import logging
import secrets
import sys
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import grpc

from redis_consumer.client import Client
from redis_consumer.consumers import CONSUMERS, Tools
from redis_consumer.consumers.plugins import find_consumer
from redis_consumer.consumers.work import TIME_FIELDS
from redis_consumer.errors import (
    AccessDenied,
    ConsumerError,
    JobRejected,
    LeaseLost,
    PredictionFailed,
    ServerNotReady,
    SettingsError,
    StorageUnavailable,
)
from redis_consumer.limits import MemoryLimit, SpareMemory, TimeLimit
from redis_consumer.middleware import Every, Heartbeat, NoObserver, Once, wrapped
from redis_consumer.models.batching import BatchLimits
from redis_consumer.models.patience import PatientModelServer
from redis_consumer.models.slots import LEAST, SharingModelServer, Slots
from redis_consumer.models.stops import Stops
from redis_consumer.models.tf_serving import TensorFlowServing
from redis_consumer.queues.depth import queue_depth
from redis_consumer.queues.redis import RedisJobQueue, RedisSubmitter
from redis_consumer.queues.redis_admin import RedisJobAdmin
from redis_consumer.queues.sweeper import RedisSweeper
from redis_consumer.redis import RedisClient
from redis_consumer.results.extras import check_packages
from redis_consumer.storage.clients import StorageOptions
from redis_consumer.storage.object_store import ObjectStorage, open_storage
from redis_consumer.wire import serving_pb2 as pb
from redis_consumer.worker import STILL_SECONDS, Lane, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis_consumer.consumers import Consumer
    from redis_consumer.health import Health
    from redis_consumer.job import ModelId
    from redis_consumer.metrics import Metrics
    from redis_consumer.middleware import Observer
    from redis_consumer.queues.admin import JobAdmin
    from redis_consumer.settings import Settings
    from redis_consumer.worker import Companion

log = logging.getLogger(__name__)

SHORTEST_BACKOFF_SECONDS = 0.1
"""GRPC_BACKOFF=0 would ask a cold server without a pause."""


@dataclass(frozen=True)
class Shared:
    """What the lanes of one worker have in common."""

    settings: Settings
    consumer_type: type[Consumer]
    redis: RedisClient
    storage: ObjectStorage
    server: TensorFlowServing
    observer: Observer
    heartbeat: Heartbeat
    time_limit: TimeLimit
    spare_memory: SpareMemory
    stopping: threading.Event
    slots: Slots
    limits: BatchLimits = field(default_factory=BatchLimits)
    process: str = field(default_factory=partial(secrets.token_hex, 4))
    """Makes the names of its lanes unlike those of any other process."""


def build_worker(settings: Settings) -> Worker:
    """Return a worker that is ready to run.

    SettingsError for whatever is wrong before the first job, MissingExtra where a setting needs another package.
    """
    consumer_type = find_consumer(settings.consumer_type, CONSUMERS)
    check_packages(settings.extra_outputs)
    storage = build_storage(settings)
    check_storage(storage)
    redis = build_redis(settings)
    stopping = threading.Event()
    server = build_model_server(settings)
    slots = Slots(max(settings.concurrency, LEAST))
    metrics = build_metrics(at_source(settings), redis) if settings.health_port else None
    observer: Observer = metrics or NoObserver()
    heartbeat = Heartbeat(settings.lease_seconds)
    time_limit = TimeLimit(settings.max_job_seconds, lambda error: worker.stop(because=error))
    spare_memory = SpareMemory()
    policy = observer, heartbeat, time_limit, spare_memory
    shared = Shared(settings, consumer_type, redis, storage, server, *policy, stopping, slots)
    lanes = [build_lane(shared, number) for number in range(settings.concurrency)]
    sweeper = RedisSweeper(redis, lease_seconds=settings.lease_seconds)
    sweeping = Every(settings.lease_seconds / 2, observer.sweep(sweeper.sweep), "sweep")
    warming_up = Once(consumer_type.warm_up, "warm-up")
    companions: list[Companion] = [heartbeat, sweeping, warming_up, time_limit, spare_memory]
    if metrics:
        metrics.watch_slots(lambda: slots.allowed)
        live = liveness(lanes, heartbeat, time_limit, stopping, settings.drain_seconds)
        needed = server if consumer_type.needs_model_server else None
        checks = readiness(redis, storage, needed, settings.nuclear_model)
        companions.append(build_health(settings, live, checks, metrics))
    worker = Worker(
        lanes,
        companions=companions,
        drain_seconds=settings.drain_seconds,
        stopping=stopping,
        worn_out=MemoryLimit(settings.max_rss_mb),
    )
    return worker


def at_source(settings: Settings) -> Settings:
    """Return the settings with the queue that this consumer type takes jobs from, for the one that was named."""
    return replace(settings, queue=find_consumer(settings.consumer_type, CONSUMERS).source_of(settings.queue))


def build_lane(shared: Shared, number: int) -> Lane:
    """Return one lane, with a queue view, a consumer and patience of its own."""
    settings = shared.settings
    queue, observed = shared.observer.lane(build_queue(at_source(settings), shared.redis, f"{shared.process}-{number}"))
    retries: deque[str] = deque()

    def refused(error: ConsumerError) -> None:
        retries.append(str(error))
        if isinstance(error, ServerNotReady):
            shared.time_limit.restart(queue)
        shared.observer.refused(error)

    def drop() -> LeaseLost | None:
        return LeaseLost("What was asked of the model server is given up") if shared.heartbeat.lost(queue) else None

    def drain() -> ServerNotReady | None:
        stopping = shared.stopping.is_set()
        return ServerNotReady("The worker stopped while it waited for the model server") if stopping else None

    restart = partial(shared.time_limit.restart, queue)
    models = build_lane_server(shared, Stops(drop=drop, drain=drain), on_retry=refused, on_wait=restart)
    storage = shared.observer.storage(shared.storage)
    consumer = shared.consumer_type(shared.redis, storage, settings.queue, name=settings.hostname)
    served = partial(served_version, shared.server)
    consumer.equip(Tools(queue, models, settings, shared.limits, retries, served))
    around = observed, shared.heartbeat.around(queue), shared.time_limit.around(queue), shared.spare_memory.watched
    return Lane(queue, wrapped(consumer.handle, *around))


def build_lane_server(
    shared: Shared, stops: Stops, *, on_retry: Callable[[ConsumerError], None], on_wait: Callable[[], object]
) -> PatientModelServer:
    """Return the model server as one lane sees it: `stops` end its calls, its waits for a slot and its pauses."""
    settings = shared.settings
    server = shared.server.stopped_by(stops.drop)
    return PatientModelServer(
        SharingModelServer(server, shared.slots, stop=stops.waiting, on_wait=on_wait),
        wait_seconds=settings.model_wait,
        max_retry=settings.max_retry if settings.max_retry > 0 else sys.maxsize,
        max_pause_seconds=max(settings.grpc_backoff, SHORTEST_BACKOFF_SECONDS),
        stop=stops.waiting,
        on_retry=on_retry,
    )


def build_metrics(settings: Settings, redis: RedisClient) -> Metrics:
    """Return what counts for Prometheus; its library is loaded where somebody may ask."""
    from redis_consumer.health import Question
    from redis_consumer.metrics import Metrics

    stages = {field: str(stage) for stage, field in TIME_FIELDS.items()}
    metrics = Metrics(queue=settings.queue, consumer_type=settings.consumer_type, stages=stages)
    metrics.watch_queue(settings.queue, Question(partial(queue_depth, redis, settings.queue)).answer)
    return metrics


def build_health(
    settings: Settings,
    live: Mapping[str, Callable[[], str]],
    checks: Mapping[str, Callable[[], object]],
    metrics: Metrics,
) -> Health:
    """Return the companion that answers probes."""
    from redis_consumer.health import Health, Question

    ready = {name: Question(partial(fault_of, name, check)) for name, check in checks.items()}
    return Health(settings.health_port, live=live, ready=ready, metrics=metrics.render)


def liveness(
    lanes: Sequence[Lane],
    heartbeat: Heartbeat,
    time_limit: TimeLimit,
    stopping: threading.Event,
    drain_seconds: float,
) -> dict[str, Callable[[], str]]:
    """Return what must move in this process.  Lanes that a drain has ended need not."""

    def unless_stopping(lane: Lane) -> str:
        return "" if stopping.is_set() else lane.fault()

    return {
        **{f"lane-{number}": partial(unless_stopping, lane) for number, lane in enumerate(lanes)},
        "heartbeat": heartbeat.fault,
        "time-limit": time_limit.fault,
        "jobs": partial(time_limit.stuck, drain_seconds + STILL_SECONDS),
    }


def readiness(
    redis: RedisClient, storage: ObjectStorage, server: TensorFlowServing | None, model: ModelId
) -> dict[str, Callable[[], object]]:
    """Return what must answer before jobs can be done."""
    checks: dict[str, Callable[[], object]] = {"redis": partial(ping, redis), "storage": storage.check}
    if server:
        checks["model-server"] = partial(check_model_server, server, model)
    return checks


def ping(redis: RedisClient) -> None:
    """Ask Redis once."""
    with redis.translated() as master:
        master.ping()


def check_model_server(server: TensorFlowServing, model: ModelId) -> None:
    """Ask whether the model server answers; what it serves is the jobs' business."""
    try:
        server.states(model)
    except AccessDenied:
        raise
    except JobRejected:
        return
    except PredictionFailed as error:
        if "(UNIMPLEMENTED)" not in str(error):  # not every server that predicts can tell its states
            raise


def served_version(server: TensorFlowServing, model: ModelId) -> int | None:
    """Return the version that answers for `model` now; None where the server does not tell.

    Without a version it is the highest one that is available: TensorFlow Serving's own rule.
    """
    if model.version is not None:
        return model.version
    try:
        states = server.states(model)
    except PredictionFailed as error:
        if "(UNIMPLEMENTED)" not in str(error):
            raise
        return None
    available = pb.ModelVersionStatus.AVAILABLE
    return max((version for version, status in states.items() if status.state == available), default=None)


def fault_of(name: str, check: Callable[[], object]) -> str:
    """Return what is wrong, without names, paths and secrets: everybody in the cluster may ask.  The log says more."""
    try:
        check()
    except ConsumerError as error:
        log.warning("Not ready, %s: %s", name, error)
        refused = isinstance(error, SettingsError | AccessDenied)
        return "refuses us, or is not as the settings say" if refused else "does not answer"
    return ""


def build_queue(settings: Settings, redis: RedisClient, lane: str) -> RedisJobQueue:
    """Return one lane's view of the queue."""
    return RedisJobQueue(
        redis,
        queue=settings.queue,
        lane=lane,
        pod=settings.hostname,
        lease_seconds=settings.lease_seconds,
        max_deliveries=settings.max_deliveries,
        wait_replicas=settings.redis_wait_replicas,
    )


def build_client(settings: Settings) -> Client:
    """Return a client that submits jobs where `build_worker` takes them."""
    submitter = RedisSubmitter(
        build_redis(settings), host=settings.hostname, wait_replicas=settings.redis_wait_replicas
    )
    return Client(submitter, build_storage(settings))


def build_admin(settings: Settings) -> JobAdmin:
    """Return what operates the queues of this Redis."""
    return RedisJobAdmin(build_redis(settings), known=[settings.queue])


def build_sweeper(settings: Settings) -> RedisSweeper:
    """Return what brings back the jobs of dead lanes."""
    return RedisSweeper(build_redis(settings), lease_seconds=settings.lease_seconds)


def build_redis(settings: Settings) -> RedisClient:
    """Return a connection to the Redis of the settings; nothing is sent yet."""
    return RedisClient(
        settings.redis_host,
        settings.redis_port,
        backoff=settings.redis_timeout,
        username=settings.redis_username,
        password=settings.redis_password,
        tls=settings.redis_tls,
        ca_certs=settings.redis_ca_certs,
    )


def build_storage(settings: Settings) -> ObjectStorage:
    """Return the bucket of the settings; nothing is sent yet."""
    options = StorageOptions(
        # Public results are a thing of gs:// alone, where the Kiosk's web page needs them.
        acl="private" if settings.output_acl == "private" else "",
        urls=settings.output_urls,
        endpoint=settings.aws_endpoint_url if settings.storage_bucket.startswith("s3://") else "",
        region=settings.aws_region,
        access_key_id=settings.aws_access_key_id,
        secret_access_key=settings.aws_secret_access_key,
        max_backoff=settings.storage_max_backoff,
    )
    return open_storage(settings.storage_bucket, options)


def check_storage(storage: ObjectStorage) -> None:
    """Refuse to start on a bucket that cannot work; one that merely does not answer may come back."""
    try:
        storage.check()
    except StorageUnavailable as error:
        log.warning("The start goes on without the storage: %s", error)
    if storage.public_results:
        log.warning("Results in %s can be read by everybody who has the link; OUTPUT_ACL=private ends it", storage)


def build_model_server(settings: Settings) -> TensorFlowServing:
    """Return the model server of the settings; nothing is sent yet."""
    credentials = None
    if settings.tf_tls:
        roots = settings.tf_ca_certs.read_bytes() if settings.tf_ca_certs else None
        credentials = grpc.ssl_channel_credentials(roots)
    host = f"[{settings.tf_host}]" if ":" in settings.tf_host else settings.tf_host
    return TensorFlowServing(
        f"{host}:{settings.tf_port}",
        credentials=credentials,
        timeout_seconds=settings.grpc_timeout,
        describe_seconds=settings.metadata_expire_time,
    )
