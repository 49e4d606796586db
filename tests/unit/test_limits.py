from __future__ import annotations

import mmap
import subprocess
import sys
import threading
import zipfile
from typing import TYPE_CHECKING

import pytest

from redis_consumer import limits, utils
from redis_consumer.errors import (
    ConsumerError,
    Failure,
    JobRejected,
    LeaseLost,
    QueueUnavailable,
    RetryJob,
    SettingsError,
)
from redis_consumer.job import Job, Status
from redis_consumer.limits import GRACE_SECONDS, MemoryLimit, SpareMemory, TimeLimit, resident_bytes
from redis_consumer.middleware import wrapped
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter
from redis_consumer.worker import work_off

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from redis_consumer.queues.base import FieldValue

LIMIT = 100.0
WAIT = 10.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Setup:
    """A lane with a claimed job, a time limit, and a clock of our own."""

    def __init__(self, limit: float = LIMIT) -> None:
        self.clock = Clock()
        self.broker = MemoryBroker()
        self.queue = MemoryJobQueue(self.broker, queue="q")
        self.submitter = MemorySubmitter(self.broker)
        self.key = self.submitter.submit("q", "a.tif", {})
        self.told: list[ConsumerError] = []
        self.limit = TimeLimit(limit, self.told.append, clock=self.clock)
        self.job = self.claimed()

    def claimed(self) -> Job:
        job = self.queue.claim(timeout=0)
        assert job is not None
        return job

    def fields(self) -> dict[str, str]:
        return self.submitter.read(self.key)

    def work(self, *steps: Callable[[], object], status: str = "done") -> None:
        """See the job through; its handler takes `steps`."""

        def handle(_job: Job) -> str:
            for step in steps:
                step()
            return status

        work_off(self.queue, wrapped(handle, self.limit.around(self.queue)), self.job)

    def wait(self, seconds: float) -> Callable[[], None]:
        """Return a step that takes so long; the limit looks at its end."""

        def step() -> None:
            self.clock.now += seconds
            self.limit.look()

        return step


@pytest.fixture
def setup() -> Setup:
    return Setup()


