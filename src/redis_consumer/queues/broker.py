"""What the server of the queue in memory holds.  Everything happens under its one lock."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from redis_consumer.job import FINAL, Status
from redis_consumer.queues.admin import DeadLetter, Delivery
from redis_consumer.queues.base import Place, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from redis_consumer.errors import Failure
    from redis_consumer.job import Job
    from redis_consumer.queues.base import FieldValue

CHILDREN_SECONDS = 30.0
"""How often it is looked after children that somebody else ended."""


@dataclass
class Record:
    """What is known about a job beside its fields."""

    queue: str
    token: str = ""
    """Of the claim that holds the job; empty if none does."""
    lease_ends: float = 0.0
    due: float | None = None
    """When a parked job is looked at again."""
    claimed: float = 0.0
    since: float = 0.0
    pod: str = ""
    deliveries: int = 0
    history: list[Delivery] = field(default_factory=list)
    settled: str = ""
    """Token of the claim that made it final."""
    released: str = ""
    """Token of the claim that was given back last."""
    parent: str = ""
    children: list[str] = field(default_factory=list)
    open_children: set[str] = field(default_factory=set)
    """Those that are not known to be final: it is looked after those that somebody else ended."""
    complete: bool = False
    """Whether the children are all submitted."""


@dataclass
class MemoryBroker:
    """What the server holds.  Everything happens under one lock; `clock` gives seconds since 1970."""

    clock: Callable[[], float] = time.time
    jobs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Fields by key."""
    queues: defaultdict[str, deque[str]] = field(default_factory=lambda: defaultdict(deque))
    """Keys by queue: in on the left, out on the right."""
    records: dict[str, Record] = field(default_factory=dict)
    dead: dict[str, DeadLetter] = field(default_factory=dict)
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
            back = [key for key in late if self.is_open(key)]
            for key in late:
                self.records[key].token = ""
            for key in back:
                self.end_delivery(key, "the lease ran out")
                if not self.records[key].complete:
                    self.write(key, {"status": Status.NEW})
                self.push(key, Place.BACK)
            self.wake_due()
            return len(back)

    def write(self, key: str, fields: Mapping[str, str], pod: str = "") -> None:
        """Write fields, with the time and the pod if one did it."""
        by = {"updated_by": pod} if pod else {}
        self.jobs[key] |= {**fields, "updated_at": self.now(), **by}

    def end_delivery(self, key: str, how: str) -> None:
        """Note how the last claim ended, unless that is known."""
        claims = self.records[key].history
        if claims and not claims[-1].ended_at:
            claims[-1] = replace(claims[-1], ended_at=self.now(), how=how)

    def finish(self, key: str, status: str, fields: Mapping[str, str], pod: str, failure: Failure | None) -> None:
        """Make a job final; bury it, and wake its parent where it was the last child."""
        record = self.records[key]
        self.write(key, {**fields, "status": status}, pod)
        self.end_delivery(key, failure.error if failure else status)
        record.token, record.due = "", None
        if failure:
            kept = dict(self.jobs[key])
            self.dead[key] = DeadLetter(
                key,
                record.queue,
                self.now(),
                failure.error,
                kept["reason"],
                failure.traceback,
                (*record.history,),
                kept,
            )
        self.tell_parent(key)

    def revive(self, letter: DeadLetter, by: str) -> None:
        """Make a new job of a dead one, under its name."""
        known = self.jobs.setdefault(letter.key, {})
        self.jobs[letter.key] = {**letter.fields, **known}
        for name in ("reason", "progress", "identity_started"):
            self.jobs[letter.key].pop(name, None)
        name = self.records[letter.key].parent
        parent = self.records.get(name)
        waits = parent is not None and self.is_open(name) and letter.key in parent.children
        self.records[letter.key] = Record(letter.queue, parent=name if waits else "")
        if parent and waits:
            parent.open_children.add(letter.key)
        self.write(letter.key, {"status": Status.NEW}, by)
        self.push(letter.key, Place.BACK)

    def tell_parent(self, key: str) -> None:
        """Count the final children of a parent that waits; wake it after the last one."""
        name = self.records[key].parent
        parent = self.records.get(name)
        if parent is None or key not in parent.open_children:
            return
        parent.open_children.remove(key)
        if parent.due is None or not parent.complete or not self.is_open(name):
            return
        final = len(parent.children) - len(parent.open_children)
        share = int(self.jobs[name].get("children_share", 100))
        self.jobs[name]["progress"] = str(share * final // len(parent.children))
        if not parent.open_children:
            self.wake(name)

    def look_at_children(self, key: str) -> None:
        """Wake a parked job, unless it waits for children that are open."""
        record = self.records[key]
        record.open_children = set(filter(self.is_open, record.open_children))
        if record.complete and record.open_children:
            record.due = self.clock() + CHILDREN_SECONDS
        else:
            self.wake(key)

    def wake(self, key: str) -> None:
        """Put a parked job to the exit of its queue."""
        self.records[key].due = None
        self.push(key, Place.FRONT)

    def wake_due(self) -> None:
        """Wake the parked jobs whose time has come."""
        for key, record in self.records.items():
            if record.due is None or record.due > self.clock():
                continue
            if self.is_open(key):
                self.look_at_children(key)
            else:
                record.due = None

    def next_due(self) -> float:
        """Return the seconds until a parked job is due."""
        due = [record.due for record in self.records.values() if record.due is not None]
        return max(0.0, min(due) - self.clock()) if due else math.inf


def submit(broker: MemoryBroker, queue: str, name: str, fields: Mapping[str, FieldValue], host: str) -> str:
    """Write and push a new job while the lock is held; return its key."""
    key, now = f"{queue}:{name}", broker.now()
    defaults = {"status": str(Status.NEW), "created_at": now, "updated_at": now, "identity_upload": host}
    broker.jobs[key] = defaults | texts(fields)
    broker.records[key] = Record(queue)
    if broker.is_open(key):
        broker.push(key, Place.BACK)
    return key
