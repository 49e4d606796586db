from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING

import pytest

from redis_consumer.errors import JobRejected, LeaseLost, ServerBusy, StorageUnavailable
from redis_consumer.job import Job, Status
from redis_consumer.metrics import UNFINISHED, Metrics
from redis_consumer.middleware import NoObserver, wrapped
from redis_consumer.queues.base import Place
from redis_consumer.queues.depth import Depth, age_seconds
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter
from redis_consumer.storage.object_store import open_storage
from redis_consumer.worker import work_off

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from redis_consumer.queues.base import FieldValue

STAGES = {"download_time": "started", "prediction_time": "predicting"}


class Setup:
    """A measured lane, and jobs in its queue."""

    def __init__(self) -> None:
        self.metrics = Metrics(queue="q", consumer_type="image", stages=STAGES)
        self.late = 0.0
        self.broker = MemoryBroker(clock=lambda: time.time() + self.late)
        self.submitter = MemorySubmitter(self.broker)
        self.queue, self.middleware = self.metrics.lane(MemoryJobQueue(self.broker, queue="q"))

    def claimed(self, **fields: FieldValue) -> Job:
        if not self.broker.queues["q"]:
            self.submitter.submit("q", "a.tif", fields)
        job = self.queue.claim(timeout=0)
        assert job is not None
        return job

    def work(self, handle: Callable[[Job], str], job: Job | None = None) -> None:
        work_off(self.queue, wrapped(handle, self.middleware), job or self.claimed())

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"redis_consumer_{name}", labels)

    def ends(self) -> dict[tuple[str, str], float]:
        """Return the jobs that ended, by status and error class."""
        (family,) = (family for family in self.metrics.registry.collect() if family.name == "redis_consumer_jobs")
        samples = [sample for sample in family.samples if sample.name.endswith("_total") and sample.value]
        return {(sample.labels["status"], sample.labels["error"]): sample.value for sample in samples}


@pytest.fixture
def setup() -> Setup:
    return Setup()


def raising(error: BaseException) -> Callable[[Job], str]:
    def handle(_job: Job) -> str:
        raise error

    return handle


class TestJobs:
    @pytest.mark.parametrize(
        ("handle", "end"),
        [
            (lambda _: "done", ("done", "")),
            (lambda _: "failed", ("failed", "")),
            (lambda _: "predicting", ("released", "")),
            (raising(JobRejected("no")), ("failed", "JobRejected")),
            (raising(ValueError("bug")), ("failed", "ValueError")),
            (raising(SystemExit(1)), ("failed", "SystemExit")),
            (raising(StorageUnavailable("down")), ("released", "StorageUnavailable")),
            (raising(LeaseLost("gone")), ("lost", "LeaseLost")),
        ],
    )
    def test_each_end_is_counted_once_with_its_error_class(
        self, setup: Setup, handle: Callable[[Job], str], end: tuple[str, str]
    ) -> None:
        setup.work(handle)
        assert setup.ends() == {end: 1}

    def test_a_job_handed_back_by_the_drain_is_unfinished(self, setup: Setup) -> None:
        def handle(job: Job) -> str:
            setup.queue.release(job, Place.FRONT)  # as another thread does
            return Status.DONE

        setup.work(handle)
        assert setup.ends() == {("released", UNFINISHED): 1}

    def test_a_job_taken_away_is_counted_once_whatever_its_lane_says_later(self, setup: Setup) -> None:
        def handle(job: Job) -> str:
            setup.queue.settle(job, Status.FAILED, {"reason": "too long"})
            raise LeaseLost("taken away")

        setup.work(handle)
        assert setup.ends() == {("failed", UNFINISHED): 1}
        assert setup.value("lease_losses_total") == 0

    def test_a_lease_that_was_lost_is_counted_once(self, setup: Setup) -> None:
        def handle(job: Job) -> str:
            setup.broker.records[job.key].token = "theirs"  # noqa: S105 - a fence
            for _ in range(2):
                with pytest.raises(LeaseLost):
                    setup.queue.update(job, {"status": "predicting"})
            return Status.DONE

        setup.work(handle)
        assert setup.ends() == {("lost", "LeaseLost"): 1}
        assert setup.value("lease_losses_total") == 1

    def test_the_error_of_one_job_is_not_that_of_the_next(self, setup: Setup) -> None:
        setup.work(raising(JobRejected("no")))
        setup.work(lambda _: "failed")
        assert setup.ends() == {("failed", "JobRejected"): 1, ("failed", ""): 1}

    def test_deliveries_tell_the_first_from_the_others(self, setup: Setup) -> None:
        setup.work(raising(StorageUnavailable("down")))
        setup.late += 1.0
        setup.work(lambda _: "done", setup.queue.claim(timeout=0))
        assert setup.value("deliveries_total", repeated="false") == 1
        assert setup.value("deliveries_total", repeated="true") == 1

    def test_seconds_by_stage_are_the_last_word_of_each_job(self, setup: Setup) -> None:
        def handle(job: Job) -> str:
            setup.queue.update(job, {"download_time": 0.5})
            setup.queue.update(job, {"prediction_time": 1.0})
            setup.queue.update(job, {"prediction_time": 3.0, "status": "done"})  # it ran twice: all of its time
            return Status.DONE

        setup.work(handle)
        assert setup.value("stage_seconds_sum", stage="predicting") == 3.0
        assert setup.value("stage_seconds_count", stage="predicting") == 1
        assert setup.value("stage_seconds_sum", stage="started") == 0.5

    def test_stages_that_no_number_describes_are_left_out(self, setup: Setup) -> None:
        def handle(job: Job) -> str:
            setup.queue.update(job, {"download_time": "long"})
            return Status.DONE

        setup.work(handle)
        assert setup.value("stage_seconds_count", stage="started") is None
        assert setup.ends() == {("done", ""): 1}

    def test_a_job_without_stages_takes_none_from_the_one_before(self, setup: Setup) -> None:
        def handle(job: Job) -> str:
            setup.queue.update(job, {"download_time": 0.5})
            return Status.DONE

        setup.work(handle)
        setup.work(lambda _: "done")
        assert setup.value("stage_seconds_count", stage="started") == 1

    def test_the_claim_latency_is_that_of_first_claims(self, setup: Setup) -> None:
        an_hour_ago = (dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)).isoformat()
        setup.work(raising(StorageUnavailable("down")), setup.claimed(created_at=an_hour_ago))
        setup.late += 1.0
        setup.work(lambda _: "done", setup.queue.claim(timeout=0))
        assert setup.value("claim_latency_seconds_count") == 1
        assert setup.value("claim_latency_seconds_sum") == pytest.approx(3600, abs=60)