class TestTimeLimit:
    def test_a_job_within_the_limit_is_none_of_its_business(self, setup: Setup) -> None:
        setup.work(setup.wait(LIMIT))
        assert setup.fields()["status"] == "done"

    def test_a_job_beyond_it_fails_at_once_and_says_why(self, setup: Setup) -> None:
        seen: list[str] = []
        setup.work(setup.wait(LIMIT + 1), lambda: seen.append(setup.fields()["status"]))
        assert seen == ["failed"]
        assert setup.fields()["reason"] == "The job took longer than MAX_JOB_SECONDS, 100 s"
        assert setup.key in setup.broker.dead

    def test_what_the_handler_does_afterwards_counts_no_more(
        self, setup: Setup, caplog: pytest.LogCaptureFixture
    ) -> None:
        def write() -> None:
            with pytest.raises(LeaseLost):
                setup.queue.update(setup.job, {"status": "predicting"})

        setup.work(setup.wait(LIMIT + 1), write)
        assert setup.fields()["status"] == "failed"
        assert "is no longer ours, dropped" in caplog.text

    @pytest.mark.parametrize("error", [RetryJob("later"), ValueError("bug")], ids=repr)
    def test_an_error_afterwards_changes_nothing_either(self, setup: Setup, error: Exception) -> None:
        def fail() -> None:
            raise error

        setup.work(setup.wait(LIMIT + 1), fail)
        assert setup.fields()["reason"].startswith("The job took longer")
        assert not setup.broker.queues["q"]

    def test_a_lane_that_comes_back_works_on(self, setup: Setup) -> None:
        setup.work(setup.wait(LIMIT + 1), setup.wait(GRACE_SECONDS))
        setup.key = setup.submitter.submit("q", "b.tif", {})
        setup.job = setup.claimed()
        setup.work(setup.wait(LIMIT))
        assert setup.fields()["status"] == "done"
        assert setup.told == []

    def test_a_lane_that_does_not_is_told_of_once(self, setup: Setup) -> None:
        setup.work(setup.wait(LIMIT + 1), setup.wait(GRACE_SECONDS + 1), setup.wait(1))
        assert [str(error) for error in setup.told] == [
            f"A lane does not come back from job {setup.key}: the worker ends"
        ]

    def test_liveness_ends_where_the_worker_did_not_end_in_time(self, setup: Setup) -> None:
        found: list[str] = []

        def ask() -> None:
            found.append(setup.limit.stuck(30))

        setup.work(setup.wait(LIMIT + 1), setup.wait(GRACE_SECONDS + 30), ask, setup.wait(1), ask)
        assert found == ["", "1 jobs do not end"]
        assert setup.limit.stuck(30) == ""

    def test_waiting_for_the_model_server_does_not_count(self, setup: Setup) -> None:
        def refused() -> None:
            setup.limit.restart(setup.queue)

        setup.work(setup.wait(LIMIT), refused, setup.wait(LIMIT), refused, setup.wait(LIMIT))
        assert setup.fields()["status"] == "done"

    def test_a_job_whose_time_is_over_gets_no_more(self, setup: Setup) -> None:
        def refused() -> None:
            setup.limit.restart(setup.queue)

        setup.work(setup.wait(LIMIT + 1), refused, setup.wait(GRACE_SECONDS + 1))
        assert len(setup.told) == 1

    def test_a_lane_without_a_job_has_no_clock(self, setup: Setup) -> None:
        setup.limit.restart(setup.queue)
        setup.wait(10 * LIMIT)()
        assert setup.told == []

    def test_zero_is_no_limit(self) -> None:
        setup = Setup(limit=0)
        setup.work(setup.wait(1e9))
        assert setup.fields()["status"] == "done"

    def test_a_queue_that_does_not_answer_is_asked_again(self, setup: Setup) -> None:
        class Away(MemoryJobQueue):
            away = True

            def settle(
                self, job: Job, status: str, fields: Mapping[str, FieldValue], failure: Failure | None = None
            ) -> None:
                if self.away:
                    self.away = False
                    raise QueueUnavailable("away")
                super().settle(job, status, fields, failure)

        setup.queue = Away(setup.broker, queue="q")
        setup.key = setup.submitter.submit("q", "b.tif", {})
        setup.job = setup.claimed()

        statuses: list[str] = []
        setup.work(setup.wait(LIMIT + 1), setup.wait(1), lambda: statuses.append(setup.fields()["status"]))
        assert statuses == ["failed"]

    def test_a_job_that_somebody_else_has_is_not_touched_and_the_lane_still_watched(self, setup: Setup) -> None:
        def lose() -> None:
            setup.broker.records[setup.key].token = "theirs"  # noqa: S105 - a fence

        setup.work(lose, setup.wait(LIMIT + 1), setup.wait(GRACE_SECONDS + 1))
        assert setup.fields()["status"] == "started"
        assert len(setup.told) == 1

    def test_looks_by_itself(self) -> None:
        setup = Setup(limit=0.2)
        failed = threading.Event()
        limit = TimeLimit(0.2, setup.told.append, grace_seconds=600)
        limit.start()

        def handle(_job: Job) -> str:
            while not failed.wait(0.02):
                if setup.fields()["status"] == Status.FAILED:
                    failed.set()
            return Status.DONE

        thread = threading.Thread(
            target=work_off, args=(setup.queue, wrapped(handle, limit.around(setup.queue)), setup.job), daemon=True
        )
        thread.start()
        assert failed.wait(WAIT)
        thread.join(WAIT)
        limit.stop()
        assert limit.fault() == ""


