"""How long a job may take, and how large a worker may grow.  Knows no images, files, models or Redis.

Python ends no thread from outside.  So a job that takes too long is taken away from its lane: it is made `failed`,
and since that voids its token, the lane can write nothing more.  If the lane then comes back, it goes on with the
next job; if it does not, the worker ends, and its supervisor starts a new one.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from redis_consumer.errors import ConsumerError, LeaseLost, SettingsError
from redis_consumer.job import Status
from redis_consumer.middleware import Every

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_consumer.job import Job
    from redis_consumer.middleware import Handle, Middleware
    from redis_consumer.queues.base import JobQueue

log = logging.getLogger(__name__)

SHORTEST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.1, 10.0
"""Between two looks at the clock: a tenth of the limit, within these."""
GRACE_SECONDS = 60.0
"""How long a lane has to come back from a job that was taken away.  A prediction under way ends by GRPC_TIMEOUT."""
MEGABYTE = 10**6
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""The numbers of malloc.h."""
ARRAY_BYTES, SPARE_BYTES = 32 * 2**20, 128 * 2**20
REST_SECONDS = 10.0
"""Without a job for so long, a worker does not keep memory for the next one."""


@dataclass
class Held:
    """A job in hand, and since when."""

    job: Job
    since: float
    taken_at: float | None = None
    """When it was taken away from its lane."""
    written: bool = False
    """Whether Redis knows."""


class TimeLimit(Every):
    """Fails each job that takes longer than `seconds`; 0 is no limit.

    The clock starts anew whenever the model server refuses work: a cold server has a time limit of its own.
    `on_stuck` is told once that a lane did not come back within `grace_seconds`, or the limit if that is shorter.
    """

    def __init__(
        self,
        seconds: float,
        on_stuck: Callable[[ConsumerError], None],
        *,
        grace_seconds: float = GRACE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        look_seconds = min(max(seconds / 10, SHORTEST_LOOK_SECONDS), LONGEST_LOOK_SECONDS)
        super().__init__(look_seconds, self.look, "time limit")
        self._limit, self._grace, self._clock = seconds, min(seconds, grace_seconds), clock
        self._on_stuck = on_stuck
        self._told = False
        self._held: dict[JobQueue, Held] = {}
        self._lock = threading.Lock()

    def around(self, queue: JobQueue) -> Middleware:
        """Return the middleware for the lane that `queue` belongs to."""

        def limited(handle: Handle, job: Job) -> str:
            held = Held(job, self._clock())
            with self._lock:
                self._held[queue] = held
            try:
                status = handle(job)
            finally:
                with self._lock:
                    del self._held[queue]
            if held.taken_at is not None:
                raise LeaseLost(self._reason())
            return status

        return limited

    def restart(self, queue: JobQueue) -> None:
        """Start the clock of this lane's job anew, unless its time is over."""
        with self._lock:
            if (held := self._held.get(queue)) and held.taken_at is None:
                held.since = self._clock()

    def look(self) -> None:
        """Take away what is too late; tell of a lane that does not come back."""
        for queue, held in self._late():
            if not held.written:
                try:
                    self._take_away(queue, held)
                except Exception as error:  # noqa: BLE001 - the other lanes must be looked at, and this one again
                    log.warning("Job %s could not be taken away this time: %s", held.job.key, error)
            if not self._told and self._overdue(held) > self._grace:
                self._told = True
                self._on_stuck(ConsumerError(f"A lane does not come back from job {held.job.key}: the worker ends"))

    def stuck(self, seconds: float) -> str:
        """Return what is wrong if a lane is not back `seconds` after `on_stuck` should have ended the process."""
        with self._lock:
            late = [held for held in self._held.values() if self._overdue(held) > self._grace + seconds]
        return f"{len(late)} jobs do not end" if late else ""

    def _late(self) -> list[tuple[JobQueue, Held]]:
        """Return the jobs whose time is over, and mark them: from here on their handlers' word counts no more."""
        now = self._clock()
        with self._lock:
            late = [(queue, held) for queue, held in self._held.items() if self._limit and now > self._ends(held)]
            for _, held in late:
                held.taken_at = now if held.taken_at is None else held.taken_at
        return late

    def _take_away(self, queue: JobQueue, held: Held) -> None:
        log.warning("Job %s is taken away from its lane: %s", held.job.key, self._reason())
        try:
            queue.settle(held.job, Status.FAILED, {"reason": self._reason()})
        except LeaseLost as error:
            log.warning("%s", error)
        held.written = True

    def _ends(self, held: Held) -> float:
        return held.since + self._limit

    def _overdue(self, held: Held) -> float:
        return 0.0 if held.taken_at is None else self._clock() - held.taken_at

    def _reason(self) -> str:
        return f"The job took longer than MAX_JOB_SECONDS, {self._limit:g} s"


class MemoryLimit:
    """Says whether this process has grown beyond `megabytes` (10^6 bytes, resident); 0 is no limit.

    What `trim` gives back to the system does not count.
    """

    def __init__(
        self, megabytes: float, resident: Callable[[], int] | None = None, trim: Callable[[], object] | None = None
    ) -> None:
        self._megabytes = megabytes
        self._resident = resident or resident_bytes
        self._trim = trim or trim_malloc
        if megabytes:
            self._resident()  # a limit that cannot be watched stops the start

    def __call__(self) -> bool:
        """Look now."""
        if not self._megabytes or self._resident() / MEGABYTE <= self._megabytes:
            return False
        self._trim()
        if (found := self._resident() / MEGABYTE) <= self._megabytes:
            return False
        log.warning("The worker stops: it has grown to %.0f MB, MAX_RSS_MB is %g", found, self._megabytes)
        return True


class SpareMemory(Every):
    """Gives the memory back that was kept for the next job, once there has been none for `seconds`."""

    def __init__(
        self,
        seconds: float = REST_SECONDS,
        trim: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(seconds / 2, self.look, "memory")
        self._seconds_of_rest = seconds
        self._trim = trim or trim_malloc
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs = 0
        self._ended_at: float | None = None

    def watched(self, handle: Handle, job: Job) -> str:
        """Do a job: a `Middleware`."""
        with self._lock:
            self._jobs += 1
        try:
            return handle(job)
        finally:
            with self._lock:
                self._jobs -= 1
                self._ended_at = self._clock()

    def look(self) -> None:
        """Give spare memory back if there is any, and nobody needs it."""
        with self._lock:
            if self._jobs or self._ended_at is None or self._clock() - self._ended_at < self._seconds_of_rest:
                return
            self._ended_at = None
        self._trim()


def tune_malloc() -> None:
    """Have the C library keep memory for the next arrays; glibc only, mallopt(3).

    What is free is kept up to SPARE_BYTES; `trim_malloc` gives it back.  By itself glibc keeps 128 KiB, so that each
    step of a job asks the system for its memory anew, which clears every page of it: a third of the processor time.
    Arrays of ARRAY_BYTES and more go back when they are freed.  All lanes share one heap: one for each thread would
    keep that much several times, and was no faster.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, ARRAY_BYTES)
        mallopt(M_TRIM_THRESHOLD, SPARE_BYTES)
        mallopt(M_ARENA_MAX, 1)


def trim_malloc() -> None:
    """Have the C library give back what it keeps; glibc only, malloc_trim(3)."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim:
        malloc_trim(0)


def resident_bytes() -> int:
    """Return the resident memory of this process; SettingsError where the system does not tell (proc(5))."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        raise SettingsError("MAX_RSS_MB is set; allowed is 0 on a system without /proc") from None
    return pages * os.sysconf("SC_PAGE_SIZE")
