"""The real scripts on a real server, with lost and late replies, dead lanes, a janitor and a sweep, in any order.

The properties are those of the protocol, and P9 on those of what stands aside and of operators.

P1 no open job is lost: one that our submitter submitted is found again also if the janitor dies with it in hand, at any
point, before its first claim too; one of the frontend once a script of ours has seen it.  P2 one settle is accepted.
P3 a final hash stays as it is.  P4 nothing is written without the token of the latest claim.  P5 when the faults stop,
everything ends, parents too, and no key of ours is left that does not expire.  P6 only faults that cost a run count as
deliveries.  P8 a hash that vanished stays so.  P9 a parent that waits is not woken before its children are final,
unless the janitor or an operator did it.  P10 a parent has one set of children: each place is taken once, by one job
that is submitted once, and no place is left out once the set is complete.  P11 a job that we failed has its dead
letter, until somebody purges or replays it.

Time is moved by hand.
"""

from __future__ import annotations

import uuid
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
from tests.queue_faults import LEASE_SECONDS, QUEUE, Died, Lane, Ledger, World

from redis_consumer.errors import LeaseLost, QueueUnavailable
from redis_consumer.job import FINAL
from redis_consumer.queues.base import Child, Place
from redis_consumer.queues.redis import RedisSubmitter
from redis_consumer.queues.redis_admin import RedisJobAdmin
from redis_consumer.queues.sweeper import RedisSweeper
from redis_consumer.redis import RedisClient
from redis_consumer.testing.servers import Server, start_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_consumer.job import Job
    from redis_consumer.queues.base import JobQueue

OPEN_JOBS = 3
SIZES = (1, 3, 0, 2, 5)
"""How many children a job has, by its number."""
STILLBORN = 2
"""The child at this place is final from the beginning."""
WHICH = st.integers(0, 1)
WHICH_JOB = st.integers(0, 99)
FAULTS = st.sampled_from(
    ["lost reply", "late", "not sent", "dies before", "dies after", "moved", "torn", "undone before", "undone after"]
)
ONE_FAULT = st.builds(lambda fine, fault: [""] * fine + [fault], st.integers(0, 2), FAULTS)
NO_FAULT: st.SearchStrategy[list[str]] = st.builds(list)
PLANS = (
    NO_FAULT | NO_FAULT | NO_FAULT | ONE_FAULT | st.builds(lambda first, second: first + second, ONE_FAULT, ONE_FAULT)
)
ACTS = st.sampled_from(
    [
        *["run", "park", "write", "announce", "children", "settle", "release"] * 3,
        "run",
        "run",
        "beat",
        "beat",
        "forget",
        "drain",
    ]
)
STATUSES = st.sampled_from(["new", "waiting"])
PLACES = st.sampled_from([*Place, Place.WAITING, Place.WAITING])
TORN = st.none() | st.none() | st.integers(0, max(SIZES))
OFTEN = ["sweep", "lease_runs_out", "lease_period_passes", "time_passes", "janitor_works", "late_command_arrives"]
SELDOM = ["cancel", "requeue", "replay", "purge", "entry_is_lost", "somebody_else_finishes", "hash_vanishes", "flush"]
EVENTS = st.sampled_from([*OFTEN, *OFTEN, "sweep", "sweep", "replay", *SELDOM])
LEASES, SEEN, DUE = "redis-consumer:leases", "redis-consumer:seen", "redis-consumer:due"
LASTING = {"redis-consumer:lists", "redis-consumer:swept", "redis-consumer:dead"}
"""The keys of ours that stay: lists are forgotten after a day, dead letters when they are purged."""
ROUNDS = 50


