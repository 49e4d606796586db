from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from redis_consumer.errors import LeaseLost, QueueUnavailable
from redis_consumer.job import Job, Status
from redis_consumer.middleware import LONGEST_BEAT_SECONDS, Every, Heartbeat, Once, wrapped
from redis_consumer.queues.base import Place
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT = 10.0
LEASE = 30.0


class Clock:
    """Seconds that pass when we say so."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Beaten(MemoryJobQueue):
    """A queue that tells of its heartbeats."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker, queue="q", lease_seconds=LEASE)
        self.beats = 0
        self.beaten = threading.Event()

    def heartbeat(self, job: Job) -> None:
        super().heartbeat(job)
        self.beats += 1
        self.beaten.set()


class Setup:
    """A lane with a claimed job, and a clock of its own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.broker = MemoryBroker(clock=self.clock)
        self.queue = Beaten(self.broker)
        self.submitter = MemorySubmitter(self.broker)
        self.job = self.claimed()

    def claimed(self, queue: MemoryJobQueue | None = None) -> Job:
        self.submitter.submit("q", "a.tif", {})
        job = (queue or self.queue).claim(timeout=0)
        assert job is not None
        return job


@pytest.fixture
def setup() -> Setup:
    return Setup()


@pytest.fixture
def fast() -> Iterator[Heartbeat]:
    """A heartbeat that runs, many times a second."""
    heartbeat = Heartbeat(lease_seconds=0.06)
    heartbeat.start()
    yield heartbeat
    heartbeat.stop()


class TestWrapped:
    def test_the_first_middleware_is_the_outermost(self) -> None:
        calls: list[str] = []

        def middleware(name: str) -> Callable[[Callable[[Job], str], Job], str]:
            def around(handle: Callable[[Job], str], job: Job) -> str:
                calls.append(f"{name} begins")
                status = handle(job)
                calls.append(f"{name} ends")
                return status

            return around

        handle = wrapped(lambda _: "done", middleware("a"), middleware("b"))
        assert handle(Job("k", "q")) == "done"
        assert calls == ["a begins", "b begins", "b ends", "a ends"]

    def test_without_middleware_it_is_the_handler(self) -> None:
        assert wrapped(lambda job: job.key)(Job("k", "q")) == "k"


class TestHeartbeat:
    def test_beats_six_times_a_lease_but_often_enough_for_the_janitor(self) -> None:
        assert Heartbeat(6.0)._seconds == 1.0
        assert Heartbeat(3600.0)._seconds == LONGEST_BEAT_SECONDS

    def test_a_handler_that_waits_keeps_its_lease(self, setup: Setup, fast: Heartbeat) -> None:
        def handle(_job: Job) -> str:
            for _ in range(5):  # three lease periods in all
                setup.clock.now += 0.6 * LEASE
                setup.queue.beaten.clear()
                assert setup.queue.beaten.wait(WAIT)
                assert setup.broker.sweep() == 0
            return Status.DONE

        assert wrapped(handle, fast.around(setup.queue))(setup.job) == "done"
        assert setup.broker.held(setup.job)

    def test_a_handler_that_keeps_the_interpreter_busy_keeps_its_lease(self, setup: Setup, fast: Heartbeat) -> None:
        def handle(_job: Job) -> str:
            deadline = time.monotonic() + WAIT
            while setup.queue.beats < 3:
                sum(range(100_000))  # in C, without letting go
                assert time.monotonic() < deadline
            return Status.DONE

        assert wrapped(handle, fast.around(setup.queue))(setup.job) == "done"

    def test_only_jobs_in_hand_are_renewed(self, setup: Setup) -> None:
        heartbeat = Heartbeat(LEASE)
        heartbeat.beat()
        assert setup.queue.beats == 0

        def handle(_job: Job) -> str:
            heartbeat.beat()
            return Status.DONE

        wrapped(handle, heartbeat.around(setup.queue))(setup.job)
        heartbeat.beat()
        assert setup.queue.beats == 1

    def test_a_handler_that_fails_is_out_of_hand_too(self, setup: Setup) -> None:
        heartbeat = Heartbeat(LEASE)

        def handle(_job: Job) -> str:
            raise ValueError("bug")

        with pytest.raises(ValueError, match="bug"):
            wrapped(handle, heartbeat.around(setup.queue))(setup.job)
        heartbeat.beat()
        assert setup.queue.beats == 0

    def test_at_its_end_what_is_still_in_hand_is_lost(self, setup: Setup) -> None:
        heartbeat, seen = Heartbeat(LEASE), list[bool]()

        def handle(_job: Job) -> str:
            seen.append(heartbeat.lost(setup.queue))
            heartbeat.stop()
            seen.append(heartbeat.lost(setup.queue))
            return Status.DONE

        wrapped(handle, heartbeat.around(setup.queue))(setup.job)
        assert seen == [False, True]

    def test_a_lease_that_was_lost_is_not_taken_again(self, setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
        heartbeat, heirs = Heartbeat(LEASE), list[Job]()

        def handle(job: Job) -> str:
            setup.queue.release(job, Place.BACK)
            heir = MemoryJobQueue(setup.broker, queue="q").claim(timeout=0)
            assert heir is not None
            heirs.append(heir)
            heartbeat.beat()
            heartbeat.beat()
            return Status.DONE

        wrapped(handle, heartbeat.around(setup.queue))(setup.job)
        assert setup.broker.held(heirs[0])
        assert caplog.text.count(f"The lease of job {setup.job.key} is lost") == 1

    @pytest.mark.parametrize("error", [LeaseLost("lost"), QueueUnavailable("down")], ids=str)
    def test_a_job_that_cannot_be_renewed_is_no_obstacle_for_the_others(
        self, setup: Setup, error: LeaseLost | QueueUnavailable, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(MemoryJobQueue):
            def heartbeat(self, job: Job) -> None:
                assert job.key
                raise error

        heartbeat, broken = Heartbeat(LEASE), Broken(setup.broker, queue="q")
        job = setup.claimed(broken)

        def beat(_job: Job) -> str:
            heartbeat.beat()
            return Status.DONE

        inner = wrapped(beat, heartbeat.around(setup.queue))
        wrapped(lambda _: inner(setup.job), heartbeat.around(broken))(job)
        assert setup.queue.beats == 1
        assert str(error) in caplog.text

    def test_redis_that_was_away_for_a_beat_is_asked_at_the_next(self, setup: Setup) -> None:
        class Away(Beaten):
            away = True

            def heartbeat(self, job: Job) -> None:
                if self.away:
                    self.away = False
                    raise QueueUnavailable("away")
                super().heartbeat(job)

        heartbeat, queue = Heartbeat(LEASE), Away(setup.broker)
        job = setup.claimed(queue)

        def beat_twice(_job: Job) -> str:
            heartbeat.beat()
            heartbeat.beat()
            return Status.DONE

        wrapped(beat_twice, heartbeat.around(queue))(job)
        assert queue.beats == 1


class TestEvery:
    def test_calls_again_and_again_until_it_is_stopped(self) -> None:
        calls, enough = list[int](), threading.Event()

        def action() -> None:
            calls.append(1)
            if len(calls) == 3:
                enough.set()

        every = Every(0.001, action, "action")
        every.start()
        assert enough.wait(WAIT)
        every.stop()
        assert not every._thread.is_alive()

    @pytest.mark.parametrize(
        ("error", "line"), [(QueueUnavailable("down"), "No sweep this time: down"), (KeyError("bug"), "sweep stumbled")]
    )
    def test_no_error_ends_it(self, error: Exception, line: str, caplog: pytest.LogCaptureFixture) -> None:
        errors, again = [error], threading.Event()

        def action() -> None:
            if errors:
                raise errors.pop()
            again.set()

        every = Every(0.001, action, "sweep")
        every.start()
        assert again.wait(WAIT)
        every.stop()
        assert line in caplog.text

    def test_pauses_before_the_first_call(self) -> None:
        called = threading.Event()
        every = Every(600, called.set, "action")
        every.start()
        every.stop()
        assert not called.is_set()

    def test_one_that_was_never_started_can_be_stopped(self) -> None:
        Every(600, lambda: None, "action").stop()


class TestOnce:
    def test_calls_once_beside_its_starter(self) -> None:
        may_end, threads = threading.Event(), list[str]()

        def action() -> None:
            assert may_end.wait(WAIT)
            threads.append(threading.current_thread().name)

        once = Once(action, "warm-up")
        once.start()  # returns while the action waits
        may_end.set()
        once._thread.join(WAIT)
        assert threads == ["warm-up"]

    def test_an_error_is_logged_and_troubles_nobody(self, caplog: pytest.LogCaptureFixture) -> None:
        def action() -> None:
            raise ImportError("no scikit-image")

        once = Once(action, "warm-up")
        once.start()
        once._thread.join(WAIT)
        assert "The warm-up stumbled" in caplog.text

    def test_stopping_does_not_wait_for_it(self) -> None:
        may_end = threading.Event()
        once = Once(lambda: may_end.wait(WAIT), "warm-up")
        once.start()
        once.stop()
        assert once._thread.is_alive()
        may_end.set()
        once._thread.join(WAIT)
