"""The job queue in memory: for tests, and the model that other implementations are compared with.

All lanes share a `MemoryBroker`, in one process.  It never fails, and a claim is one step: nothing stands between
the queue and a lane.
"""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections import defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from redis_consumer.errors import LeaseLost
from redis_consumer.job import FINAL, Job, Status
from redis_consumer.queues.base import Place, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from redis_consumer.queues.base import FieldValue


@dataclass
class Record:
    """What is known about a job beside its fields."""

    queue: str
    token: str = ""
    """Of the claim that holds the job; empty if none does."""
    lease_ends: float = 0.0
    claimed: float = 0.0
    deliveries: int = 0
    settled: str = ""
    """Token of the claim that made it final."""
    released: str = ""
    """Token of the claim that was given back last."""


@dataclass
class MemoryBroker:
    """What the server holds.  Everything happens under one lock; `clock` gives seconds since 1970."""

    clock: Callable[[], float] = time.time
    jobs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Fields by key."""
    queues: defaultdict[str, deque[str]] = field(default_factory=lambda: defaultdict(deque))
    """Keys by queue: in on the left, out on the right."""
    records: dict[str, Record] = field(default_factory=dict)
    dead: dict[str, dict[str, str]] = field(default_factory=dict)
    """The fields of failed jobs."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def now(self) -> str:
        """Return the time as it stands in `updated_at`."""
        return datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="microseconds")

    def is_open(self, key: str) -> bool:
        """Whether the job exists and is not final."""
        return key in self.jobs and self.jobs[key].get("status") not in FINAL

    def held(self, job: Job) -> bool:
        """Whether the claim that `job` came from still holds it; a lease that ran out is no obstacle."""
        return self.is_open(job.key) and self.records[job.key].token == job.token

    def push(self, key: str, place: Place) -> None:
        """Put an entry into the job's queue and wake who waits for one."""
        entries = self.queues[self.records[key].queue]
        (entries.append if place is Place.FRONT else entries.appendleft)(key)
        self.changed.notify_all()

    def sweep(self) -> int:
        """See `Sweeper.sweep`."""
        with self.changed:
            late = [key for key, record in self.records.items() if record.token and record.lease_ends <= self.clock()]
            for key in late:
                self.records[key].token = ""
                if self.is_open(key):
                    self.push(key, Place.BACK)
            return sum(map(self.is_open, late))


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
            self._broker.changed.wait_for(ready, timeout)
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
            self._write(job.key, written)

    def settle(self, job: Job, status: str, fields: Mapping[str, FieldValue]) -> None:
        """See `JobQueue.settle`."""
        with self._broker.changed:
            record = self._broker.records[job.key]
            if record.settled == job.token:
                return
            self._demand(job)
            self._finish(job.key, status, texts(fields) | self._kept)
            record.settled = job.token

    def release(self, job: Job, to: Place) -> None:
        """See `JobQueue.release`."""
        with self._broker.changed:
            record = self._broker.records[job.key]
            if record.released == job.token:
                return
            self._demand(job)
            record.token, record.released = "", job.token
            record.deliveries -= to is Place.FRONT
            self._write(job.key, {"status": Status.NEW})
            self._broker.push(job.key, to)

    def heartbeat(self, job: Job) -> None:
        """See `JobQueue.heartbeat`."""
        with self._broker.changed:
            self._demand(job)
            self._broker.records[job.key].lease_ends = self._broker.clock() + self._lease_seconds
            self._write(job.key, {})

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
        entries = self._broker.queues[self._queue]
        while entries and not (self._woken or self._closed):
            if job := self._claim(entries.pop()):
                return job
        return None

    def _claim(self, key: str) -> Job | None:
        broker = self._broker
        record = broker.records.setdefault(key, Record(self._queue))
        alive = record.token and record.lease_ends > broker.clock()
        if alive or not broker.is_open(key):
            return None
        if record.deliveries >= self._max_deliveries:
            last = broker.jobs[key].get("status", "")
            reason = f"Given up after {record.deliveries} deliveries; the last status was '{last}'"
            self._finish(key, Status.FAILED, {"reason": reason})
            return None
        record.queue, record.token, record.claimed = self._queue, secrets.token_hex(16), broker.clock()
        record.lease_ends = record.claimed + self._lease_seconds
        record.deliveries += 1
        self._kept = {}
        self._write(key, {"status": Status.STARTED, "identity_started": self._pod})
        return Job(key, self._queue, dict(broker.jobs[key]), record.token, record.deliveries)

    def _finish(self, key: str, status: str, fields: dict[str, str]) -> None:
        record = self._broker.records[key]
        known = self._broker.jobs[key] | fields
        if status == Status.DONE:
            total = f"{self._broker.clock() - record.claimed:.3f}"
            defaults = {"finished_at": self._broker.now(), "total_time": total, "total_jobs": "1"}
            fields = {name: text for name, text in defaults.items() if name not in known} | fields
        else:
            fields = fields | {"reason": known.get("reason", "").rstrip() or "The consumer gave no reason"}
        self._write(key, fields | {"status": status})
        record.token = ""
        if status == Status.FAILED:
            self._broker.dead[key] = dict(self._broker.jobs[key])

    def _write(self, key: str, fields: Mapping[str, str]) -> None:
        self._broker.jobs[key] |= {**fields, "updated_at": self._broker.now(), "updated_by": self._pod}

    def _demand(self, job: Job) -> None:
        if not self._broker.held(job):
            raise LeaseLost(f"Job {job.key} is final, gone, or somebody else's")


class MemorySubmitter:
    """The way in."""

    def __init__(self, broker: MemoryBroker, *, host: str = "host") -> None:
        self._broker, self._host = broker, host

    def submit(self, queue: str, name: str, fields: Mapping[str, FieldValue]) -> str:
        """See `Submitter.submit`."""
        key = f"{queue}:{name}:{uuid.uuid4()}"
        now = self._broker.now()
        defaults = {"status": Status.NEW, "created_at": now, "updated_at": now, "identity_upload": self._host}
        with self._broker.changed:
            self._broker.jobs[key] = {name: str(text) for name, text in defaults.items()} | texts(fields)
            self._broker.records[key] = Record(queue)
            self._broker.push(key, Place.BACK)
        return key

    def read(self, key: str) -> dict[str, str]:
        """See `Submitter.read`."""
        with self._broker.changed:
            return dict(self._broker.jobs.get(key, {}))
