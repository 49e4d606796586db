"""Policy around a handler and beside the lanes, each part knowing one thing.

`Handle` does a job and returns its status.  A `Middleware` gets the next `Handle` and the job, and returns a status.
A companion is a thread beside the lanes.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Protocol

from redis_consumer.errors import ConsumerError, LeaseLost
from redis_consumer.worker import STILL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_consumer.job import Job
    from redis_consumer.queues.base import JobQueue
    from redis_consumer.storage.base import Storage

    Handle = Callable[[Job], str]
    Middleware = Callable[[Handle, Job], str]

log = logging.getLogger(__name__)

LONGEST_BEAT_SECONDS = 5.0
"""The janitor protects a job whose `updated_at` is younger than 15 s; three beats fit in."""


class Observer(Protocol):
    """Counts what happens, by standing around the ports: nobody has to tell it."""

    def lane(self, queue: JobQueue) -> tuple[JobQueue, Middleware]:
        """Return the lane's queue to use instead, and the middleware that belongs to it; the outermost one."""

    def storage(self, storage: Storage) -> Storage:
        """Return the storage to use instead."""

    def sweep(self, sweep: Callable[[], int]) -> Callable[[], int]:
        """Return the sweep to use instead."""

    def refused(self, error: ConsumerError) -> None:
        """Hear that the model server is asked again after this error."""


class NoObserver:
    """Counts nothing, and costs nothing."""

    def lane(self, queue: JobQueue) -> tuple[JobQueue, Middleware]:
        """See `Observer.lane`."""
        return queue, lambda handle, job: handle(job)

    def storage(self, storage: Storage) -> Storage:
        """See `Observer.storage`."""
        return storage

    def sweep(self, sweep: Callable[[], int]) -> Callable[[], int]:
        """See `Observer.sweep`."""
        return sweep

    def refused(self, error: ConsumerError) -> None:
        """See `Observer.refused`."""


def wrapped(handle: Handle, *middlewares: Middleware) -> Handle:
    """Return `handle` inside the middlewares, the first one outermost."""
    for middleware in reversed(middlewares):
        handle = _bound(middleware, handle)
    return handle


def _bound(middleware: Middleware, handle: Handle) -> Handle:
    return lambda job: middleware(handle, job)


class Every:
    """A companion: calls `action` every `seconds`, in a thread of its own that no error ends."""

    def __init__(self, seconds: float, action: Callable[[], object], name: str) -> None:
        self._seconds = seconds
        self._action = action
        self._name = name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._turned_at = time.monotonic()

    def start(self) -> None:
        """Begin, with a pause first."""
        self.turn()
        self._thread.start()

    def turn(self) -> None:
        """Say that the thread moves; an action of many steps says so after each."""
        self._turned_at = time.monotonic()

    def fault(self) -> str:
        """Return what is wrong with the thread, or nothing."""
        still = time.monotonic() - self._turned_at
        return f"has not moved for {still:.0f} s" if still > self._seconds + STILL_SECONDS else ""

    def stop(self) -> None:
        """End the thread; waits a moment for a call that is under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(LONGEST_BEAT_SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.turn()
            try:
                self._action()
            except ConsumerError as error:
                log.warning("No %s this time: %s", self._name, error)
            except Exception:
                # It must go on: without it leases run out, or nobody brings jobs back.
                log.exception("The %s stumbled", self._name)


class Once:
    """A companion: calls `action` a single time, in a thread of its own, while the lanes claim already."""

    def __init__(self, action: Callable[[], object], name: str) -> None:
        self._action = action
        self._name = name
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Leave it alone: what it prepares is of no use any more, and the process ends around it."""

    def _run(self) -> None:
        try:
            self._action()
        except Exception:
            # The first job meets the same error, and can tell it to somebody.
            log.exception("The %s stumbled", self._name)


class Heartbeat(Every):
    """Renews the leases of all jobs in hand, in a thread that does nothing else.

    A lane may hold the interpreter for a while or wait for a server for minutes: its lease stays.  A lease that
    was lost is not taken again; what the lane waits for may ask `lost`, and the lane learns of it at its next write.
    """

    def __init__(self, lease_seconds: float) -> None:
        super().__init__(min(lease_seconds / 6, LONGEST_BEAT_SECONDS), self.beat, "heartbeat")
        self._held: dict[str, tuple[JobQueue, Job]] = {}
        self._lost: set[JobQueue] = set()
        self._lock = threading.Lock()

    def around(self, queue: JobQueue) -> Middleware:
        """Return the middleware for the lane that `queue` belongs to."""

        def beating(handle: Handle, job: Job) -> str:
            with self._lock:
                self._held[job.token] = (queue, job)
                self._lost.discard(queue)
            try:
                return handle(job)
            finally:
                self._drop(job)

        return beating

    def lost(self, queue: JobQueue) -> bool:
        """Whether the job that this lane works on turned out to be no longer ours."""
        return queue in self._lost

    def stop(self) -> None:
        """End the thread.  Leases end with it: jobs still in hand are lost, and what they wait for is given up."""
        with self._lock:
            self._lost.update(queue for queue, _ in self._held.values())
        super().stop()

    def beat(self) -> None:
        """Renew every lease once; one that cannot be renewed is no obstacle for the others."""
        with self._lock:
            held = list(self._held.values())
        for queue, job in held:
            self.turn()
            try:
                queue.heartbeat(job)
            except LeaseLost as error:
                with self._lock:
                    if self._held.pop(job.token, None) is None:
                        continue  # the lane has ended it meanwhile
                    self._lost.add(queue)
                log.warning("The lease of job %s is lost: %s", job.key, error)
            except ConsumerError as error:
                log.warning("No heartbeat for job %s this time: %s", job.key, error)

    def _drop(self, job: Job) -> None:
        with self._lock:
            self._held.pop(job.token, None)
