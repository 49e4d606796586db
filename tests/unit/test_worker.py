from __future__ import annotations

import errno
import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from redis_consumer import worker as worker_module
from redis_consumer.errors import (
    ConsumerError,
    JobRejected,
    LeaseLost,
    MissingExtra,
    QueueUnavailable,
    RetryJob,
    ServerBusy,
    ServerNotReady,
    SettingsError,
    StorageUnavailable,
)
from redis_consumer.job import Job, Status
from redis_consumer.queues.base import Place
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter
from redis_consumer.worker import Lane, Worker, retry_seconds, work_off

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT = 10.0
"""Longer than anything here takes; a test that waits so long fails."""


class Setup:
    """One queue with a job in it."""

    def __init__(self) -> None:
        self.late = 0.0
        self.broker = MemoryBroker(clock=lambda: time.time() + self.late)
        self.queue = MemoryJobQueue(self.broker, queue="q", max_deliveries=3)
        self.submitter = MemorySubmitter(self.broker)
        self.key = self.submitter.submit("q", "a.tif", {})

    def fields(self) -> dict[str, str]:
        return self.submitter.read(self.key)

    def claimed(self) -> Job:
        job = self.queue.claim(timeout=0)
        assert job is not None
        return job

    def next_key(self) -> str:
        return self.claimed().key


@pytest.fixture
def setup() -> Setup:
    return Setup()


def raising(error: BaseException) -> Callable[[Job], str]:
    def handle(_job: Job) -> str:
        raise error

    return handle


