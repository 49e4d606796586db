"""The exam of jobs that stand aside: delayed retries, and parents that wait for their children."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from redis_consumer.errors import Failure, LeaseLost
from redis_consumer.queues.base import Child, Place
from redis_consumer.testing.queues import QUEUE, SOON, QueueFixtures, claimed, finished

if TYPE_CHECKING:
    from redis_consumer.queues.base import JobQueue
    from redis_consumer.testing.queues import Stage

CHILDREN = [Child(QUEUE, f"{i}.tif", {"scale": i, "original_name": f"a,b/{i}.tif"}) for i in range(3)]
OUTAGE = Failure("StorageUnavailable", "The storage does not answer")


class ParkingExam(QueueFixtures):
    """What every queue promises about jobs that stand aside."""

    # Retries.

    def test_a_job_for_later_is_not_given_out_before_its_time(
        self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any, read: Any
    ) -> None:
        key = submit()
        assert lane.release(claimed(lane), Place.LATER, seconds=1000, failure=OUTAGE) == "new"
        assert read(key)["status"] == "new"
        assert other.claim(timeout=SOON) is None
        stage.pass_time(1001)
        job = claimed(other)
        assert (job.key, job.deliveries) == (key, 2)

    def test_a_waiting_claim_is_there_when_the_time_comes(self, lane: JobQueue, submit: Any) -> None:
        key = submit()
        lane.release(claimed(lane), Place.LATER, seconds=SOON, failure=OUTAGE)
        jobs = [lane.claim(timeout=10 * SOON) for _ in range(20)]
        assert [job.key for job in jobs if job][:1] == [key]

    def test_a_job_whose_time_came_is_next_in_line(self, lane: JobQueue, stage: Stage, submit: Any) -> None:
        first, _second = submit("1.tif"), submit("2.tif")
        lane.release(claimed(lane), Place.LATER, seconds=1000, failure=OUTAGE)
        stage.pass_time(1001)
        assert claimed(lane).key == first

    def test_the_sweep_brings_it_back_too(self, lane: JobQueue, stage: Stage, submit: Any) -> None:
        key = submit()
        lane.release(claimed(lane), Place.LATER, seconds=1000, failure=OUTAGE)
        stage.pass_time(1001)
        stage.sweep()
        assert stage.entries() == [key]

    def test_a_second_entry_does_not_shorten_the_time(self, lane: JobQueue, stage: Stage, submit: Any) -> None:
        key = submit()
        lane.release(claimed(lane), Place.LATER, seconds=1000, failure=OUTAGE)
        stage.push(key)
        assert lane.claim(timeout=SOON) is None
        assert stage.entries() == []
        stage.pass_time(1001)
        assert claimed(lane).key == key

    def test_the_last_delivery_ends_the_job(self, stage: Stage, submit: Any, read: Any) -> None:
        lane = stage.lane(max_deliveries=2)
        key = submit()
        assert lane.release(claimed(lane), Place.BACK, failure=OUTAGE) == "new"
        job = claimed(lane)
        for _ in range(2):  # also when asked again
            assert lane.release(job, Place.LATER, seconds=1, failure=OUTAGE) == "failed"
        fields = read(key)
        assert fields["status"] == "failed"
        assert fields["reason"] == "The storage does not answer (given up after 2 deliveries)"
        assert lane.claim(timeout=SOON) is None

    @pytest.mark.parametrize("place", [Place.LATER, Place.WAITING])
    def test_a_job_that_was_finished_meanwhile_is_not_given_out(
        self, lane: JobQueue, stage: Stage, submit: Any, read: Any, place: Place
    ) -> None:
        key = submit()
        lane.release(claimed(lane), place, seconds=1000)
        stage.write(key, {"status": "done"})
        before = read(key)
        stage.pass_time(1001)
        assert lane.claim(timeout=SOON) is None
        assert read(key) == before

    def test_a_job_that_its_handler_left_unfinished_keeps_its_status_and_is_not_counted(
        self, lane: JobQueue, stage: Stage, submit: Any, read: Any
    ) -> None:
        key = submit()
        lane.update(job := claimed(lane), {"status": "my-own-word"})
        lane.release(job, Place.WAITING, seconds=1000)
        assert read(key)["status"] == "my-own-word"
        assert lane.claim(timeout=SOON) is None
        stage.pass_time(1001)
        assert claimed(lane).deliveries == 1

    # Children.

    def test_children_are_jobs_of_their_own_in_order(
        self, lane: JobQueue, stage: Stage, submit: Any, read: Any
    ) -> None:
        submit("parent.zip")
        keys = lane.submit_children(claimed(lane), iter(CHILDREN))
        assert stage.entries() == keys[::-1]
        for number, key in enumerate(keys):
            assert key.startswith(f"{QUEUE}:{number}.tif:")
            fields = read(key)
            assert (fields["status"], fields["scale"]) == ("new", str(number))
            assert fields["original_name"] == f"a,b/{number}.tif"
            assert fields["created_at"] == fields["updated_at"]

    def test_a_parent_can_read_its_children(self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any) -> None:
        submit("parent.zip")
        keys = lane.submit_children(parent := claimed(lane), CHILDREN)
        other.settle(claimed(other), "done", {"output_url": "u"})
        stage.vanish(keys[2])
        found = list(lane.children(parent))
        assert [key for key, _ in found] == keys
        assert [fields.get("status") for _, fields in found] == ["done", "new", None]
        assert found[0][1]["output_url"] == "u"

    def test_children_are_submitted_once(self, lane: JobQueue, stage: Stage, submit: Any) -> None:
        submit("parent.zip")
        parent = claimed(lane)
        keys = lane.submit_children(parent, CHILDREN)
        assert lane.submit_children(parent, CHILDREN) == keys
        assert sorted(stage.entries()) == sorted(keys)

    def test_who_comes_after_a_death_submits_the_rest(
        self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any
    ) -> None:
        submit("parent.zip")
        parent = claimed(lane)

        def torn() -> Any:
            yield CHILDREN[0]
            raise OSError("a broken archive")

        many = [Child(QUEUE, "x.tif", {})] * 100  # a whole chunk, and one more
        with pytest.raises(OSError, match="broken"):
            lane.submit_children(parent, (child for part in (many, torn()) for child in part))
        submitted = stage.entries()
        lane.release(parent, Place.FRONT)
        again = claimed(other)
        assert again.key == parent.key
        keys = other.submit_children(again, [*many, *CHILDREN])
        assert len(set(keys)) == len(keys) == 103
        assert set(submitted) <= set(keys)
        assert Counter(stage.entries()) == Counter(keys)

    def test_a_parent_holds_no_lane_and_is_woken_by_its_last_child(
        self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any, read: Any
    ) -> None:
        key = submit("parent.zip")
        lane.update(parent := claimed(lane), {"status": "waiting"})
        keys = lane.submit_children(parent, CHILDREN)
        lane.release(parent, Place.WAITING)
        assert read(key)["status"] == "waiting"
        for number, child in enumerate(keys):
            job = claimed(lane)
            assert job.key == child
            assert key not in stage.entries()
            lane.settle(job, ["done", "failed"][number % 2], {})
        woken = claimed(other)
        assert (woken.key, woken.deliveries) == (key, 1)
        assert woken.fields["status"] == "waiting"
        assert woken.fields["identity_started"] == "pod-1"
        assert other.submit_children(woken, CHILDREN) == keys
        finished(other, woken)
        assert stage.entries() == []

    def test_the_progress_of_a_parent_that_waits_counts_its_final_children(
        self, lane: JobQueue, submit: Any, read: Any
    ) -> None:
        key = submit("parent.zip")
        parent = claimed(lane)
        lane.submit_children(parent, CHILDREN)
        lane.release(parent, Place.WAITING)
        assert "progress" not in read(key)
        for percent in ("33", "66", "100"):
            lane.settle(claimed(lane), "done", {})
            assert read(key)["progress"] == percent

    def test_the_children_may_be_a_part_of_the_progress(self, lane: JobQueue, submit: Any, read: Any) -> None:
        key = submit("parent.zip")
        parent = claimed(lane)
        lane.submit_children(parent, CHILDREN)
        lane.update(parent, {"children_share": 50})
        lane.release(parent, Place.WAITING)
        for percent in ("16", "33", "50"):
            lane.settle(claimed(lane), "done", {})
            assert read(key)["progress"] == percent

    def test_a_parent_in_hand_tells_its_progress_itself(
        self, lane: JobQueue, other: JobQueue, submit: Any, read: Any
    ) -> None:
        key = submit("parent.zip")
        parent = claimed(lane)
        lane.submit_children(parent, CHILDREN)
        lane.update(parent, {"progress": 7})
        finished(other, claimed(other))
        assert read(key)["progress"] == "7"

    def test_a_child_that_is_final_from_the_beginning_is_not_queued_and_not_waited_for(
        self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any, read: Any
    ) -> None:
        key = submit("parent.zip")
        stillborn = Child(QUEUE, "broken.tif", {"status": "failed", "reason": "It is damaged"})
        keys = lane.submit_children(parent := claimed(lane), [stillborn, CHILDREN[0], stillborn])
        assert stage.entries() == [keys[1]]
        assert read(keys[0])["status"] == "failed"
        lane.release(parent, Place.WAITING)
        finished(other, claimed(other))
        assert read(key)["progress"] == "100"
        assert claimed(lane).key == key

    def test_a_parent_waits_again_for_a_child_that_is_replayed(
        self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any, read: Any
    ) -> None:
        key = submit("parent.zip")
        keys = lane.submit_children(parent := claimed(lane), CHILDREN)
        other.settle(claimed(other), "failed", {"reason": "It was too early"})
        lane.release(parent, Place.WAITING)
        assert stage.admin().replay(keys[0], by="me") == "replayed"
        for _ in CHILDREN[1:]:
            finished(other, claimed(other))
        assert key not in stage.entries()
        assert finished(other, claimed(other)) == keys[0]
        assert read(key)["progress"] == "100"
        assert claimed(lane).key == key

    def test_a_parent_whose_children_are_final_already_does_not_wait(
        self, lane: JobQueue, other: JobQueue, submit: Any
    ) -> None:
        key = submit("parent.zip")
        lane.submit_children(parent := claimed(lane), CHILDREN)
        for _ in CHILDREN:
            finished(other, claimed(other))
        lane.release(parent, Place.WAITING)
        assert claimed(other).key == key

    def test_a_parent_without_children_does_not_wait(self, lane: JobQueue, submit: Any) -> None:
        key = submit("parent.zip")
        parent = claimed(lane)
        assert lane.submit_children(parent, []) == []
        lane.release(parent, Place.WAITING, seconds=1000)
        assert claimed(lane).key == key

    @pytest.mark.parametrize("end", ["vanished", "done"])
    def test_children_that_others_ended_or_that_vanished_are_noticed(
        self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any, end: str
    ) -> None:
        key = submit("parent.zip")
        keys = lane.submit_children(parent := claimed(lane), CHILDREN)
        lane.release(parent, Place.WAITING)
        for child in keys:
            if end == "vanished":
                stage.vanish(child)
            else:
                stage.write(child, {"status": end})
        stage.pass_time(31)
        stage.sweep()
        assert finished(other, claimed(other)) == key
        assert other.claim(timeout=SOON) is None

    def test_children_outlive_the_death_of_their_parents_lane(
        self, lane: JobQueue, other: JobQueue, stage: Stage, submit: Any
    ) -> None:
        key = submit("parent.zip")
        keys = lane.submit_children(parent := claimed(lane), CHILDREN)
        stage.lose(parent)
        with pytest.raises(LeaseLost):
            lane.release(parent, Place.WAITING)
        for child in keys:
            assert finished(other, claimed(other)) == child
        again = claimed(other)
        assert again.key == key
        assert other.submit_children(again, CHILDREN) == keys
        assert stage.entries() == []
