"""The queue on Redis and the queue in memory do the same, step by step, whatever the workers do.

The replies of the real server get lost now and then; who asks again must not notice.
"""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import stamina
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from redis_consumer.errors import LeaseLost, QueueUnavailable
from redis_consumer.job import FINAL
from redis_consumer.queues.base import Place
from redis_consumer.queues.lua import Scripts
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter
from redis_consumer.queues.redis import RedisJobQueue, RedisSubmitter
from redis_consumer.queues.sweeper import RedisSweeper
from redis_consumer.redis import RedisClient
from redis_consumer.testing.servers import Server, start_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from redis_consumer.job import Job
    from redis_consumer.queues.base import JobQueue

QUEUE = "mesmer"
LANES = 2
MAX_DELIVERIES = 3
CLOCKS = {"created_at", "updated_at", "finished_at", "total_time"}
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FIELDS = st.dictionaries(st.sampled_from(["a", "b", "output_url", "reason"]), st.text(max_size=5) | st.integers())


class LosingScripts(Scripts):
    """Loses the reply of every n-th script."""

    def __init__(self, client: RedisClient, every: int) -> None:
        super().__init__(client)
        self._every, self._count = every, 0

    def run(self, name: str, *keys: str, args: Iterable[object] = (), confirm: bool = False) -> Any:
        reply = super().run(name, *keys, args=args, confirm=confirm)
        self._count += 1
        if self._count % self._every == 0:
            raise QueueUnavailable("The reply was lost")
        return reply


