"""The worker: lanes that claim, handle and settle.  Knows no images, files, models or Redis.

A lane is a thread with a queue view and a handler of its own; it sees one job at a time through.  Everything
else that happens around a job is a middleware.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from redis_consumer.errors import (
    ConsumerError,
    Failure,
    LeaseLost,
    QueueUnavailable,
    RetryJob,
    ServerNotReady,
    SettingsError,
    failure_of,
    is_machines,
)
from redis_consumer.job import FINAL, Status
from redis_consumer.queues.base import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis_consumer.job import Job
    from redis_consumer.queues.base import JobQueue

log = logging.getLogger(__name__)

CLAIM_SECONDS = 25.0
"""How long one claim blocks: two commands each, so that an idle lane costs less than 0.1 a second."""
SIGNAL_SECONDS = 1.0
"""A signal that the system gives to another thread does not wake ours: a wait for it must end now and then."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
"""Pauses of a lane while Redis does not answer, or while its jobs fail for no fault of theirs: doubled each time."""
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 60.0
"""How long a job that the world failed stands aside: doubled with each delivery, up to a half less at random."""
LOOK_AGAIN_SECONDS = 1.0
"""How long a job stands aside that its handler left unfinished, if it has no children to wait for."""
WAKE_SECONDS, HAND_BACK_SECONDS, STOP_SECONDS = 2.0, 8.0, 3.0
"""How long a drain waits for others, besides `drain_seconds`: together less than the 15 s that pods have for it."""
STILL_SECONDS = 120.0
"""A thread that should move and did not for so long is stuck.  Every wait for Redis ends sooner, also while it is
away: time-outs of 5 s, a few in a row, and a look-up of its name."""


class Companion(Protocol):
    """Something that runs beside the lanes: the heartbeat."""

    def start(self) -> None:
        """Begin; called before the first claim."""

    def stop(self) -> None:
        """End; called when the lanes are drained."""


@dataclass
class Lane:
    """One lane: where its jobs come from, and what is done with them."""

    queue: JobQueue
    handle: Callable[[Job], str]
    """Returns the job's status.  A job whose status is not final comes again, after its children or a moment."""
    job: Job | None = field(default=None, init=False)
    """The job in hand, for the drain."""
    turned_at: float = field(default_factory=time.monotonic, init=False)
    """When it began to look for a job."""

    def fault(self) -> str:
        """Return what is wrong with the thread, or nothing.  How long a job may take is not judged here."""
        still = time.monotonic() - self.turned_at
        return f"has not moved for {still:.0f} s" if self.job is None and still > STILL_SECONDS else ""


