"""What the exam does not ask of the queue in memory: leases by an injected clock."""

from __future__ import annotations

import pytest

from redis_consumer.errors import LeaseLost
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker(clock: Clock) -> MemoryBroker:
    return MemoryBroker(clock=clock)


@pytest.fixture
def lane(broker: MemoryBroker) -> MemoryJobQueue:
    MemorySubmitter(broker).submit("predict", "a.tif", {})
    return MemoryJobQueue(broker, queue="predict", lease_seconds=30.0)


def test_a_lease_that_is_renewed_stays(lane: MemoryJobQueue, broker: MemoryBroker, clock: Clock) -> None:
    job = lane.claim(timeout=0)
    assert job
    for _ in range(5):
        clock.now += 29.0
        lane.heartbeat(job)
        assert broker.sweep() == 0
    lane.settle(job, "done", {})
    assert broker.jobs[job.key]["total_time"] == "145.000"


def test_a_late_heartbeat_saves_a_lease_that_nobody_swept(
    lane: MemoryJobQueue, broker: MemoryBroker, clock: Clock
) -> None:
    job = lane.claim(timeout=0)
    assert job
    clock.now += 31.0
    lane.heartbeat(job)
    assert broker.sweep() == 0


def test_a_swept_job_waits_again(lane: MemoryJobQueue, broker: MemoryBroker, clock: Clock) -> None:
    job = lane.claim(timeout=0)
    assert job
    clock.now += 30.0
    assert broker.sweep() == 1
    with pytest.raises(LeaseLost):
        lane.heartbeat(job)
    again = lane.claim(timeout=0)
    assert again
    assert (again.key, again.deliveries) == (job.key, 2)


def test_time_stamps_come_from_the_clock(lane: MemoryJobQueue) -> None:
    job = lane.claim(timeout=0)
    assert job
    assert job.fields["updated_at"] == "2023-11-14T22:13:20.250000+00:00"


def test_a_failed_job_is_a_dead_letter(lane: MemoryJobQueue, broker: MemoryBroker) -> None:
    job = lane.claim(timeout=0)
    assert job
    lane.settle(job, "failed", {"reason": "no pixels"})
    assert broker.dead[job.key].reason == "no pixels"
