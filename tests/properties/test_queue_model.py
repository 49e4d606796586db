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
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from redis_consumer.errors import Failure, LeaseLost, QueueUnavailable
from redis_consumer.job import FINAL
from redis_consumer.queues.base import Child, Place
from redis_consumer.queues.lua import Scripts
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter
from redis_consumer.queues.memory_admin import MemoryJobAdmin
from redis_consumer.queues.redis import RedisJobQueue, RedisSubmitter
from redis_consumer.queues.redis_admin import RedisJobAdmin, dead_letter
from redis_consumer.queues.sweeper import RedisSweeper
from redis_consumer.redis import RedisClient
from redis_consumer.testing.servers import Server, start_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from redis_consumer.job import Job
    from redis_consumer.queues.admin import DeadLetter, JobAdmin
    from redis_consumer.queues.base import JobQueue

QUEUE = "mesmer"
LANES = 2
MAX_DELIVERIES = 3
LEASES, DUE = "redis-consumer:leases", "redis-consumer:due"
ASIDE_SECONDS = 30
"""As long as a lease, and as parents wait; time passes in steps of 20 s, so that nothing is due at the very moment."""
CLOCKS = {"created_at", "updated_at", "finished_at", "total_time"}
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FIELDS = st.dictionaries(st.sampled_from(["a", "b", "output_url", "reason"]), st.text(max_size=5) | st.integers())
WHICH_LANE, WHICH_JOB = st.integers(0, LANES - 1), st.integers(0, 99)
PLACE = st.none() | st.integers(0, 5)
FAILURES = st.none() | st.builds(Failure, st.sampled_from(["Bug", "StorageUnavailable"]), st.text(max_size=5))


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
        self.admins: tuple[JobAdmin, JobAdmin] = MemoryJobAdmin(self.broker), RedisJobAdmin(self.client)
        self.sweeper = RedisSweeper(self.client, lease_seconds=0)
        self.sweeper.sweep()
        self.lanes = [self.new_lane(number) for number in range(LANES)]
        self.in_hand: list[tuple[Job, Job] | None] = [None] * LANES
        self.real: dict[str, str] = {}
        """The jobs' keys on the server, by those in memory."""

    def new_lane(self, number: int) -> tuple[MemoryJobQueue, RedisJobQueue]:
        pod, lane = f"pod-{number}", str(next(self.names))  # no two lanes have one name
        real = RedisJobQueue(self.client, queue=QUEUE, lane=lane, pod=pod, max_deliveries=MAX_DELIVERIES)
        real._scripts = LosingScripts(self.client, every=5)
        return MemoryJobQueue(self.broker, queue=QUEUE, pod=pod, max_deliveries=MAX_DELIVERIES), real

    # Steps of a lane.

    @initialize(name=NAMES, fields=FIELDS)
    def start(self, name: str, fields: Mapping[str, str | int]) -> None:
        self.submit(name, fields)

    @rule(name=NAMES, fields=FIELDS)
    def submit(self, name: str, fields: Mapping[str, str | int]) -> None:
        memory, real = (submitter.submit(QUEUE, name, fields) for submitter in self.submitters)
        self.real[memory] = real

    @rule(number=WHICH_LANE)
    def claim(self, number: int) -> None:
        if self.in_hand[number]:
            return
        memory, real = (until_answered(lane.claim, timeout=0) for lane in self.lanes[number])
        assert (memory is None) == (real is None)
        if memory and real:
            assert self.real[memory.key] == real.key
            assert (memory.queue, memory.deliveries) == (real.queue, real.deliveries)
            assert timeless(memory.fields) == timeless(real.fields)
            self.in_hand[number] = memory, real

    @rule(number=WHICH_LANE, fields=FIELDS, status=st.sampled_from(["new", "predicting", "done", "failed"]))
    def update(self, number: int, fields: Mapping[str, str | int], status: str) -> None:
        self.both(number, lambda lane, job: lane.update(job, {**fields, "status": status}))

    @rule(number=WHICH_LANE, fields=FIELDS, status=st.sampled_from(["new", "predicting", "done", "failed"]))
    def announce(self, number: int, fields: Mapping[str, str | int], status: str) -> None:
        def announced_and_heard_of(lane: JobQueue, job: Job) -> None:
            lane.announce(job, {**fields, "status": status})
            lane.update(job, {"c": "1"})

        self.both(number, announced_and_heard_of)

    @rule(number=WHICH_LANE)
    def heartbeat(self, number: int) -> None:
        self.both(number, lambda lane, job: lane.heartbeat(job))

    @rule(number=WHICH_LANE, fields=FIELDS, status=st.sampled_from(sorted(FINAL)), failure=FAILURES)
    def settle(self, number: int, fields: Mapping[str, str | int], status: str, failure: Failure | None) -> None:
        self.both(number, lambda lane, job: lane.settle(job, status, fields, failure))
        self.in_hand[number] = None

    @rule(number=WHICH_LANE, to=st.sampled_from(Place), failure=FAILURES)
    def release(self, number: int, to: Place, failure: Failure | None) -> None:
        self.both(number, lambda lane, job: lane.release(job, to, seconds=ASIDE_SECONDS, failure=failure))
        self.in_hand[number] = None

    @rule(number=WHICH_LANE, size=st.integers(0, 5), torn=PLACE, stillborn=PLACE, fields=FIELDS)
    def submit_children(
        self, number: int, size: int, torn: int | None, stillborn: int | None, fields: Mapping[str, str | int]
    ) -> None:
        def children() -> Iterator[Child]:
            for place in range(size):
                if place == torn:
                    raise OSError("The archive is broken")
                yield Child(QUEUE, f"{place}.tif", {**fields, **({"status": "failed"} if place == stillborn else {})})

        self.both(number, lambda lane, job: len(lane.submit_children(job, children())))

    # Two that get a run far: to parents that are woken by their last child.

    @rule(number=WHICH_LANE, size=st.integers(1, 3))
    def wait_for_children(self, number: int, size: int) -> None:
        self.claim(number)
        self.submit_children(number, size, None, None, {})
        self.release(number, Place.WAITING, None)

    @rule(number=WHICH_LANE, status=st.sampled_from(sorted(FINAL)), often=st.integers(1, 3))
    def work_off(self, number: int, status: str, often: int) -> None:
        for _ in range(often):
            self.claim(number)
            self.everything_is_equal()  # children have to be known before they are claimed
            self.settle(number, {}, status, None)

    @rule(number=WHICH_LANE)
    def read_children(self, number: int) -> None:
        if jobs := self.in_hand[number]:
            lanes: tuple[JobQueue, JobQueue] = self.lanes[number]
            memory, real = (list(lane.children(job)) for lane, job in zip(lanes, jobs, strict=True))
            assert [(self.real[key], timeless(fields)) for key, fields in memory] == [
                (key, timeless(fields)) for key, fields in real
            ]

    @rule(number=WHICH_LANE)
    def replace(self, number: int) -> None:
        """A lane leaves without a word; its job stays with it until the lease runs out."""
        self.lanes[number][1]._waiter.close()
        self.lanes[number], self.in_hand[number] = self.new_lane(number), None

    # Operators.

    @rule(choice=WHICH_JOB)
    def cancel(self, choice: int) -> None:
        memory, real = self.chosen(choice)
        ended = self.admins[0].cancel(memory, by="me")
        assert [self.real[key] for key in ended] == self.admins[1].cancel(real, by="me")

    @rule(choice=WHICH_JOB)
    def requeue(self, choice: int) -> None:
        assert_equal(admin.requeue(key, by="me") for admin, key in zip(self.admins, self.chosen(choice), strict=True))

    @precondition(lambda self: self.broker.dead)
    @rule(choice=WHICH_JOB, often=st.integers(1, 2))
    def replay(self, choice: int, often: int) -> None:
        memory = sorted(self.broker.dead)[choice % len(self.broker.dead)]
        for _ in range(often):
            keys = memory, self.real[memory]
            assert_equal(admin.replay(key, by="me") for admin, key in zip(self.admins, keys, strict=True))

    @rule(choice=WHICH_JOB)
    def purge(self, choice: int) -> None:
        assert_equal(admin.purge([key]) for admin, key in zip(self.admins, self.chosen(choice), strict=True))

    @rule(place=st.sampled_from(["waiting", "running", "parked", "failed"]), limit=st.integers(1, 9))
    def find(self, place: str, limit: int) -> None:
        memory, real = (admin.find([QUEUE], place, limit=99) for admin in self.admins)
        found = [(self.real[job.key], timeless(job.fields)) for job in memory]
        theirs = [(job.key, timeless(job.fields)) for job in real]
        if place in {"waiting", "failed"}:
            assert found == theirs
            assert [job.key for job in self.admins[1].find([QUEUE], place, limit=limit)] == [key for key, _ in theirs][
                :limit
            ]
        else:  # in the order of the lanes; what somebody else ended stands there until it is looked at
            assert sorted(filter(is_open, found)) == sorted(filter(is_open, theirs))

    # The world.

    @rule(seconds=st.sampled_from([20, 40]))
    def time_passes(self, seconds: int) -> None:
        self.late += seconds
        order = []
        for zset in (LEASES, DUE):
            for job in self.client.zrange(zset, 0, -1):
                self.client.zincrby(zset, -1000 * seconds, job)
            order += self.client.zrange(zset, 0, -1)
        # What is due first comes first in both: the model keeps the order of its records.
        places = {job: place for place, job in enumerate(order)}
        self.broker.records = dict(
            sorted(self.broker.records.items(), key=lambda item: places.get(self.real[item[0]], -1))
        )

    @rule()
    def sweep(self) -> None:
        assert self.sweeper.sweep() == self.broker.sweep()

    @rule(choice=WHICH_JOB, status=st.sampled_from(sorted(FINAL)))
    def somebody_else_finishes(self, choice: int, status: str) -> None:
        memory, real = self.chosen(choice)
        if memory in self.broker.jobs:
            self.broker.jobs[memory]["status"] = status
            self.client.hset(real, "status", status)

    @rule(choice=WHICH_JOB)
    def hash_vanishes(self, choice: int) -> None:
        memory, real = self.chosen(choice)
        self.broker.jobs.pop(memory, None)
        self.client.delete(real)

    @rule(choice=WHICH_JOB)
    def a_second_entry(self, choice: int) -> None:
        memory, real = self.chosen(choice)
        self.broker.queues[QUEUE].appendleft(memory)
        self.client.lpush(QUEUE, real)

    # What must hold.

    @invariant()
    def everything_is_equal(self) -> None:
        real = self.client.pipeline(transaction=False)
        real.lrange(QUEUE, 0, -1)
        real.hgetall("redis-consumer:dead")
        known = list(self.real.items())
        for _, key in known:
            real.zrange(f"redis-consumer:children:{key}", 0, -1)
            real.hgetall(key)
            real.hget(f"redis-consumer:job:{key}", "deliveries")
            real.zscore(LEASES, key)
            real.zscore(DUE, key)
        queue, dead, *replies = real.execute()
        jobs = [(memory, replies[5 * place : 5 * place + 5]) for place, (memory, _) in enumerate(known)]
        for memory, (children, *_) in jobs:
            self.real |= zip(self.broker.records[memory].children, children, strict=True)
        assert [self.real[key] for key in self.broker.queues[QUEUE]] == queue
        assert {self.real[key]: story(letter) for key, letter in self.broker.dead.items()} == {
            key: story(dead_letter(key, text)) for key, text in dead.items()
        }
        for memory, (_, fields, deliveries, lease, due) in jobs:
            record = self.broker.records[memory]
            assert timeless(self.broker.jobs.get(memory, {})) == timeless(fields)
            assert record.deliveries == int(deliveries or 0)
            if self.broker.is_open(memory):
                assert (bool(record.token), record.due is not None) == (lease is not None, due is not None)

    def chosen(self, choice: int) -> tuple[str, str]:
        return list(self.real.items())[choice % len(self.real)]

    def teardown(self) -> None:
        for _, real in self.lanes:
            real._waiter.close()

    def both(self, number: int, act: Callable[[JobQueue, Job], object]) -> None:
        jobs = self.in_hand[number]
        if jobs:
            lanes: tuple[JobQueue, JobQueue] = self.lanes[number]
            outcomes = [outcome(lane, job, act) for lane, job in zip(lanes, jobs, strict=True)]
            assert outcomes[0] == outcomes[1]
            if outcomes[0] is LeaseLost:
                self.in_hand[number] = None


