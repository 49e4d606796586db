"""The exam of a `JobAdmin`: subclass `JobAdminExam` as ``Test...`` and give it a `stage`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from redis_consumer.errors import Failure, LeaseLost
from redis_consumer.queues.base import Child, Place
from redis_consumer.testing.queues import QUEUE, SOON, QueueFixtures, claimed, finished

if TYPE_CHECKING:
    from redis_consumer.queues.admin import JobAdmin
    from redis_consumer.queues.base import JobQueue
    from redis_consumer.testing.queues import Stage

ME = "operator"
BUG = Failure("ZeroDivisionError", "ZeroDivisionError: division by zero", "Traceback ...\nZeroDivisionError")


class JobAdminExam(QueueFixtures):
    """What every `JobAdmin` promises."""

    @pytest.fixture
    def admin(self, stage: Stage) -> JobAdmin:
        return stage.admin()

    # Looking.

    def test_a_lane_shows_its_job(self, admin: JobAdmin, lane: JobQueue, submit: Any) -> None:
        key = submit()
        lane.update(claimed(lane), {"status": "predicting"})
        (state,) = [state for state in admin.lanes() if state.job]
        assert (state.job, state.queue, state.pod, state.status) == (key, QUEUE, "pod-1", "predicting")
        assert state.deliveries == 1
        assert abs(state.since - state.seen_at) < 60

    def test_a_queue_shows_what_stands_where(self, admin: JobAdmin, stage: Stage, submit: Any) -> None:
        lanes = [stage.lane(pod=f"pod-{i}") for i in range(3)]
        for i in range(5):
            submit(f"{i}.tif")
        claimed(lanes[0])
        lanes[1].release(claimed(lanes[1]), Place.LATER, seconds=1000, failure=BUG)
        lanes[2].settle(claimed(lanes[2]), "failed", {"reason": "x"}, BUG)
        (state,) = [state for state in admin.queues() if state.queue == QUEUE]
        assert (state.waiting, state.running, state.parked, state.dead) == (2, 1, 1, 1)
        assert 0 <= state.oldest_seconds < 60

    def test_jobs_are_found_by_place(self, admin: JobAdmin, stage: Stage, submit: Any) -> None:
        lanes = [stage.lane(pod=f"pod-{i}") for i in range(3)]
        keys = [submit(f"{i}.tif") for i in range(5)]
        claimed(lanes[0])
        lanes[1].release(claimed(lanes[1]), Place.LATER, seconds=1000, failure=BUG)
        lanes[2].settle(claimed(lanes[2]), "failed", {"reason": "x"}, BUG)
        found = {place: admin.find([QUEUE], place, limit=9) for place in ("waiting", "running", "parked", "failed")}
        assert {place: [job.key for job in jobs] for place, jobs in found.items()} == {
            "running": [keys[0]],
            "parked": [keys[1]],
            "failed": [keys[2]],
            "waiting": keys[3:],
        }
        assert found["running"][0].fields["status"] == "started"
        assert [job.key for job in admin.find([QUEUE], "waiting", limit=1)] == [keys[3]]

    def test_who_failed_last_is_found_first(self, admin: JobAdmin, lane: JobQueue, submit: Any) -> None:
        keys = [submit(f"{i}.tif") for i in range(3)]
        for _ in keys:
            lane.settle(claimed(lane), "failed", {"reason": "x"}, BUG)
        assert [job.key for job in admin.find([QUEUE], "failed", limit=2)] == [keys[2], keys[1]]

    def test_a_failed_job_whose_hash_expired_still_says_why(
        self, admin: JobAdmin, lane: JobQueue, stage: Stage, submit: Any
    ) -> None:
        key = submit(original_name="1.tif")
        lane.settle(claimed(lane), "failed", {"reason": "division by zero"}, BUG)
        stage.vanish(key)
        (job,) = admin.find([QUEUE], "failed", limit=9)
        assert (job.key, job.fields["status"], job.fields["reason"]) == (key, "failed", "division by zero")
        assert job.fields["original_name"] == "1.tif"

    def test_jobs_of_several_queues_come_queue_by_queue(self, admin: JobAdmin, stage: Stage) -> None:
        submit = stage.submitter().submit
        keys = {queue: [submit(queue, f"{i}.tif", {}) for i in range(3)] for queue in (QUEUE, "other", "third")}
        wanted = [*keys["other"][:2], *keys[QUEUE][:2]]
        assert [job.key for job in admin.find(["other", QUEUE], "waiting", limit=2)] == wanted
        for key in [key for family in keys.values() for key in reversed(family)]:
            admin.cancel(key, by=ME)
        found = admin.find(["other", QUEUE], "failed", limit=2)
        assert [job.key for job in found] == wanted
        assert [job.queue for job in found] == ["other", "other", QUEUE, QUEUE]

    # Cancelling.

    def test_a_cancelled_job_is_failed_at_once_and_its_lane_writes_nothing_more(
        self, admin: JobAdmin, lane: JobQueue, submit: Any, read: Any
    ) -> None:
        key = submit()
        job = claimed(lane)
        assert admin.cancel(key, by=ME) == [key]
        fields = read(key)
        assert (fields["status"], fields["reason"]) == ("failed", "Cancelled by operator")
        for write in (lane.heartbeat, lambda job: lane.settle(job, "done", {})):
            with pytest.raises(LeaseLost):
                write(job)
        assert read(key) == fields
        assert lane.claim(timeout=SOON) is None

    def test_a_job_that_waits_can_be_cancelled(
        self, admin: JobAdmin, lane: JobQueue, stage: Stage, submit: Any, read: Any
    ) -> None:
        key, other = submit("1.tif"), submit("2.tif")
        assert admin.cancel(key, by=ME) == [key]
        assert read(key)["status"] == "failed"
        assert finished(lane, claimed(lane)) == other
        assert stage.entries() == []

    def test_a_job_that_stands_aside_can_be_cancelled(
        self, admin: JobAdmin, lane: JobQueue, stage: Stage, submit: Any
    ) -> None:
        key = submit()
        lane.release(claimed(lane), Place.LATER, seconds=1000, failure=BUG)
        assert admin.cancel(key, by=ME) == [key]
        stage.pass_time(1001)
        assert lane.claim(timeout=SOON) is None

    def test_children_are_cancelled_with_their_parent(
        self, admin: JobAdmin, lane: JobQueue, stage: Stage, submit: Any, read: Any
    ) -> None:
        key = submit("parent.zip")
        keys = lane.submit_children(parent := claimed(lane), [Child(QUEUE, f"{i}.tif", {}) for i in range(3)])
        lane.release(parent, Place.WAITING)
        finished(lane, claimed(lane))
        assert admin.cancel(key, by=ME) == [key, *keys[1:]]
        assert [read(child)["status"] for child in keys] == ["done", "failed", "failed"]
        assert lane.claim(timeout=SOON) is None
        assert stage.entries() == []
        assert admin.cancel(key, by=ME) == []

    def test_grandchildren_are_cancelled_too_also_those_of_a_child_that_ended(
        self, admin: JobAdmin, lane: JobQueue, submit: Any, read: Any
    ) -> None:
        key = submit("movies.zip")
        movies = lane.submit_children(parent := claimed(lane), [Child(QUEUE, f"{i}.tif", {}) for i in range(2)])
        lane.release(parent, Place.WAITING)
        pictures, frames = [Child(QUEUE, f"{i}.png", {}) for i in range(2)], []
        for _ in movies:
            frames.append(lane.submit_children(movie := claimed(lane), pictures))
            if movie.key == movies[0]:
                lane.release(movie, Place.WAITING)
            else:
                lane.settle(movie, "failed", {"reason": "x"}, BUG)
        assert admin.cancel(key, by=ME) == [key, movies[0], *frames[0], *frames[1]]
        assert {read(job)["status"] for job in [key, *movies, *frames[0], *frames[1]]} == {"failed"}
        assert lane.claim(timeout=SOON) is None

    def test_only_open_jobs_are_cancelled(self, admin: JobAdmin, lane: JobQueue, submit: Any, read: Any) -> None:
        key = submit()
        finished(lane, claimed(lane))
        before = read(key)
        assert admin.cancel(key, by=ME) == []
        assert admin.cancel("unknown:1", by=ME) == []
        assert read(key) == before
        assert read("unknown:1") == {}

    # Giving out again.

    def test_a_job_in_hand_can_be_requeued(
        self, admin: JobAdmin, lane: JobQueue, other: JobQueue, submit: Any, read: Any
    ) -> None:
        key = submit("1.tif")
        submit("2.tif")
        lane.release(claimed(lane), Place.FRONT)
        job = claimed(lane)
        assert admin.requeue(key, by=ME) == "requeued"
        assert read(key)["status"] == "new"
        assert admin.find([QUEUE], "running", limit=9) == []
        with pytest.raises(LeaseLost):
            lane.settle(job, "done", {})
        again = claimed(other)
        assert (again.key, again.deliveries) == (key, 1)

    def test_a_job_that_stands_aside_can_be_requeued(self, admin: JobAdmin, lane: JobQueue, submit: Any) -> None:
        key = submit()
        lane.release(claimed(lane), Place.LATER, seconds=1000, failure=BUG)
        assert admin.requeue(key, by=ME) == "requeued"
        assert admin.find([QUEUE], "parked", limit=9) == []
        job = claimed(lane)
        assert (job.key, job.deliveries) == (key, 1)

    def test_a_parent_that_is_requeued_starts_again_with_the_children_it_has(
        self, admin: JobAdmin, lane: JobQueue, submit: Any, read: Any
    ) -> None:
        key = submit("parent.zip")
        children = [Child(QUEUE, "x.tif", {})]
        keys = lane.submit_children(parent := claimed(lane), children)
        lane.update(parent, {"status": "waiting"})
        lane.release(parent, Place.WAITING)
        assert admin.requeue(key, by=ME) == "requeued"
        again = claimed(lane)
        assert (again.key, again.fields["status"], read(key)["status"]) == (key, "started", "started")
        assert lane.submit_children(again, children) == keys

    def test_a_requeued_job_that_waited_anyway_runs_once(
        self, admin: JobAdmin, lane: JobQueue, stage: Stage, submit: Any
    ) -> None:
        key = submit()
        assert admin.requeue(key, by=ME) == "requeued"
        assert finished(lane, claimed(lane)) == key
        assert lane.claim(timeout=SOON) is None
        assert stage.entries() == []

    def test_only_open_jobs_are_requeued(self, admin: JobAdmin, lane: JobQueue, stage: Stage, submit: Any) -> None:
        key = submit()
        finished(lane, claimed(lane))
        assert admin.requeue(key, by=ME) == "final"
        assert admin.requeue("unknown:1", by=ME) == "missing"
        assert stage.entries() == []

    # Dead letters.

    def test_a_dead_letter_tells_the_whole_story(
        self, admin: JobAdmin, lane: JobQueue, other: JobQueue, submit: Any
    ) -> None:
        key = submit(input_file_name="uploads/1.tif")
        lane.release(claimed(lane), Place.BACK, failure=Failure("StorageUnavailable", "no answer"))
        other.settle(claimed(other), "failed", {"reason": "division by zero"}, BUG)
        letter = admin.dead_letter(key)
        assert letter is not None
        assert [letter.key] == [one.key for one in admin.dead_letters()]
        assert (letter.queue, letter.error, letter.reason) == (QUEUE, "ZeroDivisionError", "division by zero")
        assert letter.traceback == BUG.traceback
        assert letter.fields["input_file_name"] == "uploads/1.tif"
        assert [(one.by, one.how) for one in letter.deliveries] == [
            ("pod-1", "no answer"),
            ("pod-2", "ZeroDivisionError"),
        ]
        assert all(one.at <= one.ended_at <= letter.died_at for one in letter.deliveries)
        assert all(one.version for one in letter.deliveries)
        assert letter.as_json()["deliveries"][0]["how"] == "no answer"

    def test_a_lost_lease_stands_in_the_story(self, admin: JobAdmin, lane: JobQueue, stage: Stage, submit: Any) -> None:
        key = submit()
        stage.lose(claimed(lane))
        lane.settle(claimed(lane), "failed", {"reason": "x"})
        letter = admin.dead_letter(key)
        assert letter is not None
        assert [one.how for one in letter.deliveries] == ["the lease ran out", "Failed"]

    def test_a_job_that_was_delivered_too_often_has_a_letter(self, admin: JobAdmin, stage: Stage, submit: Any) -> None:
        lane = stage.lane(max_deliveries=1)
        key = submit()
        stage.lose(claimed(lane))
        assert lane.claim(timeout=SOON) is None
        letter = admin.dead_letter(key)
        assert letter is not None
        assert letter.error == "TooManyDeliveries"
        assert "the lease ran out" in letter.reason

    def test_a_done_job_has_no_letter(self, admin: JobAdmin, lane: JobQueue, submit: Any) -> None:
        key = submit()
        finished(lane, claimed(lane))
        assert admin.dead_letter(key) is None
        assert list(admin.dead_letters()) == []

    @pytest.mark.parametrize("hash_is", ["there", "expired"])
    def test_a_replayed_job_is_new_under_its_name(
        self, admin: JobAdmin, lane: JobQueue, stage: Stage, submit: Any, read: Any, hash_is: str
    ) -> None:
        key = submit(input_file_name="uploads/1.tif")
        lane.settle(claimed(lane), "failed", {"reason": "x", "progress": 50}, BUG)
        if hash_is == "expired":
            stage.vanish(key)
        assert admin.replay(key, by=ME) == "replayed"
        fields = read(key)
        assert (fields["status"], fields["input_file_name"]) == ("new", "uploads/1.tif")
        assert not {"reason", "progress"} & set(fields)
        assert list(admin.dead_letters()) == []
        job = claimed(lane)
        assert (job.key, job.deliveries) == (key, 1)
        finished(lane, job)
        assert read(key)["status"] == "done"

    def test_a_replay_may_be_repeated(self, admin: JobAdmin, lane: JobQueue, stage: Stage, submit: Any) -> None:
        key = submit()
        lane.settle(claimed(lane), "failed", {"reason": "x"}, BUG)
        assert admin.replay(key, by=ME) == "replayed"
        assert admin.replay(key, by=ME) == "unknown"
        assert stage.entries() == [key]

    def test_a_parent_that_is_replayed_submits_new_children(self, admin: JobAdmin, lane: JobQueue, submit: Any) -> None:
        key = submit("parent.zip")
        old = lane.submit_children(parent := claimed(lane), [Child(QUEUE, "x.tif", {})])
        lane.settle(parent, "failed", {"reason": "x"}, BUG)
        assert finished(lane, claimed(lane)) == old[0]
        admin.replay(key, by=ME)
        new = lane.submit_children(claimed(lane), [Child(QUEUE, "x.tif", {})])
        assert not set(old) & set(new)

    def test_a_parent_that_is_replayed_does_not_wait_for_its_former_children(
        self, admin: JobAdmin, lane: JobQueue, submit: Any
    ) -> None:
        key, children = submit("parent.zip"), [Child(QUEUE, "x.tif", {})]
        lane.submit_children(parent := claimed(lane), children)
        lane.settle(parent, "failed", {"reason": "x"}, BUG)
        lane.settle(former := claimed(lane), "failed", {"reason": "x"}, BUG)
        assert admin.replay(key, by=ME) == "replayed"
        new = lane.submit_children(parent := claimed(lane), children)
        assert admin.replay(former.key, by=ME) == "replayed"
        lane.release(parent, Place.WAITING)
        assert finished(lane, claimed(lane)) == new[0]
        assert [finished(lane, claimed(lane)) for _ in range(2)] == [key, former.key]

    def test_a_job_that_somebody_revived_is_left_alone(
        self, admin: JobAdmin, lane: JobQueue, stage: Stage, submit: Any
    ) -> None:
        key = submit()
        lane.settle(claimed(lane), "failed", {"reason": "x"}, BUG)
        stage.write(key, {"status": "done"})
        assert admin.replay(key, by=ME) == "not failed"
        assert stage.entries() == []

    def test_purged_letters_are_gone(self, admin: JobAdmin, lane: JobQueue, submit: Any, read: Any) -> None:
        keys = [submit(f"{i}.tif") for i in range(3)]
        for _ in keys:
            lane.settle(claimed(lane), "failed", {"reason": "x"}, BUG)
        assert admin.purge([*keys[:2], "unknown:1"]) == 2
        assert [letter.key for letter in admin.dead_letters()] == keys[2:]
        assert read(keys[0])["status"] == "failed"