class Worker:
    """Runs lanes until it is told to stop; then drains them.

    `stopping` is set as soon as no more jobs are claimed; whoever waits for something long may look at it.
    `worn_out` is asked after each job whether the worker should stop now.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        companions: Sequence[Companion] = (),
        drain_seconds: float = 25.0,
        stopping: threading.Event | None = None,
        worn_out: Callable[[], bool] = lambda: False,
    ) -> None:
        self._lanes = list(lanes)
        self._companions = list(companions)
        self._drain_seconds = drain_seconds
        self._stopping = stopping or threading.Event()
        self._at_once = threading.Event()
        self._worn_out = worn_out
        self._fatal: ConsumerError | None = None

    def stop(self, *, at_once: bool = False, because: ConsumerError | None = None) -> None:
        """Claim no more.  `at_once` hands running jobs back now; `because` is what `run` raises after the drain.

        Safe in a signal handler and to repeat.
        """
        self._fatal = self._fatal or because
        if at_once:
            self._at_once.set()
        self._stopping.set()

    def run(self) -> None:
        """Work until `stop`, then drain.  SettingsError if the queue refuses our settings (credentials).

        Or whatever `stop` was called with.
        """
        threads = [
            threading.Thread(target=self._run_lane, args=(lane,), name=f"lane-{i}", daemon=True)
            for i, lane in enumerate(self._lanes)
        ]
        for companion in self._companions:
            companion.start()
        for thread in threads:
            thread.start()
        while not self._stopping.wait(SIGNAL_SECONDS):
            pass
        self._drain(threads)
        together([partial(quietly, "stop a companion", one.stop) for one in self._companions], STOP_SECONDS)
        if self._fatal:
            raise self._fatal

    def _run_lane(self, lane: Lane) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            lane.turned_at = time.monotonic()
            try:
                lane.job = lane.queue.claim(timeout=CLAIM_SECONDS)
                if lane.job:
                    well = work_off(lane.queue, lane.handle, lane.job, self._stopping)
                    self._stop_if_worn_out()
                    # A lane that fails job after job, on a full disk say, must not use up everybody's deliveries.
                    pause = FIRST_PAUSE_SECONDS if well else self._paused(pause)
                else:
                    pause = FIRST_PAUSE_SECONDS
            except QueueUnavailable as error:
                log.warning("The queue does not answer, next try in %.1f s: %s", pause, error)
                pause = self._paused(pause)
            except SettingsError as error:
                self.stop(because=error)
            except BaseException:
                # A lane must outlive any bug: the job comes back through its lease.
                log.exception("A lane stumbled; it goes on")
                self._stopping.wait(LONGEST_PAUSE_SECONDS)
            finally:
                # In this order: a lane without a job is judged by its last turn.
                lane.turned_at = time.monotonic()
                lane.job = None

    def _paused(self, seconds: float) -> float:
        """Wait, and return how long to wait the next time."""
        self._stopping.wait(seconds)
        return min(2 * seconds, LONGEST_PAUSE_SECONDS)

    def _stop_if_worn_out(self) -> None:
        # Not before a job: a limit below what an idle worker needs must not keep it from working at all.
        if self._worn_out():
            self.stop()

    def _drain(self, threads: Sequence[threading.Thread]) -> None:
        """Let running jobs end while there is time, hand the others back, and leave no entry behind."""
        together([partial(quietly, "wake a lane", lane.queue.wake) for lane in self._lanes], WAKE_SECONDS)
        deadline = time.monotonic() + self._drain_seconds
        for thread in threads:
            while thread.is_alive() and time.monotonic() < deadline and not self._at_once.is_set():
                thread.join(0.05)
        # Beside each other: a Redis that does not answer must not cost each lane its time-outs one after the other.
        together([partial(hand_back, lane) for lane in self._lanes], HAND_BACK_SECONDS)


def hand_back(lane: Lane) -> None:
    """Give up a lane: its job to the front of the queue, and every entry that it moved to itself."""
    # The lane may still be deep in a computation.  Once released, its token is void: it can write nothing more, and the
    # process ends around it.
    if job := lane.job:
        log.info("Job %s is handed back unfinished", job.key)
        quietly("hand a job back", partial(lane.queue.release, job, Place.FRONT))
    quietly("close a lane", lane.queue.close)


def together(actions: Sequence[Callable[[], object]], seconds: float) -> None:
    """Do all at the same time, and wait no longer than this; leases cover what is not done by then."""
    threads = [threading.Thread(target=action, daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def work_off(queue: JobQueue, handle: Callable[[Job], str], job: Job, stopping: threading.Event | None = None) -> bool:
    """See one claimed job through: settled, released, or dropped because it is no longer ours.

    Returns False if the world failed it: then it is given back, to be tried again.
    """
    began = time.monotonic()
    try:
        status, failure = outcome(handle, job)
        if status in FINAL:
            queue.settle(job, status, {"reason": failure.reason} if failure else {}, failure)
        elif failure is None:
            queue.release(job, Place.WAITING, seconds=LOOK_AGAIN_SECONDS)
        elif stopping is not None and stopping.is_set():
            # What failed because the worker stops is nobody's fault, and not counted.
            queue.release(job, Place.FRONT)
        else:
            status = queue.release(job, Place.LATER, seconds=retry_seconds(job.deliveries), failure=failure)
    except LeaseLost as error:
        log.warning("Job %s is no longer ours, dropped: %s", job.key, error)
        return True
    why = f": {failure.reason}" if failure else ""
    log.info("Job %s is %s after %.3f s%s", job.key, status, time.monotonic() - began, why)
    return status in FINAL or failure is None


def retry_seconds(deliveries: int) -> float:
    """Return how long a job stands aside after so many deliveries."""
    longest = min(FIRST_RETRY_SECONDS * 2 ** min(deliveries - 1, 16), LONGEST_RETRY_SECONDS)
    return float(longest * random.uniform(0.5, 1.0))


def outcome(handle: Callable[[Job], str], job: Job) -> tuple[str, Failure | None]:
    """Return the status that the job has now, and what went wrong, if anything did.

    LeaseLost and QueueUnavailable pass through: they are about the hold on the job, not about the job.
    """
    try:
        return handle(job), None
    except (LeaseLost, QueueUnavailable):
        raise
    except (RetryJob, ServerNotReady, SettingsError) as error:
        # Settings: of what this job alone needs.  If they are wrong for the queue itself, the next step says so.
        return Status.NEW, failure_of(error)
    except ConsumerError as error:
        return Status.FAILED, failure_of(error)
    except BaseException as error:
        # sys.exit() in a consumer, or a panic of a library in Rust: the lane would end without a word.
        fault = "its machine" if is_machines(error) else "a bug"
        log.exception("Job %s met %s", job.key, fault)
        return (Status.NEW if is_machines(error) else Status.FAILED), failure_of(error)


def quietly(what: str, action: Callable[[], object]) -> None:
    """Do `action` on the way out: its failure is logged and stops nothing, since leases cover it."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - the next step of the shutdown matters more
        log.warning("Could not %s: %s", what, error)