class TestMemoryLimit:
    def test_zero_is_no_limit(self) -> None:
        assert MemoryLimit(0, lambda: 10**15)() is False

    def test_tells_who_has_grown_beyond_it(self, caplog: pytest.LogCaptureFixture) -> None:
        sizes = iter([0, 100_000_000, 100_000_002, 100_000_001])
        limit = MemoryLimit(100, lambda: next(sizes))
        assert [limit(), limit()] == [False, True]
        assert "it has grown to 100 MB, MAX_RSS_MB is 100" in caplog.text

    def test_what_was_only_kept_does_not_count(self) -> None:
        size = 100_000_001

        def trim() -> None:
            nonlocal size
            size -= 1

        assert not MemoryLimit(100, lambda: size, trim)()

    def test_measures_this_process(self) -> None:
        size = 50_000_000
        with mmap.mmap(-1, size) as block:  # fresh pages; an array might get used ones
            before = resident_bytes()
            block.write(bytes(size))
            assert 0.8 * size < resident_bytes() - before < 4 * size

    def test_a_system_that_does_not_tell_stops_the_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "Path", lambda _: tmp_path / "absent")
        with pytest.raises(SettingsError, match="MAX_RSS_MB is set; allowed is 0"):
            MemoryLimit(1)
        MemoryLimit(0)


def test_the_limits_of_archives_are_the_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a.tif", b"1" * 100)
        archive.writestr("b.tif", b"2" * 100)
    assert len(list(utils.iter_image_archive(tmp_path / "in.zip", tmp_path / "out"))) == 2
    for name, value in {"MEMBERS": "1", "BYTES": "199"}.items():
        monkeypatch.setenv(f"MAX_ARCHIVE_{name}", value)
        with pytest.raises(JobRejected, match=f"allowed are {value}"):
            list(utils.iter_image_archive(tmp_path / "in.zip", tmp_path / "out"))
        monkeypatch.delenv(f"MAX_ARCHIVE_{name}")


JOB = Job("predict:a.tif:1", "predict", {}, "token", 1)


class TestSpareMemory:
    def test_goes_once_there_was_no_job_for_a_while(self) -> None:
        now, trims = 0.0, 0

        def trim() -> None:
            nonlocal trims
            trims += 1

        def after(seconds: float) -> int:
            nonlocal now
            now += seconds
            spare.look()
            return trims

        def handle(_: Job) -> str:
            assert after(100) == 0  # while one is done
            return "done"

        spare = SpareMemory(10, trim, lambda: now)
        assert after(100) == 0  # nothing was done yet
        assert spare.watched(handle, JOB) == "done"
        assert [after(9), after(2), after(100)] == [0, 1, 1]

    def test_one_job_of_two_that_ends_is_no_rest(self) -> None:
        now, trims = 0.0, []
        spare = SpareMemory(10, lambda: trims.append(now), lambda: now)

        def handle(_: Job) -> str:
            nonlocal now
            spare.watched(lambda _: "done", JOB)
            now += 100
            spare.look()
            raise RuntimeError("bug")

        with pytest.raises(RuntimeError, match="bug"):
            spare.watched(handle, JOB)
        assert not trims
        now += 11
        spare.look()
        assert trims == [now]


FREED = """
import numpy as np
from redis_consumer.limits import resident_bytes, trim_malloc, tune_malloc
tune_malloc()
kept = [np.ones(1_000_000) for _ in range(10)]  # less than is kept
before = resident_bytes()
del kept
print(before - resident_bytes() < 10_000_000)
trim_malloc()
print(before - resident_bytes() > 70_000_000)
"""


def test_arrays_that_are_freed_are_kept_until_they_are_given_back() -> None:
    ran = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "True\nTrue\n"


FAULTS = """
import resource, threading
import numpy as np
from redis_consumer.limits import tune_malloc
{call}
def work():
    global faults
    for turn in range(20):
        if turn == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        arrays = [np.ones({size}) for _ in range({count})]
        del arrays
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
lane = threading.Thread(target=work)
lane.start()
lane.join()
print(faults)
"""


@pytest.mark.parametrize(("size", "count"), [(2**17, 10), (2**21, 5)], ids=["1 MiB", "16 MiB"])
def test_memory_of_arrays_is_used_again(size: int, count: int) -> None:
    def faults(call: str) -> int:
        script = FAULTS.format(call=call, size=size, count=count)
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
        return int(ran.stdout)

    assert faults("tune_malloc()") < faults("") / 10