class TestOthers:
    def test_sweeps_and_what_they_brought_back(self, setup: Setup) -> None:
        found = iter([0, 3])
        sweep = setup.metrics.sweep(lambda: next(found))
        assert [sweep(), sweep()] == [0, 3]
        assert (setup.value("sweeps_total"), setup.value("swept_jobs_total")) == (2, 3)

    def test_refusals_of_the_model_server_by_class(self, setup: Setup) -> None:
        setup.metrics.refused(ServerBusy("full"))
        assert setup.value("model_server_retries_total", error="ServerBusy") == 1

    def test_slots_of_the_model_server_as_they_are_now(self, setup: Setup) -> None:
        allowed = iter([8, 4])
        setup.metrics.watch_slots(lambda: next(allowed))
        assert [setup.value("model_server_slots") for _ in range(2)] == [8, 4]

    def test_bytes_go_down_and_up(self, setup: Setup, tmp_path: Path) -> None:
        storage = setup.metrics.storage(open_storage("memory://"))
        (tmp_path / "result.zip").write_bytes(b"12345")
        upload = storage.upload(tmp_path / "result.zip")
        assert storage.download(upload.key, tmp_path / "input").endswith("result.zip")
        deposit = storage.deposit(tmp_path / "result.zip")
        assert storage.url(deposit.key) == deposit.url
        storage.check()
        assert (setup.value("uploaded_bytes_total"), setup.value("downloaded_bytes_total")) == (5, 5)

    def test_what_waits_is_asked_at_each_scrape_and_may_be_unknown(self, setup: Setup) -> None:
        depths = iter([Depth(7, 2.5), None])
        setup.metrics.watch_queue("q", lambda: next(depths))
        first, second = setup.metrics.render().decode(), setup.metrics.render().decode()
        assert 'redis_consumer_queue_jobs{queue="q"} 7.0' in first
        assert 'redis_consumer_queue_age_seconds{queue="q"} 2.5' in first
        assert "redis_consumer_queue_jobs{" not in second

    def test_the_process_and_the_program_are_told(self, setup: Setup) -> None:
        text = setup.metrics.render().decode()
        assert "process_resident_memory_bytes " in text
        assert 'redis_consumer_info{consumer_type="image",queue="q",version=' in text

    def test_two_of_them_share_nothing(self, setup: Setup) -> None:
        setup.work(lambda _: "done")
        assert Setup().ends() == {}

    def test_without_an_observer_everything_stays_as_it_is(self) -> None:
        observer, queue = NoObserver(), MemoryJobQueue(MemoryBroker(), queue="q")
        storage = open_storage("memory://")
        same, middleware = observer.lane(queue)
        assert (same, observer.storage(storage)) == (queue, storage)
        assert middleware(lambda job: job.key, Job("k", "q")) == "k"
        assert observer.sweep(lambda: 3)() == 3
        observer.refused(ServerBusy("full"))


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-23T10:00:00", "9" * 400, "2999-01-01T00:00:00Z"])
def test_a_time_that_is_none_or_has_no_offset_or_is_to_come_is_no_age(text: str) -> None:
    assert age_seconds(text) == 0.0
