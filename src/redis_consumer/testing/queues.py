"""The exam of a `JobQueue` with its `Submitter`: subclass `JobQueueExam` as ``Test...`` and give it a `stage`."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from redis_consumer.errors import Failure, LeaseLost
from redis_consumer.queues.base import Child, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from redis_consumer.job import Job
    from redis_consumer.queues.admin import JobAdmin
    from redis_consumer.queues.base import JobQueue, Submitter

QUEUE = "segmentation"
SOON = 0.05
"""How long a claim waits that should find nothing, s."""
LONG = 20.0
"""How long one waits that should not have to."""
NAMES = [
    "plain.tif",
    "with space.tif",
    "a:b::c.tif",
    "a,b;c=d|e.tif",
    "Zelle_Größe_細胞 🔬.tif",
    "50%{x}*?[y].tif",
    "-",
    "",
]


class Stage(Protocol):
    """One empty server, and what an exam does behind the queue's back."""

    def lane(self, *, pod: str = "pod-1", max_deliveries: int = 5) -> JobQueue:
        """Open a new lane on `QUEUE`."""

    def submitter(self) -> Submitter:
        """Return the way in."""

    def entries(self) -> list[str]:
        """Return what waits in `QUEUE`, from left (in) to right (out)."""

    def push(self, key: str) -> None:
        """Put an entry into `QUEUE`, on the left, whether there is such a job or not."""

    def write(self, key: str, fields: Mapping[str, str]) -> None:
        """Write into a job's hash, as a foreign program does."""

    def vanish(self, key: str) -> None:
        """Delete a job's hash."""

    def lose(self, job: Job) -> None:
        """Let the lease of a held job run out, and sweep."""

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the jobs that stand aside."""

    def sweep(self) -> None:
        """Sweep once."""

    def admin(self) -> JobAdmin:
        """Return what an operator has."""


class QueueFixtures:
    """What the exams of a queue have in common; subclasses give a `stage`."""

    @pytest.fixture
    def stage(self) -> Stage:
        """Return an empty server."""
        raise NotImplementedError

    @pytest.fixture
    def lane(self, stage: Stage) -> JobQueue:
        return stage.lane(pod="pod-1")

    @pytest.fixture
    def other(self, stage: Stage) -> JobQueue:
        return stage.lane(pod="pod-2")

    @pytest.fixture
    def submit(self, stage: Stage) -> Callable[..., str]:
        submitter = stage.submitter()
        return lambda name="cells.tif", **fields: submitter.submit(QUEUE, name, fields)

    @pytest.fixture
    def read(self, stage: Stage) -> Callable[[str], dict[str, str]]:
        return stage.submitter().read


class JobQueueExam(QueueFixtures):
    """What every queue promises."""

    # The way in.

    @pytest.mark.parametrize("name", NAMES)
    def test_a_key_names_queue_file_and_a_uuid(self, submit: Any, name: str) -> None:
        key = submit(name)
        assert key.startswith(f"{QUEUE}:{name}:")
        assert len(key.rpartition(":")[2]) == 36

    def test_a_new_job_has_what_the_kiosk_expects(self, submit: Any, read: Any) -> None:
        fields = read(submit(scale=0.5, channels="0,1"))
        assert fields.pop("created_at") == fields.pop("updated_at")
        assert fields.pop("identity_upload")
        assert fields == {"status": "new", "scale": "0.5", "channels": "0,1"}

    def test_given_fields_win_over_defaults(self, submit: Any, read: Any) -> None:
        assert read(submit(identity_upload="me"))["identity_upload"] == "me"

    def test_there_is_nothing_to_read_of_an_unknown_job(self, read: Any) -> None:
        assert read(f"{QUEUE}:unknown:1") == {}

    # Claiming.

    @pytest.mark.parametrize("name", NAMES)
    def test_a_claim_returns_the_job_with_its_fields(self, lane: JobQueue, submit: Any, name: str) -> None:
        key = submit(name, original_name=name, channels="0,")
        job = claimed(lane)
        assert (job.key, job.queue, job.deliveries) == (key, QUEUE, 1)
        assert job.fields["original_name"] == name
        assert job.token

    def test_a_claim_shows_in_the_hash_at_once(self, lane: JobQueue, submit: Any, read: Any) -> None:
        before = read(submit())["updated_at"]
        job = claimed(lane)
        fields = read(job.key)
        assert fields["status"] == job.fields["status"] == "started"
        assert fields["identity_started"] == fields["updated_by"] == "pod-1"
        assert moment(fields["updated_at"]) > moment(before)

    def test_an_empty_queue_gives_nothing_after_a_while(self, lane: JobQueue) -> None:
        assert lane.claim(timeout=SOON) is None
        assert lane.claim(timeout=0) is None

    def test_the_oldest_job_comes_first(self, lane: JobQueue, submit: Any) -> None:
        keys = [submit(f"{i}.tif") for i in range(3)]
        assert [finished(lane, claimed(lane)) for _ in keys] == keys

    def test_a_waiting_claim_gets_the_next_job(self, lane: JobQueue, submit: Any) -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lane.claim, timeout=LONG)
            key = submit()
            job = waiting.result(LONG)
        assert job is not None
        assert job.key == key

    def test_each_job_goes_to_one_lane(self, stage: Stage, submit: Any) -> None:
        keys = {submit(f"{i}.tif") for i in range(24)}

        def work_off(lane: JobQueue) -> list[str]:
            done = []
            while job := lane.claim(timeout=SOON):
                done.append(finished(lane, job))
            return done

        with ThreadPoolExecutor(4) as pool:
            done = [key for keys in pool.map(work_off, [stage.lane(pod=f"pod-{i}") for i in range(4)]) for key in keys]
        assert sorted(done) == sorted(keys)

    def test_each_claim_has_its_own_token(self, lane: JobQueue, submit: Any) -> None:
        submit()
        first = claimed(lane)
        lane.release(first, Place.BACK)
        assert claimed(lane).token != first.token

    def test_an_entry_without_a_hash_is_dropped(self, lane: JobQueue, stage: Stage, submit: Any, read: Any) -> None:
        stage.push(f"{QUEUE}:expired.tif:1")
        key = submit()
        assert claimed(lane).key == key
        assert read(f"{QUEUE}:expired.tif:1") == {}

    @pytest.mark.parametrize("status", ["done", "failed"])
    def test_a_final_job_is_dropped_as_it_is(
        self, lane: JobQueue, stage: Stage, submit: Any, read: Any, status: str
    ) -> None:
        key = submit(status=status, reason="because")
        before = read(key)
        assert lane.claim(timeout=SOON) is None
        assert read(key) == before
        assert stage.entries() == []

    def test_an_odd_status_is_in_progress(self, lane: JobQueue, submit: Any) -> None:
        key = submit(status="retry-predicting - 3")
        assert claimed(lane).key == key

    def test_a_second_entry_of_a_held_job_is_dropped(
        self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any, read: Any
    ) -> None:
        submit()
        job = claimed(lane)
        stage.push(job.key)
        before = read(job.key)
        assert other.claim(timeout=SOON) is None
        assert read(job.key) == before
        assert stage.entries() == []
        lane.settle(job, "done", {})

    def test_a_second_entry_of_a_job_that_waits_runs_once(self, lane: JobQueue, stage: Stage, submit: Any) -> None:
        stage.push(submit())
        finished(lane, claimed(lane))
        assert lane.claim(timeout=SOON) is None

    def test_a_job_that_was_delivered_too_often_fails(self, stage: Stage, submit: Any, read: Any) -> None:
        lane = stage.lane(max_deliveries=2)
        key = submit()
        for delivery in (1, 2):
            job = claimed(lane)
            assert job.deliveries == delivery
            lane.release(job, Place.BACK)
        assert lane.claim(timeout=SOON) is None
        assert stage.entries() == []
        fields = read(key)
        assert fields["status"] == "failed"
        assert "2 deliveries" in fields["reason"]
        assert "\n" not in fields["reason"]

    def test_a_lost_lease_counts_as_a_delivery(
        self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any
    ) -> None:
        submit()
        stage.lose(claimed(lane))
        assert claimed(other).deliveries == 2

    # Waking.

    def test_a_blocked_claim_can_be_woken(self, lane: JobQueue) -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lane.claim, timeout=LONG)
            lane.wake()
            assert waiting.result(LONG / 2) is None

    def test_a_wake_before_the_claim_is_not_lost(self, lane: JobQueue) -> None:
        lane.wake()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lane.claim, timeout=LONG).result(LONG / 2) is None

    def test_a_woken_lane_can_claim_again(self, lane: JobQueue, submit: Any) -> None:
        lane.wake()
        assert lane.claim(timeout=LONG) is None
        key = submit()
        assert claimed(lane).key == key

    # Writing.

    def test_an_update_is_written_with_time_and_pod(self, lane: JobQueue, submit: Any, read: Any) -> None:
        submit()
        job = claimed(lane)
        lane.update(job, {"status": "predicting", "scale": 0.25, "retries": 3, "note": "a, b\n"})
        fields = read(job.key)
        assert (fields["status"], fields["scale"], fields["retries"]) == ("predicting", "0.25", "3")
        assert fields["note"] == "a, b\n"
        assert moment(fields["updated_at"]) > moment(job.fields["updated_at"])
        assert fields["updated_by"] == "pod-1"

    def test_what_is_announced_is_written_before_what_follows(self, lane: JobQueue, submit: Any, read: Any) -> None:
        submit()
        job = claimed(lane)
        lane.announce(job, {"status": "pre-processing", "first": 1})
        lane.announce(job, {"status": "predicting", "second": 2})
        lane.update(job, {"progress": 3})
        fields = read(job.key)
        assert [fields[name] for name in ("status", "first", "second", "progress")] == ["predicting", "1", "2", "3"]
        lane.announce(job, {"status": "post-processing", "third": 3})
        lane.announce(job, {"status": "done", "fourth": 4})
        assert read(job.key)["status"] == "post-processing"
        lane.settle(job, "done", {"third": 0, "fourth": 0})
        assert [read(job.key)[name] for name in ("status", "third", "fourth")] == ["done", "0", "4"]

    @pytest.mark.parametrize("to", [Place.BACK, Place.LATER, Place.WAITING])
    def test_what_is_announced_is_there_after_the_release(
        self, lane: JobQueue, submit: Any, read: Any, to: Place
    ) -> None:
        submit()
        job = claimed(lane)
        lane.announce(job, {"status": "my-own-word", "note": "seen"})
        lane.release(job, to, seconds=LONG)
        assert read(job.key)["note"] == "seen"
        assert read(job.key)["status"] == ("my-own-word" if to is Place.WAITING else "new")

    @pytest.mark.parametrize("to", Place)
    def test_a_lane_goes_on_after_what_it_announced(self, lane: JobQueue, submit: Any, read: Any, to: Place) -> None:
        keys = [submit(name) for name in ("first.tif", "second.tif")]
        lane.announce(job := claimed(lane), {"status": "predicting"})
        lane.release(job, to, seconds=LONG)
        lane.announce(job := claimed(lane), {"note": "mine"})
        lane.settle(job, "done", {})
        assert [read(key).get("note") for key in keys] == (["mine", None] if to is Place.FRONT else [None, "mine"])

    def test_a_value_that_is_no_text_or_number_is_refused(self, lane: JobQueue, submit: Any, read: Any) -> None:
        submit()
        job = claimed(lane)
        with pytest.raises(TypeError, match="reason"):
            lane.update(job, {"reason": None})  # type: ignore[dict-item]  # what an old consumer may do
        assert "reason" not in read(job.key)

    def test_a_final_status_waits_for_the_settle(self, lane: JobQueue, submit: Any, read: Any) -> None:
        submit()
        job = claimed(lane)
        lane.update(job, {"status": "done", "output_url": "kept", "total_jobs": 3})
        assert read(job.key) == dict(job.fields)
        lane.settle(job, "done", {"output_url": "not kept", "extra": "1"})
        fields = read(job.key)
        assert (fields["status"], fields["output_url"], fields["total_jobs"]) == ("done", "kept", "3")
        assert fields["extra"] == "1"

    def test_kept_fields_belong_to_their_job(self, lane: JobQueue, submit: Any, read: Any) -> None:
        submit("first.tif")
        lane.update(job := claimed(lane), {"status": "failed", "reason": "first"})
        lane.release(job, Place.BACK)
        lane.settle(job := claimed(lane), "done", {})
        assert "reason" not in read(job.key)

    def test_a_done_job_has_what_readers_rely_on(self, lane: JobQueue, submit: Any, read: Any) -> None:
        submit()
        lane.settle(job := claimed(lane), "done", {"output_url": "https://host/x.zip"})
        fields = read(job.key)
        assert fields["status"] == "done"
        assert moment(job.fields["updated_at"]) < moment(fields["finished_at"]) <= moment(fields["updated_at"])
        assert 0 <= float(fields["total_time"]) < LONG
        assert fields["total_jobs"] == "1"

    def test_what_the_consumer_measured_is_not_overwritten(self, lane: JobQueue, submit: Any, read: Any) -> None:
        submit()
        job = claimed(lane)
        lane.update(job, {"total_time": 12.5})
        lane.settle(job, "done", {"finished_at": "2020-01-01T00:00:00+00:00"})
        fields = read(job.key)
        assert (fields["total_time"], fields["finished_at"]) == ("12.5", "2020-01-01T00:00:00+00:00")

    @pytest.mark.parametrize(
        ("reason", "written"),
        [
            ({"reason": "no pixels\n\n "}, "no pixels"),
            ({"reason": " "}, None),
            ({}, None),
            ({"reason": "a\nb"}, "a\nb"),
            ({"reason": "a\x85"}, "a\x85"),  # blank for Python alone
        ],
    )
    def test_a_failed_job_has_a_reason(
        self, lane: JobQueue, submit: Any, read: Any, reason: dict[str, str], written: str | None
    ) -> None:
        submit()
        lane.settle(job := claimed(lane), "failed", reason)
        fields = read(job.key)
        assert fields["status"] == "failed"
        assert "finished_at" not in fields
        assert fields["reason"].strip()
        assert written is None or fields["reason"] == written

    @pytest.mark.parametrize("text", ["caf\udce9.tif", "half a character \ud83d", "nul \0", "]]> '\"\\ {}", "%s %d"])
    def test_any_text_can_be_written(self, stage: Stage, submit: Any, read: Any, text: str) -> None:
        lane, failure = stage.lane(max_deliveries=2), Failure("Bug", text, text)
        keys = [submit(f"{i}.tif") for i in range(2)]
        lane.update(job := claimed(lane), {"note": text})
        lane.settle(job, "failed", {"reason": text}, failure)
        lane.release(claimed(lane), Place.BACK, failure=failure)
        assert lane.release(claimed(lane), Place.BACK, failure=failure) == "failed"
        assert [read(key)["status"] for key in keys] == ["failed", "failed"]
        assert lane.claim(timeout=SOON) is None

    def test_a_settled_job_is_nowhere_else(self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any) -> None:
        submit()
        finished(lane, claimed(lane))
        assert lane.claim(timeout=SOON) is None
        assert other.claim(timeout=SOON) is None
        assert stage.entries() == []

    def test_a_settle_may_be_repeated(self, lane: JobQueue, submit: Any, read: Any) -> None:
        submit()
        lane.settle(job := claimed(lane), "done", {"output_url": "first"})
        before = read(job.key)
        lane.settle(job, "failed", {"reason": "second"})
        assert read(job.key) == before

    def test_a_heartbeat_renews_the_time(self, lane: JobQueue, submit: Any, read: Any) -> None:
        submit()
        job = claimed(lane)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lane.heartbeat, job).result(LONG)
        fields = read(job.key)
        assert moment(fields["updated_at"]) > moment(job.fields["updated_at"])
        assert fields | {"updated_at": ""} == dict(job.fields) | {"updated_at": ""}

    # Giving back.

    @pytest.mark.parametrize(("place", "order"), [(Place.FRONT, [0, 1, 2]), (Place.BACK, [1, 2, 0])])
    def test_a_released_job_stands_where_it_should(
        self, lane: JobQueue, other: JobQueue, submit: Any, read: Any, place: Place, order: list[int]
    ) -> None:
        keys = [submit(f"{i}.tif") for i in range(3)]
        lane.release(job := claimed(lane), place)
        assert read(job.key)["status"] == "new"
        assert [finished(other, claimed(other)) for _ in keys] == [keys[i] for i in order]

    def test_a_release_may_be_repeated(self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any) -> None:
        key = submit()
        job = claimed(lane)
        for _ in range(2):
            lane.release(job, Place.BACK)
        assert stage.entries() == [key]
        theirs = claimed(other)
        lane.release(job, Place.BACK)
        assert stage.entries() == []
        other.settle(theirs, "done", {})

    @pytest.mark.parametrize(("place", "deliveries"), [(Place.FRONT, 1), (Place.BACK, 2)])
    def test_only_a_release_to_the_back_is_counted(
        self, lane: JobQueue, submit: Any, place: Place, deliveries: int
    ) -> None:
        submit()
        lane.release(claimed(lane), place)
        assert claimed(lane).deliveries == deliveries

    def test_close_hands_back_all_but_the_job_in_hand(
        self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any
    ) -> None:
        keys = [submit(f"{i}.tif") for i in range(3)]
        job = claimed(lane)
        lane.close()
        assert stage.entries() == [keys[2], keys[1]]
        lane.settle(job, "done", {})
        assert [finished(other, claimed(other)) for _ in keys[1:]] == keys[1:]

    def test_a_closed_lane_is_woken(self, lane: JobQueue) -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lane.claim, timeout=LONG)
            lane.close()
            assert waiting.result(LONG / 2) is None

    # Ghosts: lanes that believe they hold a job.

    WRITES: tuple[Callable[[JobQueue, Job], object], ...] = (
        lambda lane, job: lane.update(job, {"status": "predicting", "ghost": "1"}),
        lambda lane, job: announced_twice(lane, job, {"status": "predicting", "ghost": "1"}),
        lambda lane, job: lane.settle(job, "done", {"ghost": "1"}),
        lambda lane, job: lane.settle(job, "failed", {"ghost": "1"}),
        lambda lane, job: lane.release(job, Place.FRONT),
        lambda lane, job: lane.release(job, Place.BACK),
        lambda lane, job: lane.release(job, Place.LATER),
        lambda lane, job: lane.release(job, Place.WAITING),
        lambda lane, job: lane.submit_children(job, [Child(QUEUE, "ghost.tif", {})]),
        lambda lane, job: lane.heartbeat(job),
    )
    ghostly = pytest.mark.parametrize("write", WRITES)

    @ghostly
    def test_a_ghost_writes_nothing_once_its_lease_was_swept(
        self, lane: JobQueue, stage: Stage, submit: Any, read: Any, write: Any
    ) -> None:
        submit()
        stage.lose(job := claimed(lane))
        before = read(job.key)
        with pytest.raises(LeaseLost, match=r"cells\.tif"):
            write(lane, job)
        assert read(job.key) == before
        assert stage.entries() == [job.key]

    @ghostly
    def test_a_ghost_writes_nothing_while_another_lane_works(
        self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any, read: Any, write: Any
    ) -> None:
        submit()
        stage.lose(job := claimed(lane))
        theirs = claimed(other)
        before = read(job.key)
        with pytest.raises(LeaseLost):
            write(lane, job)
        assert read(job.key) == before
        assert stage.entries() == []
        other.settle(theirs, "done", {})

    @ghostly
    def test_nothing_is_written_to_a_job_that_somebody_finished(
        self, lane: JobQueue, stage: Stage, submit: Any, read: Any, write: Any
    ) -> None:
        submit()
        job = claimed(lane)
        stage.write(job.key, {"status": "failed", "reason": "cancelled"})
        before = read(job.key)
        with pytest.raises(LeaseLost):
            write(lane, job)
        assert read(job.key) == before
        assert stage.entries() == []

    @ghostly
    def test_a_job_that_vanished_is_not_created_again(
        self, lane: JobQueue, stage: Stage, submit: Any, read: Any, write: Any
    ) -> None:
        submit()
        job = claimed(lane)
        stage.vanish(job.key)
        with pytest.raises(LeaseLost):
            write(lane, job)
        assert read(job.key) == {}
        assert stage.entries() == []

    def test_a_lost_lease_stays_lost(self, lane: JobQueue, stage: Stage, submit: Any) -> None:
        submit()
        stage.lose(job := claimed(lane))
        for _ in range(2):
            with pytest.raises(LeaseLost):
                lane.heartbeat(job)

    def test_a_lane_goes_on_after_a_lost_job(self, lane: JobQueue, stage: Stage, submit: Any) -> None:
        submit()
        stage.lose(job := claimed(lane))
        with pytest.raises(LeaseLost):
            lane.settle(job, "done", {})
        assert finished(lane, claimed(lane)) == job.key

    def test_heartbeats_and_writes_do_not_disturb_each_other(self, lane: JobQueue, submit: Any, read: Any) -> None:
        submit()
        job = claimed(lane)
        over = threading.Event()

        def beat() -> None:
            while not over.wait(0.001):
                lane.heartbeat(job)

        with ThreadPoolExecutor(1) as pool:
            beating = pool.submit(beat)
            for i in range(50):
                lane.update(job, {"progress": i})
            over.set()
            beating.result(LONG)
        assert read(job.key)["progress"] == "49"


def claimed(lane: JobQueue) -> Job:
    """Claim the job that must be there."""
    job = lane.claim(timeout=LONG)
    assert job is not None
    return job


def announced_twice(lane: JobQueue, job: Job, fields: Mapping[str, str]) -> None:
    """Announce, and hear of it with the next announcement."""
    for _ in range(2):
        lane.announce(job, fields)


def finished(lane: JobQueue, job: Job) -> str:
    """Settle a job and return its key."""
    lane.settle(job, "done", {})
    return job.key


def moment(text: str) -> datetime:
    """Return a time stamp as the janitor reads it: ISO 8601, the offset given."""
    time = datetime.fromisoformat(text)
    assert time.utcoffset() == timedelta(0)
    return time
