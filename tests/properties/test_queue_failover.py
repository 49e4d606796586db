"""A failover that undoes: a replica without the last writes becomes the master, at any moment, also between two
commands of one step.  Lanes, the janitor and operators go on with what they believe.

All properties of `test_queue_faults` hold on, counted from the moment that was restored.  Further:

F1 a job whose submit was not undone is not lost, and ends.  F2 a lane whose claim was undone writes nothing, unless
its token is on record.  F3 the sweep does nothing in its first turn on another server.  F4 what is run twice ends
with one result, and that is one whose settle was accepted.

With WAIT, every later failover knows what was confirmed: F5 a job that was submitted stays.  F6 a job that was
settled keeps its result.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from tests.properties.test_queue_faults import QueueUnderFaults, explore

from redis_consumer.testing.servers import Server, start_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.queue_faults import Lane, World

    from redis_consumer.job import Job
    from redis_consumer.queues.base import JobQueue


@dataclass
class Replica:
    """What one knew at some moment, and what of our expectations was true then."""

    keys: list[tuple[bytes, int, bytes]]
    expectations: dict[str, Any]


class QueueUnderFailover(QueueUnderFaults):
    has_a_frontend = False  # of its jobs no script of ours knows
    waits: ClassVar[bool] = False
    """Whether commands are confirmed by the replica."""
    EXPECTATIONS = ("jobs", "vanished", "final", "before", "replayed")
    OF_THE_LEDGER = ("token", "released", "settled", "buried")

    def __init__(self) -> None:
        super().__init__()
        self.raw = redis.Redis(self.client.host, self.client.port)
        self.submitted: set[str] = set()
        self.promised: dict[str, dict[str, str]] = {}
        self.replica = self.copied()

    def new_lane(self) -> Lane:
        lane = super().new_lane()
        lane.faults.undo = self.fail_over
        if self.waits:
            lane.faults.confirmed = self.catch_up
        return lane

    def copied(self) -> Replica:
        keys: list[bytes] = self.raw.keys()  # type: ignore[assignment]  # redis-py knows not that it decodes nothing
        with self.raw.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.pttl(key)
                pipe.dump(key)
            replies = pipe.execute()
        known = {name: getattr(self, name) for name in self.EXPECTATIONS}
        known |= {name: getattr(self.ledger, name) for name in self.OF_THE_LEDGER}
        return Replica(list(zip(keys, replies[::2], replies[1::2], strict=True)), copy.deepcopy(known))

    def catch_up(self) -> None:
        self.replica = self.copied()

    @rule(event=st.sampled_from(["catch_up", "fail_over"]))
    def replica_acts(self, event: str) -> None:
        act: Callable[[], None] = getattr(self, event)
        act()

    def fail_over(self) -> None:
        with self.raw.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for key, ttl, dump in self.replica.keys:
                pipe.restore(key, max(0, ttl), dump)
            pipe.execute()
        for lane in (*self.lanes, *self.dead):
            lane.faults.late.clear()  # they were on their way to the old master
        known = copy.deepcopy(self.replica.expectations)
        for name in self.EXPECTATIONS:
            setattr(self, name, known[name])
        for name in self.OF_THE_LEDGER:
            setattr(self.ledger, name, known[name])
        world = self.look()
        self.jobs += [job for job in world.jobs() if job not in self.jobs]
        # Who holds a job may no longer know; and the entry that the janitor took may be back.
        self.costs.update(self.jobs)
        self.kicked |= {job for job in self.jobs if world.is_open(job)} - set(world.due)
        self.nothing_is_swept_at_first()

    def nothing_is_swept_at_first(self) -> None:
        self.client.delete("redis-consumer:swept")
        before = self.look()
        self.sweeper._run_id = "of the old master"
        assert self.sweeper.sweep() == 0
        assert self.look() == before, "F3"

    def settle_down(self) -> None:
        """As always; but a lane whose first registration was undone, and which died after its next move, leaves a list
        that is not swept.  The janitor clears it, and here it loses all that stands in it."""
        registered = self.client.zrange("redis-consumer:lists", 0, -1)
        for name in set(self.look().processing()) - set(registered):
            self.client.delete(name)
            self.costs.update(self.jobs)
        super().settle_down()

    # What is promised.

    def hand_in(self) -> str:
        job = super().hand_in()
        self.submitted.add(job)
        if self.waits or self.submitted == {job}:
            self.catch_up()
        return job

    def settle(self, queue: JobQueue, job: Job, status: str) -> None:
        super().settle(queue, job, status)
        if self.waits:
            self.promised[job.key] = self.look().hashes[job.key]

    def replay(self, which: int) -> None:
        before = Counter(self.replayed)
        super().replay(which)
        for job in self.replayed - before:
            self.promised.pop(job, None)

    def check(self, job: str, world: World) -> None:
        super().check(job, world)
        fields = world.hashes.get(job, {})
        if fields.get("status") == "done":
            assert fields.get("by") in self.ledger.settled_by | {"somebody else"}, f"F4: {job} has a result of nobody"

    @invariant()
    def every_property_holds(self) -> None:
        super().every_property_holds()
        if self.waits:
            world = self.before
            lost = self.submitted - set(world.hashes) - self.vanished
            assert not lost, f"F5: {lost}"
            for job, fields in self.promised.items():
                assert world.hashes.get(job) == fields, f"F6: {job}"


class QueueUnderFailoverWithWait(QueueUnderFailover):
    waits = True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.mark.parametrize("machine", [QueueUnderFailover, QueueUnderFailoverWithWait])
def test_no_failover_loses_a_job_or_leaves_two_results(server: Server, machine: type[QueueUnderFailover]) -> None:
    explore(machine, server, examples=80)
