"""The real scripts on a real server, with lost and late replies, dead lanes, a janitor and a sweep, in any order.

The properties are those of the protocol, and P9 on those of what stands aside and of operators.

P1 no open job is lost: a job that our submitter submitted is found again also if the janitor dies with it in hand, at
any point, before its first claim too.  P2 one settle is accepted.  P3 a final hash stays as it is.  P4 nothing is
written without the token of the latest claim.  P5 when the faults stop, everything ends, parents too, and no key of
ours is left that does not expire.  P6 only faults that cost a run count as deliveries.  P8 a hash that vanished stays
so.  P9 a parent that waits is not woken before its children are final, unless the janitor or an operator did it.
P10 a parent has one set of children: each place is taken once, by one job that is submitted once, and no place is left
out once the set is complete.  P11 a job that we failed has its dead letter, until somebody purges or replays it.

Time is moved by hand.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, ClassVar

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

from redis_consumer.errors import LeaseLost, QueueUnavailable
from redis_consumer.job import FINAL
from redis_consumer.queues.base import Child, Place
from redis_consumer.queues.redis import RedisSubmitter
from redis_consumer.queues.redis_admin import RedisJobAdmin
from redis_consumer.queues.sweeper import RedisSweeper
from redis_consumer.redis import RedisClient
from redis_consumer.testing.servers import Server, start_redis
from tests.queue_faults import LEASE_SECONDS, QUEUE, Died, Lane, Ledger, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_consumer.job import Job
    from redis_consumer.queues.base import JobQueue

OPEN_JOBS = 3
MOST_CHILDREN = 5
WHICH = st.integers(0, 1)
WHICH_JOB = st.integers(0, 99)
FAULTS = st.sampled_from(
    ["lost reply", "late", "not sent", "dies before", "dies after", "moved", "torn", "undone before", "undone after"]
)
ONE_FAULT = st.builds(lambda fine, fault: [""] * fine + [fault], st.integers(0, 2), FAULTS)
NO_FAULT: st.SearchStrategy[list[str]] = st.builds(list)
PLANS = NO_FAULT | ONE_FAULT | st.builds(lambda first, second: first + second, ONE_FAULT, ONE_FAULT)
LEASES, SEEN, DUE = "redis-consumer:leases", "redis-consumer:seen", "redis-consumer:due"
LASTING = {"redis-consumer:lists", "redis-consumer:swept", "redis-consumer:dead"}
"""The keys of ours that stay: lists are forgotten after a day, dead letters when they are purged."""
ROUNDS = 50


class QueueUnderFaults(RuleBasedStateMachine):
    """Two lanes at a time, each replaced when it dies."""

    client: ClassVar[RedisClient]

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.ledger = Ledger()
        self.submitter = RedisSubmitter(self.client, host="frontend")
        clock = count(step=2 * LEASE_SECONDS)  # each look at it finds the quiet period over
        self.sweeper = RedisSweeper(self.client, lease_seconds=LEASE_SECONDS, clock=lambda: float(next(clock)))
        self.admin = RedisJobAdmin(self.client)
        self.numbers = count()
        self.jobs: list[str] = []
        """All that ever stood there."""
        self.vanished: set[str] = set()
        self.replayed: Counter[str] = Counter()
        self.kicked: set[str] = set()
        """Parents that the janitor or an operator woke."""
        self.before = World.of(self.client)
        self.final: dict[str, dict[str, str]] = {}
        self.costs: Counter[str] = Counter()
        self.number = 0
        self.dead: list[Lane] = []
        self.lanes = [self.new_lane(), self.new_lane()]
        self.in_janitors_hand: str | None = None

    def new_lane(self) -> Lane:
        self.number += 1
        lane = Lane(self.client, self.number, self.ledger)
        lane.faults.janitor = lambda job, word: self.janitor_meddles(lane, job, word)
        return lane

    def janitor_meddles(self, lane: Lane, job: str, word: str) -> None:
        """The entry is taken out between two commands of the lane; the janitor may die over it."""
        if self.look().is_open(job) and self.client.lrem(lane.name, 1, job):
            self.costs[job] += 1
            self.kicked.add(job)
            if word == "moved":
                self.client.lpush(QUEUE, job)

    def teardown(self) -> None:
        self.settle_down()

    # Steps of a lane.  `which` chooses among those that are free, or busy.

    some_lane_is_free = precondition(lambda self: any(lane.job is None for lane in self.lanes))
    some_lane_is_busy = precondition(lambda self: any(lane.job for lane in self.lanes))

    def step(self, lane: Lane, plan: list[str], act: Callable[[], None]) -> None:
        lane.faults.plan = list(plan)
        late = len(lane.faults.late)
        try:
            act()
        except LeaseLost:
            lane.job = None
        except QueueUnavailable:
            pass
        except Died:
            self.replace(lane)
        lane.faults.plan = []
        for name, keys, _ in lane.faults.late[late:]:
            # A late claim takes the job from the claim that was made meanwhile, and is itself taken over.
            self.costs[keys[0]] += 2 * (name == "claim")

    def replace(self, lane: Lane, *, died: bool = True) -> None:
        world = self.look()
        for job in self.jobs:
            self.costs[job] += died and world.list_of(job) == lane.name
        self.dead.append(lane)
        self.lanes[self.lanes.index(lane)] = self.new_lane()

    def work(self, which: int, plan: list[str], act: Callable[[JobQueue, Job], None], *, ends: bool = False) -> None:
        busy = [lane for lane in self.lanes if lane.job]
        lane = busy[which % len(busy)]
        job = lane.job
        assert job
        if ends:  # whether it is answered or not: the lane asks again before its next claim
            lane.job = None
        self.step(lane, plan, lambda: act(lane.queue, job))

    @initialize()
    def start(self) -> None:
        self.submit()

    @precondition(lambda self: sum("/" not in job for job in self.open_jobs()) < OPEN_JOBS)
    @rule()
    def submit(self) -> None:
        self.submitter.submit(QUEUE, f"{next(self.numbers)}", {})

    @some_lane_is_free
    @rule(which=WHICH, plan=PLANS)
    def claim(self, which: int, plan: list[str]) -> None:
        free = [lane for lane in self.lanes if lane.job is None]
        lane = free[which % len(free)]

        def act() -> None:
            lane.job = lane.queue.claim(timeout=0)

        self.step(lane, plan, act)

    @some_lane_is_busy
    @rule(status=st.sampled_from(["", "new", "waiting"]), which=WHICH, plan=PLANS)
    def write(self, which: int, plan: list[str], status: str) -> None:
        def act(queue: JobQueue, job: Job) -> None:
            if status:
                queue.update(job, {"by": job.token, "status": status})
            else:
                queue.heartbeat(job)

        self.work(which, plan, act)

    @some_lane_is_busy
    @rule(torn=st.none() | st.integers(0, MOST_CHILDREN), which=WHICH, plan=PLANS)
    def submit_children(self, which: int, plan: list[str], torn: int | None) -> None:
        def act(queue: JobQueue, job: Job) -> None:
            if "/" in name_of(job.key):
                return  # one generation is enough
            with suppress(OSError):
                queue.submit_children(job, self.children_of(job.key, torn))

        self.work(which, plan, act)

    def children_of(self, parent: str, torn: int | None) -> Iterator[Child]:
        for place, name in enumerate(self.names_of_children(parent)):
            if place == torn:
                raise OSError("The archive is broken")
            yield Child(QUEUE, name, {})

    def names_of_children(self, parent: str) -> list[str]:
        number = int(name_of(parent))
        return [f"{number}/{self.replayed[parent]}/{place}" for place in range((number + 2) % (MOST_CHILDREN + 1))]

    @some_lane_is_busy
    @rule(which=WHICH)
    def forget(self, which: int) -> None:
        """A job's own commands were not answered: the lane leaves it and goes on."""
        busy = [lane for lane in self.lanes if lane.job]
        lane = busy[which % len(busy)]
        assert lane.job
        self.costs[lane.job.key] += 1
        lane.job = None

    @some_lane_is_busy
    @rule(status=st.sampled_from(sorted(FINAL)), which=WHICH, plan=PLANS)
    def settle(self, which: int, plan: list[str], status: str) -> None:
        self.work(which, plan, lambda queue, job: queue.settle(job, status, {"by": job.token}), ends=True)

    @some_lane_is_busy
    @rule(to=st.sampled_from(Place), which=WHICH, plan=PLANS)
    def release(self, which: int, plan: list[str], to: Place) -> None:
        self.work(which, plan, lambda queue, job: self.give_away(queue, job, to), ends=True)

    def give_away(self, queue: JobQueue, job: Job, to: Place) -> None:
        self.costs[job.key] += to in {Place.BACK, Place.LATER}
        queue.release(job, to, seconds=LEASE_SECONDS)

    @rule(which=WHICH, plan=PLANS)
    def drain(self, which: int, plan: list[str]) -> None:
        lane = self.lanes[which]

        def act() -> None:
            try:
                if lane.job:
                    with suppress(LeaseLost):
                        lane.queue.release(lane.job, Place.FRONT)
                lane.queue.close()
            except QueueUnavailable:
                raise Died from None  # the process ends all the same

        self.step(lane, plan, act)
        if lane in self.lanes:
            self.replace(lane, died=False)

    # Operators.

    @rule(which=WHICH_JOB, event=st.integers(0, 3))
    def operator(self, which: int, event: int) -> None:
        if jobs := self.open_jobs():
            job = jobs[which % len(jobs)]
            [self.cancel, self.requeue, self.replay, self.purge][event](job)

    def cancel(self, job: str) -> None:
        self.ledger.buried.update(self.admin.cancel(job, by="operator"))

    def requeue(self, job: str) -> None:
        self.admin.requeue(job, by="operator")
        self.ledger.forget(job)
        self.kicked.add(job)

    def replay(self, _job: str) -> None:
        for letter in sorted(self.ledger.buried)[:1]:
            answer = self.admin.replay(letter, by="operator")
            if answer == "replayed":
                self.ledger.buried.discard(letter)
                self.ledger.settled[letter] = 0
                self.final.pop(letter, None)
                self.vanished.discard(letter)
                self.replayed[letter] += 1

    def purge(self, _job: str) -> None:
        letters = sorted(self.ledger.buried)[:1]
        assert self.admin.purge(letters) == len(letters)
        self.ledger.buried.difference_update(letters)

    # The world.

    @rule()
    def sweep(self) -> None:
        self.swept()

    def swept(self) -> int:
        self.client.delete("redis-consumer:swept")  # a turn soon after another is left out
        return self.sweeper.sweep()

    @rule(which=st.integers(0, 9), event=st.integers(0, 11))
    def something_happens(self, which: int, event: int) -> None:
        events = [
            self.lease_runs_out,
            self.lease_period_passes,
            self.time_passes_for_what_stands_aside,
            self.janitor_works,
            self.late_command_arrives,
        ]
        rare = [self.somebody_else_finishes, self.hash_vanishes, self.server_forgets_its_scripts]
        act = events[event % 5] if event < 10 else rare[which % 3]
        act(which)

    def time_passes_for_what_stands_aside(self, which: int) -> None:
        if due := sorted(self.look().due):
            self.client.zadd(DUE, {due[which % len(due)]: 1})

    def late_command_arrives(self, which: int) -> None:
        late = [lane.faults.late for lane in (*self.lanes, *self.dead) if lane.faults.late]
        if late:
            late[which % len(late)].pop(0)[2]()

    def lease_runs_out(self, which: int) -> None:
        if leases := sorted(job for job, ends in self.look().leases.items() if ends > 1):
            job = leases[which % len(leases)]
            self.costs[job] += 1
            self.client.zadd(LEASES, {job: 1})

    def lease_period_passes(self, _which: int) -> None:
        if sightings := self.look().seen:
            # A lane between its move and its claim has slept through it.
            self.costs.update(sighting.partition("|")[2] for sighting in sightings)
            self.client.zadd(SEEN, dict.fromkeys(sightings, 1))

    def janitor_works(self, which: int) -> None:
        if self.in_janitors_hand is None:
            self.janitor_takes(which)
        elif which % 3:
            self.janitor_pushes()
        else:
            self.in_janitors_hand = None  # it dies

    def janitor_takes(self, which: int) -> None:
        world = self.look()
        if entries := [(name, job) for name in world.processing() for job in world.lists[name]]:
            name, job = entries[which % len(entries)]
            self.costs[job] += 1
            self.kicked.add(job)
            self.in_janitors_hand = job if world.is_open(job) else None
            self.client.lrem(name, 1, job)

    def janitor_pushes(self) -> None:
        self.client.lpush(QUEUE, self.in_janitors_hand)
        self.in_janitors_hand = None

    def somebody_else_finishes(self, which: int) -> None:
        if jobs := self.open_jobs():
            self.client.hset(jobs[which % len(jobs)], mapping={"status": "done", "by": "somebody else"})

    def hash_vanishes(self, which: int) -> None:
        if jobs := self.open_jobs():
            self.vanished.add(jobs[which % len(jobs)])
            self.client.delete(jobs[which % len(jobs)])

    def server_forgets_its_scripts(self, _which: int) -> None:
        self.client.script_flush()

    def open_jobs(self) -> list[str]:
        world = self.look()
        return [job for job in self.jobs if world.is_open(job)]

    # What must hold.

    @invariant()
    def every_property_holds(self) -> None:
        world = self.look()
        self.jobs += [job for job in world.jobs() if job not in self.jobs]
        for job in self.jobs:
            self.check(job, world)
            self.check_children(job, world)
        names = Counter(map(name_of, self.jobs))
        assert max(names.values()) == 1, f"P10: a child was submitted twice: {names}"
        assert set(world.hashes.get("redis-consumer:dead", ())) == self.ledger.buried, "P11"
        self.before = world

    def look(self) -> World:
        return World.of(self.client)

    def check(self, job: str, world: World) -> None:
        fields = world.hashes.get(job)
        if job in self.vanished:
            assert fields is None, f"P8: {job} was created again"
        if world.is_open(job) and job not in world.entries() and job != self.in_janitors_hand:
            assert world.known(job), f"P1: {job} is lost"
        if fields and fields["status"] in FINAL:
            assert self.final.setdefault(job, fields) == fields, f"P3: {job} was written after its end"
        deliveries = int(world.record(job).get("deliveries", 0))
        assert 0 <= deliveries <= 1 + self.costs[job], f"P6: {deliveries} deliveries after {self.costs[job]} faults"

    def check_children(self, job: str, world: World) -> None:
        if self.before.waits(job) and world.is_open(job) and not world.waits(job) and job not in self.kicked:
            assert not world.open_children(job), f"P9: {job} was woken before {world.open_children(job)}"
        if world.waits(job) and not self.before.waits(job):
            self.kicked.discard(job)
        if "children" in world.record(job):
            names = list(map(name_of, world.children.get(job, ())))
            assert names == self.names_of_children(job), f"P10: the children of {job} are {names}"

    def settle_down(self) -> None:
        """P5: no more faults; all jobs end, and nothing is left."""
        if self.in_janitors_hand:
            self.janitor_pushes()
        for lane in (*self.lanes, *self.dead):
            for _, _, command in lane.faults.late:
                command()
        for _ in range(ROUNDS):
            for lane in self.lanes:
                self.work_off(lane)
            world = self.look()
            for zset, members in ((LEASES, world.leases), (SEEN, world.seen), (DUE, world.due)):
                if members:
                    self.client.zadd(zset, dict.fromkeys(members, 1))
            if not self.swept() and world.is_over():
                break
        self.every_property_holds()
        assert world.is_over(), f"P5: {world}"
        assert set(world.lasting) <= LASTING, f"P5: {world.lasting} stays for ever"

    def work_off(self, lane: Lane) -> None:
        with suppress(LeaseLost):
            lane.job = lane.job or lane.queue.claim(timeout=0)
            if lane.job and self.look().open_children(lane.job.key):
                lane.queue.release(lane.job, Place.WAITING, seconds=LEASE_SECONDS)
            elif lane.job:
                lane.queue.settle(lane.job, "done", {})
        lane.job = None


def name_of(job: str) -> str:
    return job.split(":")[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def explore(machine: type[QueueUnderFaults], server: Server, *, examples: int) -> None:
    client = RedisClient(server.host, server.port)
    with stamina.set_testing(True, attempts=2), pytest.MonkeyPatch.context() as patch:
        patch.setattr("redis_consumer.queues.redis.CHILDREN_AT_A_TIME", 2)
        run_state_machine_as_test(
            type("Machine", (machine,), {"client": client}),
            settings=settings(
                max_examples=examples,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
                report_multiple_bugs=False,
            ),
        )
    client.close()


def test_no_fault_loses_or_doubles_a_job(server: Server) -> None:
    explore(QueueUnderFaults, server, examples=250)