def outcome(lane: JobQueue, job: Job, act: Callable[[JobQueue, Job], object]) -> object:
    """What the lane was told, or what broke in its hands."""
    try:
        return until_answered(lambda: act(lane, job))
    except (LeaseLost, OSError) as error:
        return type(error)


def assert_equal(outcomes: Iterable[object]) -> None:
    memory, real = outcomes
    assert memory == real


def is_open(found: tuple[str, Mapping[str, str]]) -> bool:
    return bool(found[1]) and found[1]["status"] not in FINAL


def story(letter: DeadLetter) -> tuple[object, ...]:
    deliveries = [(one.by, one.how, bool(one.ended_at)) for one in letter.deliveries]
    return letter.queue, letter.error, letter.reason, letter.traceback, timeless(letter.fields), deliveries


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


def test_redis_does_what_memory_does(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that a source of children that breaks leaves as many behind in both.
    monkeypatch.setattr("redis_consumer.queues.redis.CHILDREN_AT_A_TIME", 1)
    client = RedisClient(server.host, server.port)
    with stamina.set_testing(True, attempts=3):
        run_state_machine_as_test(
            type("Machine", (QueueAndModel,), {"client": client}),
            settings=settings(
                max_examples=250,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
                report_multiple_bugs=False,
            ),
        )
    client.close()
