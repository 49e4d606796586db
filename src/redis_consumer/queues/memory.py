"""The job queue in memory: for tests, and the model that other implementations are compared with.

All lanes share a `MemoryBroker`, in one process.  It never fails, and a claim is one step: nothing stands between
the queue and a lane.
"""

from __future__ import annotations

import secrets
import uuid
from itertools import islice
from typing import TYPE_CHECKING

from redis_consumer import __version__
from redis_consumer.errors import Failure, LeaseLost
from redis_consumer.job import FINAL, Job, Status
from redis_consumer.queues.admin import Delivery
from redis_consumer.queues.base import ENDINGS, NO_FAILURE, Place, texts
from redis_consumer.queues.broker import CHILDREN_SECONDS, MemoryBroker, Record, submit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from redis_consumer.queues.base import Child, FieldValue

__all__ = ["MemoryBroker", "MemoryJobQueue", "MemorySubmitter"]


class MemoryJobQueue:
    """One lane on one queue of a broker."""

    def __init__(
        self,
        broker: MemoryBroker,
        *,
        queue: str,
        pod: str = "pod",
        lease_seconds: float = 30.0,
        max_deliveries: int = 5,
    ) -> None:
        self._broker, self._queue, self._pod = broker, queue, pod
        self._lease_seconds, self._max_deliveries = lease_seconds, max_deliveries
        self._kept: dict[str, str] = {}
        self._woken = self._closed = False

    def claim(self, *, timeout: float) -> Job | None:
        """See `JobQueue.claim`."""
        job: Job | None = None

        def ready() -> bool:
            nonlocal job
            job = self._take()
            return bool(job or self._woken or self._closed)

        with self._broker.changed:
            self._broker.changed.wait_for(ready, min(timeout, self._broker.next_due()))
            self._woken = False
        return job

    def update(self, job: Job, fields: Mapping[str, FieldValue]) -> None:
        """See `JobQueue.update`."""
        written = texts(fields)
        if written.get("status") in FINAL:
            self._kept |= written
            return
        with self._broker.changed:
            self._demand(job)
            if "status" in written:
                self._broker.records[job.key].since = self._broker.clock()
            self._broker.write(job.key, written, self._pod)

    def announce(self, job: Job, fields: Mapping[str, FieldValue]) -> None:
        """See `JobQueue.announce`: here it is an update."""
        self.update(job, fields)

    def settle(self, job: Job, status: str, fields: Mapping[str, FieldValue], failure: Failure | None = None) -> None:
        """See `JobQueue.settle`."""
        with self._broker.changed:
            record = self._broker.records[job.key]
            if record.settled == job.token:
                return
            self._demand(job)
            self._finish(job.key, status, texts(fields) | self._kept, failure or NO_FAILURE)
            record.settled = job.token

    def release(self, job: Job, to: Place, *, seconds: float = 0.0, failure: Failure | None = None) -> Status:
        """See `JobQueue.release`."""
        with self._broker.changed:
            record = self._broker.records[job.key]
            if record.released == job.token:
                return Status.FAILED if record.settled == job.token else Status.NEW
            self._demand(job)
            record.released = job.token
            how = failure.reason if failure else ENDINGS.get(to, "the job was not finished")
            counts = to in {Place.BACK, Place.LATER}
            if counts and record.deliveries >= self._max_deliveries:
                record.settled = job.token
                reason = f"{how} (given up after {record.deliveries} deliveries)"
                self._finish(job.key, Status.FAILED, {"reason": reason}, failure or NO_FAILURE)
                return Status.FAILED
            record.token = ""
            record.deliveries -= not counts
            self._broker.end_delivery(job.key, how)
            self._broker.write(job.key, {} if to is Place.WAITING else {"status": Status.NEW}, self._pod)
            self._put(job.key, record, to, seconds)
        return Status.NEW

    def _put(self, key: str, record: Record, to: Place, seconds: float) -> None:
        waits = to is Place.WAITING and record.complete
        if waits and not record.open_children:
            to = Place.FRONT
        if to in {Place.FRONT, Place.BACK}:
            self._broker.push(key, to)
        else:
            record.due = self._broker.clock() + (CHILDREN_SECONDS if waits else seconds)

    def submit_children(self, parent: Job, children: Iterable[Child]) -> list[str]:
        """See `JobQueue.submit_children`."""
        record = self._broker.records[parent.key]
        for child in islice(children, len(record.children), None):
            with self._broker.changed:
                self._demand(parent)
                key = submit(self._broker, child.queue, f"{child.name}:{uuid.uuid4().hex}", child.fields, self._pod)
                self._broker.records[key].parent = parent.key
                record.children.append(key)
                if self._broker.is_open(key):
                    record.open_children.add(key)
        with self._broker.changed:
            self._demand(parent)
            record.complete = True
        return list(record.children)

    def children(self, parent: Job) -> Iterator[tuple[str, dict[str, str]]]:
        """See `JobQueue.children`."""
        for key in self._broker.records[parent.key].children:
            with self._broker.changed:
                fields = dict(self._broker.jobs.get(key, {}))
            yield key, fields

    def heartbeat(self, job: Job) -> None:
        """See `JobQueue.heartbeat`."""
        with self._broker.changed:
            self._demand(job)
            self._broker.records[job.key].lease_ends = self._broker.clock() + self._lease_seconds
            self._broker.write(job.key, {}, self._pod)

    def wake(self) -> None:
        """See `JobQueue.wake`."""
        with self._broker.changed:
            self._woken = True
            self._broker.changed.notify_all()

    def close(self) -> None:
        """See `JobQueue.close`."""
        with self._broker.changed:
            self._closed = True
            self._broker.changed.notify_all()

    def _take(self) -> Job | None:
        self._broker.wake_due()
        entries = self._broker.queues[self._queue]
        while entries and not (self._woken or self._closed):
            if job := self._claim(entries.pop()):
                return job
        return None

    def _claim(self, key: str) -> Job | None:
        broker = self._broker
        record = broker.records.setdefault(key, Record(self._queue))
        alive = record.token and record.lease_ends > broker.clock()
        if alive or record.due is not None or not broker.is_open(key):
            return None
        if record.deliveries >= self._max_deliveries:
            self._give_up(key, record)
            return None
        record.queue, record.token, record.pod = self._queue, secrets.token_hex(16), self._pod
        record.claimed = record.since = broker.clock()
        record.lease_ends = record.claimed + self._lease_seconds
        record.deliveries += 1
        record.history.append(Delivery(broker.now(), self._pod, __version__))
        self._kept = {}
        goes_on = record.complete and broker.jobs[key].get("status") != Status.NEW
        started = {} if goes_on else {"status": Status.STARTED, "identity_started": self._pod}
        broker.write(key, started, self._pod)
        return Job(key, self._queue, dict(broker.jobs[key]), record.token, record.deliveries)

    def _give_up(self, key: str, record: Record) -> None:
        last = self._broker.jobs[key].get("status", "")
        how = (record.history[-1].how if record.history else "") or "no word"
        reason = (
            f"Given up after {record.deliveries} deliveries; the last status was '{last}', "
            f"the last one ended with: {how}"
        )
        self._finish(key, Status.FAILED, {"reason": reason}, Failure("TooManyDeliveries", reason))

    def _finish(self, key: str, status: str, fields: dict[str, str], failure: Failure) -> None:
        broker = self._broker
        known = broker.jobs[key] | fields
        if status == Status.DONE:
            total = f"{broker.clock() - broker.records[key].claimed:.3f}"
            defaults = {"finished_at": broker.now(), "total_time": total, "total_jobs": "1"}
            fields = {name: text for name, text in defaults.items() if name not in known} | fields
            broker.finish(key, status, fields, self._pod, None)
        else:
            reason = known.get("reason", "").rstrip(" \t\n\v\f\r") or NO_FAILURE.reason
            broker.finish(key, status, fields | {"reason": reason}, self._pod, failure)

    def _demand(self, job: Job) -> None:
        if not self._broker.held(job):
            raise LeaseLost(f"Job {job.key} is final, gone, or somebody else's")


class MemorySubmitter:
    """The way in."""

    def __init__(self, broker: MemoryBroker, *, host: str = "host") -> None:
        self._broker, self._host = broker, host

    def submit(self, queue: str, name: str, fields: Mapping[str, FieldValue]) -> str:
        """See `Submitter.submit`."""
        with self._broker.changed:
            return submit(self._broker, queue, f"{name}:{uuid.uuid4()}", fields, self._host)

    def read(self, key: str) -> dict[str, str]:
        """See `Submitter.read`."""
        with self._broker.changed:
            return dict(self._broker.jobs.get(key, {}))