class TestWorkOff:
    """What becomes of a job, by what came out of its handler."""

    def test_done_is_settled_with_what_the_handler_wrote(self, setup: Setup) -> None:
        def handle(job: Job) -> str:
            setup.queue.update(job, {"status": "done", "output_url": "u"})
            assert setup.fields()["status"] == "started"  # nobody sees `done` before everything is written
            return Status.DONE

        work_off(setup.queue, handle, setup.claimed())
        assert setup.fields()["status"] == "done"
        assert setup.fields()["output_url"] == "u"
        assert "reason" not in setup.fields()

    def test_failed_without_an_error_gets_a_reason(self, setup: Setup) -> None:
        work_off(setup.queue, lambda _: "failed", setup.claimed())
        assert setup.fields()["status"] == "failed"
        assert setup.fields()["reason"] == "The consumer gave no reason"

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (JobRejected("The field 'scale' is 'x'"), "The field 'scale' is 'x'"),
            (MissingExtra("Tracking", "tracking"), "Tracking needs the extra 'tracking'"),
            (ConsumerError(""), "ConsumerError"),
            (ValueError("two\nlines"), "ValueError: two lines"),
            (OSError(errno.ENOENT, "no such file"), "FileNotFoundError: "),
            (SystemExit(3), "SystemExit: 3"),
        ],
    )
    def test_an_error_that_no_repetition_helps_fails_the_job_with_one_line(
        self, setup: Setup, error: BaseException, reason: str
    ) -> None:
        work_off(setup.queue, raising(error), setup.claimed())
        assert setup.fields()["status"] == "failed"
        assert setup.fields()["reason"].startswith(reason)
        assert "\n" not in setup.fields()["reason"]
        assert setup.key in setup.broker.dead

    def test_only_a_bug_leaves_its_traceback_in_the_log(self, setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
        work_off(setup.queue, raising(KeyError("x")), setup.claimed())
        assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True]
        setup.key = setup.submitter.submit("q", "b.tif", {})
        caplog.clear()
        work_off(setup.queue, raising(JobRejected("no")), setup.claimed())
        assert not [record for record in caplog.records if record.exc_info]

    @pytest.mark.parametrize(
        "error",
        [
            RetryJob("r"),
            StorageUnavailable("s"),
            ServerNotReady("n"),
            ServerBusy("b"),
            MemoryError("m"),
            OSError(errno.ENOSPC, "no space left on device"),
        ],
        ids=str,
    )
    def test_when_the_world_is_at_fault_the_job_stands_aside_for_a_while_and_it_counts(
        self, setup: Setup, error: Exception
    ) -> None:
        job = setup.claimed()
        assert not work_off(setup.queue, raising(error), job)
        assert setup.fields()["status"] == "new"
        assert setup.queue.claim(timeout=0) is None
        setup.late += 1.0
        again = setup.claimed()
        assert (again.key, again.deliveries) == (setup.key, 2)

    def test_the_time_aside_grows_with_each_delivery(self) -> None:
        waits = [[retry_seconds(delivery) for _ in range(50)] for delivery in (1, 2, 3, 100)]
        assert all(0.5 <= seconds <= 1 for seconds in waits[0])
        assert all(1 <= seconds <= 2 for seconds in waits[1])
        assert all(2 <= seconds <= 4 for seconds in waits[2])
        assert all(30 <= seconds <= 60 for seconds in waits[3])
        assert len(set(waits[0])) > 1  # not all of them at once

    def test_the_last_delivery_tells_what_went_wrong(self, setup: Setup) -> None:
        for _ in range(3):
            work_off(setup.queue, raising(StorageUnavailable("no answer")), setup.claimed())
            setup.late += 60.0
        assert setup.fields()["status"] == "failed"
        assert setup.fields()["reason"] == "no answer (given up after 3 deliveries)"
        assert setup.broker.dead[setup.key].error == "StorageUnavailable"

    def test_a_dead_letter_has_the_traceback_of_a_bug_without_secrets(self, setup: Setup) -> None:
        work_off(setup.queue, raising(ValueError("GET https://me:t0p@host/a?sig=t0p failed")), setup.claimed())
        letter = setup.broker.dead[setup.key]
        assert letter.error == "ValueError"
        assert "Traceback" in letter.traceback
        assert "raise error" in letter.traceback
        assert "https://host/a" in letter.traceback
        assert "t0p" not in letter.traceback

    def test_a_job_that_its_handler_left_unfinished_comes_again_soon_as_it_is(self, setup: Setup) -> None:
        def handle(job: Job) -> str:
            setup.queue.update(job, {"status": "waiting"})
            return Status.WAITING

        assert work_off(setup.queue, handle, setup.claimed())
        assert setup.fields()["status"] == "waiting"
        assert setup.queue.claim(timeout=0) is None
        setup.late += 1.0
        assert setup.claimed().deliveries == 1

    def test_what_fails_because_the_worker_stops_goes_to_the_front_and_does_not_count(self, setup: Setup) -> None:
        job = setup.claimed()
        setup.submitter.submit("q", "b.tif", {})
        stopping = threading.Event()
        stopping.set()
        work_off(setup.queue, raising(ServerNotReady("stopped while waiting")), job, stopping)
        again = setup.claimed()
        assert (again.key, again.deliveries) == (setup.key, 1)

    def test_a_job_that_is_done_is_settled_even_while_the_worker_stops(self, setup: Setup) -> None:
        stopping = threading.Event()
        stopping.set()
        work_off(setup.queue, lambda _: "done", setup.claimed(), stopping)
        assert setup.fields()["status"] == "done"

    @pytest.mark.parametrize(
        ("outcome", "error"),
        [("done", None), ("failed", None), ("done", LeaseLost("lost")), ("new", LeaseLost("lost"))],
    )
    def test_nothing_is_written_to_a_job_that_is_no_longer_ours(
        self, setup: Setup, outcome: str, error: LeaseLost | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        taken: dict[str, str] = {}

        def handle(job: Job) -> str:
            setup.queue.release(job, Place.BACK)
            setup.claimed()  # somebody else has it
            taken.update(setup.fields())
            if error:
                raise error
            return outcome

        work_off(setup.queue, handle, setup.claimed())
        assert setup.fields() == taken
        assert "is no longer ours, dropped" in caplog.text

    def test_trouble_with_the_queue_is_the_lanes_business(self, setup: Setup) -> None:
        job = setup.claimed()
        before = setup.fields()
        with pytest.raises(QueueUnavailable):
            work_off(setup.queue, raising(QueueUnavailable("down")), job)
        assert setup.fields() == before

    def test_what_a_machine_refuses_is_no_bug(self, setup: Setup) -> None:
        assert not work_off(setup.queue, raising(RuntimeError("can't start new thread")), setup.claimed())
        assert setup.fields()["status"] == "new"

    def test_a_handler_that_misses_a_setting_does_not_end_the_worker(self, setup: Setup) -> None:
        assert not work_off(setup.queue, raising(SettingsError("Redis refuses us: NOPERM")), setup.claimed())
        assert setup.fields()["status"] == "new"

    def test_the_log_says_how_each_job_ended(self, setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        work_off(setup.queue, raising(JobRejected("bad image")), setup.claimed())
        assert f"Job {setup.key} is failed after" in caplog.text
        assert caplog.text.rstrip().endswith(": bad image")


class Troubled(MemoryJobQueue):
    """A queue whose first claims fail."""

    def __init__(self, broker: MemoryBroker, *errors: BaseException, queue: str = "q") -> None:
        super().__init__(broker, queue=queue)
        self.errors = list(errors)

    def claim(self, *, timeout: float) -> Job | None:
        if self.errors:
            raise self.errors.pop(0)
        return super().claim(timeout=timeout)


class Running:
    """A worker in a thread of its own."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def ended(self) -> BaseException | None:
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        return self.error


@contextmanager
def running(worker: Worker) -> Iterator[Running]:
    run = Running(worker)
    run.thread.start()
    try:
        yield run
    finally:
        worker.stop(at_once=True)
        run.ended()


def work_until_done(queue: MemoryJobQueue, setup: Setup) -> None:
    """Run a worker on `queue` until the job of `setup` is done."""
    reached = threading.Event()

    def handle(_job: Job) -> str:
        reached.set()
        return Status.DONE

    with running(Worker([Lane(queue, handle)], drain_seconds=WAIT)) as run:
        assert reached.wait(WAIT)
        run.worker.stop()
        assert run.ended() is None
    assert setup.fields()["status"] == "done"


class Task:
    """A handler that can be held up from outside."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.ended = threading.Event()

    def __call__(self, _job: Job) -> str:
        self.begun.set()
        assert self.may_end.wait(WAIT)
        self.ended.set()
        return Status.DONE


@pytest.fixture
def task() -> Iterator[Task]:
    held = Task()
    yield held
    held.may_end.set()


class Companion:
    def __init__(self, events: list[str]) -> None:
        self.events = events

    def start(self) -> None:
        self.events.append("start")

    def stop(self) -> None:
        self.events.append("stop")


class TestRun:
    """Lanes, from the start to the drain."""

    def test_jobs_are_done_one_after_the_other(self, setup: Setup) -> None:
        keys = [setup.key, setup.submitter.submit("q", "b.tif", {})]
        done, finished = list[str](), threading.Event()

        def handle(job: Job) -> str:
            done.append(job.key)
            if len(done) == len(keys):
                finished.set()
            return Status.DONE

        with running(Worker([Lane(setup.queue, handle)])):
            assert finished.wait(WAIT)
        assert done == keys

    def test_lanes_work_at_the_same_time(self, setup: Setup) -> None:
        setup.submitter.submit("q", "b.tif", {})
        both, met = threading.Barrier(2), threading.Event()

        def handle(_job: Job) -> str:
            both.wait(WAIT)  # breaks unless the other lane comes too
            met.set()
            return Status.DONE

        lanes = [Lane(MemoryJobQueue(setup.broker, queue="q"), handle) for _ in range(2)]
        with running(Worker(lanes, drain_seconds=WAIT)) as run:
            assert met.wait(WAIT)
            run.worker.stop()
            run.ended()
        assert [fields["status"] for fields in setup.broker.jobs.values()] == ["done", "done"]

    def test_a_running_job_ends_before_the_worker_does(self, setup: Setup, task: Task) -> None:
        with running(Worker([Lane(setup.queue, task)], drain_seconds=WAIT)) as run:
            assert task.begun.wait(WAIT)
            setup.submitter.submit("q", "b.tif", {})
            run.worker.stop()
            task.may_end.set()
            assert run.ended() is None
        assert setup.fields()["status"] == "done"
        assert len(setup.broker.queues["q"]) == 1  # no further job was claimed

    def test_an_unfinished_job_is_handed_back_to_the_front_when_the_time_is_over(
        self, setup: Setup, task: Task
    ) -> None:
        with running(Worker([Lane(setup.queue, task)], drain_seconds=0.01)) as run:
            assert task.begun.wait(WAIT)
            setup.submitter.submit("q", "b.tif", {})
            run.worker.stop()
            assert run.ended() is None
        assert setup.fields()["status"] == "new"
        heir = MemoryJobQueue(setup.broker, queue="q")
        job = heir.claim(timeout=0)
        assert job is not None
        assert (job.key, job.deliveries) == (setup.key, 1)

    def test_at_once_does_not_wait_for_the_drain(self, setup: Setup, task: Task) -> None:
        with running(Worker([Lane(setup.queue, task)], drain_seconds=600)) as run:
            assert task.begun.wait(WAIT)
            run.worker.stop()
            run.worker.stop(at_once=True)
            assert run.ended() is None
        assert setup.fields()["status"] == "new"

    def test_a_job_that_was_handed_back_is_not_written_by_the_lane_that_still_computes(
        self, setup: Setup, task: Task
    ) -> None:
        with running(Worker([Lane(setup.queue, task)], drain_seconds=0)) as run:
            assert task.begun.wait(WAIT)
            run.worker.stop()
            run.ended()
        lanes = [thread for thread in threading.enumerate() if thread.name == "lane-0"]
        task.may_end.set()
        for lane in lanes:
            lane.join(WAIT)
        assert task.ended.is_set()
        assert setup.fields()["status"] == "new"

    def test_an_idle_worker_stops_without_waiting_for_its_claim(self) -> None:
        waiting = threading.Event()

        class Waiting(MemoryJobQueue):
            def claim(self, *, timeout: float) -> Job | None:
                assert timeout > WAIT
                waiting.set()
                return super().claim(timeout=timeout)

        with running(Worker([Lane(Waiting(MemoryBroker(), queue="q"), lambda _: "done")])) as run:
            assert waiting.wait(WAIT)
            run.worker.stop()
            assert run.ended() is None

    def test_a_queue_that_is_down_is_asked_again_with_growing_pauses(
        self, setup: Setup, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = Troubled(setup.broker, QueueUnavailable("down"), QueueUnavailable("still down"))
        work_until_done(queue, setup)
        assert "next try in 0.1 s: down" in caplog.text
        assert "next try in 0.2 s: still down" in caplog.text

    @pytest.mark.parametrize("error", [RuntimeError("bug"), SystemExit(1)], ids=repr)
    def test_a_lane_survives_whatever_its_queue_throws(
        self, setup: Setup, error: BaseException, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_module, "LONGEST_PAUSE_SECONDS", 0.01)
        work_until_done(Troubled(setup.broker, error), setup)

    def test_a_lane_survives_whatever_its_handler_throws(self, setup: Setup) -> None:
        second, reached = setup.submitter.submit("q", "b.tif", {}), threading.Event()

        def handle(job: Job) -> str:
            if job.key == setup.key:
                raise SystemExit(1)
            reached.set()
            return Status.DONE

        with running(Worker([Lane(setup.queue, handle)], drain_seconds=WAIT)) as run:
            assert reached.wait(WAIT)
            run.worker.stop()
            run.ended()
        assert setup.fields()["status"] == "failed"
        assert setup.submitter.read(second)["status"] == "done"

    def test_refused_settings_end_the_worker_once_running_jobs_are_done(self, setup: Setup, task: Task) -> None:
        refused = SettingsError("REDIS_PASSWORD is ****: it is refused")
        queue = Troubled(setup.broker, queue="another")
        lanes = [Lane(setup.queue, task), Lane(queue, lambda _: "done")]
        with running(Worker(lanes, drain_seconds=WAIT)) as run:
            assert task.begun.wait(WAIT)
            queue.errors.append(refused)
            queue.wake()
            task.may_end.set()
            assert run.ended() is refused
        assert setup.fields()["status"] == "done"

    def test_companions_begin_before_the_first_claim_and_end_after_the_last_job(self, setup: Setup, task: Task) -> None:
        events: list[str] = []

        def handle(job: Job) -> str:
            status = task(job)
            events.append("job")
            return status

        with running(Worker([Lane(setup.queue, handle)], companions=[Companion(events)])) as run:
            assert task.begun.wait(WAIT)
            run.worker.stop()
            task.may_end.set()
            run.ended()
        assert events == ["start", "job", "stop"]

    def test_a_step_of_the_shutdown_that_fails_does_not_stop_the_next(
        self, setup: Setup, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(MemoryJobQueue):
            def close(self) -> None:
                raise QueueUnavailable("gone")

        events: list[str] = []
        queue = Broken(setup.broker, queue="other")
        with running(Worker([Lane(queue, lambda _: "done")], companions=[Companion(events)])) as run:
            run.worker.stop()
            assert run.ended() is None
        assert "Could not close a lane: gone" in caplog.text
        assert events == ["start", "stop"]

    def test_whoever_waits_for_long_sees_that_the_worker_stops(self, setup: Setup) -> None:
        stopping, begun = threading.Event(), threading.Event()

        def handle(_job: Job) -> str:
            begun.set()
            assert stopping.wait(WAIT)
            raise ServerNotReady("stopped while waiting")

        with running(Worker([Lane(setup.queue, handle)], drain_seconds=WAIT, stopping=stopping)) as run:
            assert begun.wait(WAIT)
            run.worker.stop()
            run.ended()
        assert setup.fields()["status"] == "new"
        assert setup.broker.records[setup.key].deliveries == 0  # as if nobody had taken it


class TestLimits:
    def test_a_worn_out_worker_ends_well_after_the_job_that_wore_it_out(self, setup: Setup) -> None:
        setup.submitter.submit("q", "b.tif", {})
        with running(Worker([Lane(setup.queue, lambda _: "done")], worn_out=lambda: True)) as run:
            assert run.ended() is None
        assert setup.fields()["status"] == "done"
        assert len(setup.broker.queues["q"]) == 1  # it did one job, and no more

    def test_an_idle_worker_is_not_asked_whether_it_is_worn_out(self) -> None:
        asked: list[int] = []
        waiting = threading.Event()

        def worn_out() -> bool:
            asked.append(1)
            return True

        class Waiting(MemoryJobQueue):
            def claim(self, *, timeout: float) -> Job | None:
                waiting.set()
                return super().claim(timeout=timeout)

        lanes = [Lane(Waiting(MemoryBroker(), queue="q"), lambda _: "done")]
        with running(Worker(lanes, worn_out=worn_out)) as run:
            assert waiting.wait(WAIT)
            run.worker.stop()
            assert run.ended() is None
        assert asked == []

    def test_a_reason_to_stop_is_raised_when_the_lanes_are_drained(self, setup: Setup, task: Task) -> None:
        reason, later = ConsumerError("a lane is stuck"), ConsumerError("another")
        with running(Worker([Lane(setup.queue, task)], drain_seconds=WAIT)) as run:
            assert task.begun.wait(WAIT)
            run.worker.stop(because=reason)
            run.worker.stop(because=later)
            task.may_end.set()
            assert run.ended() is reason
        assert setup.fields()["status"] == "done"

    def test_a_lane_that_backs_off_moves(self, setup: Setup) -> None:
        queue = Troubled(setup.broker, QueueUnavailable("down"), QueueUnavailable("still down"))
        lane, done = Lane(queue, lambda _: "done"), threading.Event()
        lane.turned_at -= 2 * worker_module.STILL_SECONDS
        assert lane.fault() == "has not moved for 240 s"

        def handle(_job: Job) -> str:
            done.set()
            return Status.DONE

        lane.handle = handle
        with running(Worker([lane])):
            assert done.wait(WAIT)
            assert lane.fault() == ""


def test_what_is_done_together_takes_no_longer_than_it_may() -> None:
    never, done = threading.Event(), threading.Event()
    began = time.monotonic()
    worker_module.together([lambda: never.wait(WAIT), lambda: never.wait(WAIT), done.set], 0.1)
    assert done.is_set()
    assert time.monotonic() - began < WAIT
    never.set()