class QueueAndModel(RuleBasedStateMachine):
    client: ClassVar[RedisClient]

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.late = 0.0
        self.names = count()
        self.broker = MemoryBroker(clock=lambda: time.time() + self.late)
        self.submitters = MemorySubmitter(self.broker), RedisSubmitter(self.client, host="host")
        self.sweeper = RedisSweeper(self.client, lease_seconds=0)
        self.sweeper.sweep()
        self.lanes = [self.new_lane(number) for number in range(LANES)]
        self.in_hand: list[tuple[Job, Job] | None] = [None] * LANES
        self.keys: list[tuple[str, str]] = []

    def new_lane(self, number: int) -> tuple[MemoryJobQueue, RedisJobQueue]:
        pod, lane = f"pod-{number}", str(next(self.names))  # no two lanes have one name
        real = RedisJobQueue(self.client, queue=QUEUE, lane=lane, pod=pod, max_deliveries=MAX_DELIVERIES)
        real._scripts = LosingScripts(self.client, every=5)
        return MemoryJobQueue(self.broker, queue=QUEUE, pod=pod, max_deliveries=MAX_DELIVERIES), real

    @rule(name=NAMES, fields=FIELDS)
    def submit(self, name: str, fields: Mapping[str, str | int]) -> None:
        memory, real = (submitter.submit(QUEUE, name, fields) for submitter in self.submitters)
        self.keys.append((memory, real))

    @rule(number=st.integers(0, LANES - 1))
    def claim(self, number: int) -> None:
        if self.in_hand[number]:
            return
        memory, real = (until_answered(lane.claim, timeout=0) for lane in self.lanes[number])
        assert (memory is None) == (real is None)
        if memory and real:
            assert (memory.key, real.key) in self.keys
            assert (memory.queue, memory.deliveries) == (real.queue, real.deliveries)
            assert timeless(memory.fields) == timeless(real.fields)
            self.in_hand[number] = memory, real

    @rule(number=st.integers(0, LANES - 1), fields=FIELDS, status=st.sampled_from(["predicting", "done", "failed"]))
    def update(self, number: int, fields: Mapping[str, str | int], status: str) -> None:
        self.both(number, lambda lane, job: lane.update(job, {**fields, "status": status}))

    @rule(number=st.integers(0, LANES - 1))
    def heartbeat(self, number: int) -> None:
        self.both(number, lambda lane, job: lane.heartbeat(job))

    @rule(number=st.integers(0, LANES - 1), fields=FIELDS, status=st.sampled_from(sorted(FINAL)))
    def settle(self, number: int, fields: Mapping[str, str | int], status: str) -> None:
        self.both(number, lambda lane, job: lane.settle(job, status, fields))
        self.in_hand[number] = None

    @rule(number=st.integers(0, LANES - 1), to=st.sampled_from(Place))
    def release(self, number: int, to: Place) -> None:
        self.both(number, lambda lane, job: lane.release(job, to, seconds=30))
        self.in_hand[number] = None

    @rule(number=st.integers(0, LANES - 1))
    def replace(self, number: int) -> None:
        """A lane leaves without a word; its job stays with it until the lease runs out."""
        self.lanes[number][1]._waiter.close()
        self.lanes[number], self.in_hand[number] = self.new_lane(number), None

    @precondition(lambda self: self.client.exists("redis-consumer:leases"))
    @rule()
    def all_leases_run_out(self) -> None:
        leases = self.client.zrange("redis-consumer:leases", 0, -1)
        self.client.zadd("redis-consumer:leases", {job: place for place, job in enumerate(leases)})
        self.late += 60.0
        order = {real: place for place, real in enumerate(leases)}
        model = dict(self.keys)
        # The oldest lease comes first in both: the model keeps the order of its records.
        self.broker.records = dict(
            sorted(self.broker.records.items(), key=lambda record: order.get(model[record[0]], -1))
        )
        assert self.sweeper.sweep() == self.broker.sweep()

    @precondition(lambda self: self.client.exists("redis-consumer:due"))
    @rule()
    def time_passes_for_what_stands_aside(self) -> None:
        jobs = self.client.zrange("redis-consumer:due", 0, -1)
        for job in jobs:
            self.client.zincrby("redis-consumer:due", -60_000, job)
        order = {real: place for place, real in enumerate(jobs)}
        model = dict(self.keys)
        self.broker.records = dict(
            sorted(self.broker.records.items(), key=lambda record: order.get(model[record[0]], -1))
        )
        for record in self.broker.records.values():
            if record.due is not None:
                record.due -= 60

    @rule(choice=st.integers(0, 99), status=st.sampled_from(sorted(FINAL)))
    def somebody_else_finishes(self, choice: int, status: str) -> None:
        if self.keys:
            memory, real = self.keys[choice % len(self.keys)]
            if memory in self.broker.jobs:
                self.broker.jobs[memory]["status"] = status
                self.client.hset(real, "status", status)

    @rule(choice=st.integers(0, 99))
    def hash_vanishes(self, choice: int) -> None:
        if self.keys:
            memory, real = self.keys[choice % len(self.keys)]
            self.broker.jobs.pop(memory, None)
            self.client.delete(real)

    @rule(choice=st.integers(0, 99))
    def a_second_entry(self, choice: int) -> None:
        if self.keys:
            memory, real = self.keys[choice % len(self.keys)]
            self.broker.queues[QUEUE].appendleft(memory)
            self.client.lpush(QUEUE, real)

    @invariant()
    def everything_is_equal(self) -> None:
        model = dict(self.keys)
        assert [model[key] for key in self.broker.queues[QUEUE]] == self.client.lrange(QUEUE, 0, -1)
        for memory, real in self.keys:
            assert timeless(self.submitters[0].read(memory)) == timeless(self.submitters[1].read(real))
            record = self.broker.records.get(memory)
            deliveries = self.client.hget(f"redis-consumer:job:{real}", "deliveries")
            assert int(deliveries or 0) == (record.deliveries if record else 0)

    def teardown(self) -> None:
        for _, real in self.lanes:
            real._waiter.close()

    def both(self, number: int, act: Callable[[JobQueue, Job], object]) -> None:
        jobs = self.in_hand[number]
        if jobs:
            lanes: tuple[JobQueue, JobQueue] = self.lanes[number]
            outcomes = [lost(lane, job, act) for lane, job in zip(lanes, jobs, strict=True)]
            assert outcomes[0] == outcomes[1]
            if outcomes[0]:
                self.in_hand[number] = None


def lost(lane: JobQueue, job: Job, act: Callable[[JobQueue, Job], object]) -> bool:
    """Whether the lane was told that it lost the job."""
    try:
        until_answered(lambda: act(lane, job))
    except LeaseLost:
        return True
    return False


def until_answered(act: Callable[..., Any], **arguments: Any) -> Any:
    while True:
        try:
            return act(**arguments)
        except QueueUnavailable:
            continue


def timeless(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: "" if name in CLOCKS else text for name, text in fields.items()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def test_redis_does_what_memory_does(server: Server) -> None:
    client = RedisClient(server.host, server.port)
    with stamina.set_testing(True, attempts=3):
        run_state_machine_as_test(
            type("Machine", (QueueAndModel,), {"client": client}),
            settings=settings(
                max_examples=150,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
                report_multiple_bugs=False,
            ),
        )
    client.close()