class QueueUnderFaults(RuleBasedStateMachine):
    """Two lanes at a time, each replaced when it dies."""

    client: ClassVar[RedisClient]
    has_a_frontend: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.ledger = Ledger()
        self.submitter = RedisSubmitter(self.client, host="frontend")
        clock = count(step=2 * LEASE_SECONDS)  # each look at it finds the quiet period over
        self.sweeper = RedisSweeper(self.client, lease_seconds=LEASE_SECONDS, clock=lambda: float(next(clock)))
        self.admin = RedisJobAdmin(self.client)
        self.numbers = count()
        self.of_the_frontend: set[str] = set()
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

    # Steps of a lane.  One rule for all, so that a run gets far: to parents that wait, and beyond.

    @rule(steps=st.lists(st.tuples(WHICH, ACTS, PLANS, STATUSES, PLACES, TORN), min_size=1, max_size=4))
    def lanes_act(self, steps: list[tuple[int, str, list[str], str, Place, int | None]]) -> None:
        for step in steps:
            self.lane_acts(*step)
            self.every_property_holds()

    def lane_acts(self, which: int, act: str, plan: list[str], status: str, place: Place, torn: int | None) -> None:
        lane = self.lanes[which]
        if act == "drain":
            self.drain(lane, plan)
        elif lane.job is None:
            self.claim(lane, plan, runs=act == "run")
        else:
            job = lane.job
            steps: dict[str, Callable[[], None]] = {
                "beat": lambda: lane.queue.heartbeat(job),
                "write": lambda: lane.queue.update(job, {"by": job.token, "status": status}),
                "announce": lambda: lane.queue.announce(job, {"by": job.token, "status": status}),
                "children": lambda: self.submit_children(lane.queue, job, torn),
                "settle": lambda: self.settle(lane.queue, job, status),
                "run": lambda: self.settle(lane.queue, job, status),
                "park": lambda: self.park(lane.queue, job),
                "release": lambda: self.release(lane.queue, job, place),
                "forget": lambda: self.forget(job),
            }
            if act not in {"beat", "write", "announce", "children"}:
                lane.job = None  # whether it is answered or not: the lane asks again before its next claim
            self.step(lane, plan, steps[act])

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

    @initialize()
    def start(self) -> None:
        self.hand_in()

    @precondition(lambda self: sum("/" not in job for job in self.open_jobs()) < OPEN_JOBS)
    @rule()
    def submit(self) -> None:
        self.hand_in()

    def hand_in(self) -> str:
        number = next(self.numbers)
        if self.has_a_frontend and number % 3 == 1:
            job = f"{QUEUE}:{number}:{uuid.uuid4()}"
            self.client.hset(job, mapping={"status": "new"})
            self.client.lpush(QUEUE, job)
            self.of_the_frontend.add(job)
            return job
        return self.submitter.submit(QUEUE, f"{number}", {})

    def claim(self, lane: Lane, plan: list[str], *, runs: bool) -> None:
        def act() -> None:
            job = lane.queue.claim(timeout=0)
            if job and runs:
                self.settle(lane.queue, job, "new")
            else:
                lane.job = job

        self.step(lane, plan, act)

    def settle(self, queue: JobQueue, job: Job, status: str) -> None:
        queue.settle(job, "done" if status == "new" else "failed", {"by": job.token})

    def release(self, queue: JobQueue, job: Job, place: Place) -> None:
        self.costs[job.key] += place in {Place.BACK, Place.LATER}
        queue.release(job, place, seconds=LEASE_SECONDS)

    def forget(self, job: Job) -> None:
        """A command of the job's handler was not answered: the lane leaves the job and goes on."""
        self.costs[job.key] += 1

    def submit_children(self, queue: JobQueue, job: Job, torn: int | None) -> None:
        if "/" not in name_of(job.key):  # one generation is enough
            with suppress(OSError):
                queue.submit_children(job, self.children_of(job.key, torn))

    def park(self, queue: JobQueue, job: Job) -> None:
        try:
            self.submit_children(queue, job, None)
        except QueueUnavailable:
            self.forget(job)
            raise
        self.release(queue, job, Place.WAITING)

    def children_of(self, parent: str, torn: int | None) -> Iterator[Child]:
        for place, name in enumerate(self.names_of_children(parent)):
            if place == torn:
                raise OSError("The archive is broken")
            yield Child(QUEUE, name, {"status": "failed"} if place == STILLBORN else {})

    def names_of_children(self, parent: str) -> list[str]:
        number = int(name_of(parent))
        return [f"{number}/{self.replayed[parent]}/{place}" for place in range(SIZES[number % len(SIZES)])]

    def drain(self, lane: Lane, plan: list[str]) -> None:
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

    # Operators.  `which` chooses.

    def cancel(self, which: int) -> None:
        job = self.jobs[which % len(self.jobs)]
        self.ledger.buried.update(self.admin.cancel(job, by="operator"))

    def requeue(self, which: int) -> None:
        job = self.jobs[which % len(self.jobs)]
        self.admin.requeue(job, by="operator")
        self.ledger.forget(job)
        self.kicked.add(job)

    def replay(self, which: int) -> None:
        if letters := sorted(self.ledger.buried):
            letter = letters[which % len(letters)]
            answer = self.admin.replay(letter, by="operator")
            if answer == "replayed":
                self.ledger.buried.discard(letter)
                self.ledger.settled[letter] = 0
                self.final.pop(letter, None)
                self.vanished.discard(letter)
                self.replayed[letter] += 1

    def purge(self, _which: int) -> None:
        letters = sorted(self.ledger.buried)[:1]
        assert self.admin.purge(letters) == len(letters)
        self.ledger.buried.difference_update(letters)

    # The world.

    @rule(which=WHICH_JOB, event=EVENTS)
    def world_acts(self, which: int, event: str) -> None:
        act: Callable[[int], object] = getattr(self, event)
        act(which)

    def sweep(self, _which: int) -> None:
        self.swept()

    def swept(self) -> int:
        self.client.delete("redis-consumer:swept")  # a turn soon after another is left out
        return self.sweeper.sweep()

    def time_passes(self, _which: int) -> None:
        if due := self.look().due:
            self.client.zadd(DUE, dict.fromkeys(due, 1))

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
        elif which % 3 or not self.will_be_found(self.in_janitors_hand):
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

    def entry_is_lost(self, _which: int) -> None:
        """A lane moved it and died, the janitor took it from there and died too: seldom enough as single steps."""
        job = self.client.lindex(QUEUE, -1)
        if job and self.will_be_found(job):
            self.client.rpop(QUEUE)
            self.costs[job] += 1

    def will_be_found(self, job: str) -> bool:
        """A job of the frontend that none of our scripts has seen yet is lost with its entry, as it always was."""
        return job not in self.of_the_frontend or self.look().known(job)

    def somebody_else_finishes(self, which: int) -> None:
        if jobs := self.open_jobs():
            self.client.hset(jobs[which % len(jobs)], mapping={"status": "done", "by": "somebody else"})

    def hash_vanishes(self, which: int) -> None:
        if jobs := self.open_jobs():
            self.vanished.add(jobs[which % len(jobs)])
            self.client.delete(jobs[which % len(jobs)])

    def flush(self, _which: int) -> None:
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
        assert len(names) == len(self.jobs), f"P10: a child was submitted twice: {names}"
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
            self.every_property_holds()
            if not self.swept() and world.is_over():
                break
        self.every_property_holds()
        assert world.is_over(), f"P5: {self.open_jobs()} are open, {world.lists} left: {world}"
        assert set(world.lasting) <= LASTING, f"P5: {world.lasting} stays for ever"

    def work_off(self, lane: Lane) -> None:
        with suppress(LeaseLost):
            lane.job = lane.job or lane.queue.claim(timeout=0)
            if lane.job and self.look().open_children(lane.job.key):
                lane.queue.release(lane.job, Place.WAITING, seconds=LEASE_SECONDS)
            elif lane.job:
                self.settle(lane.queue, lane.job, "new")
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
    explore(QueueUnderFaults, server, examples=150)
