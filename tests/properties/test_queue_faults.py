"""The real scripts on a real server, with lost and late replies, dead lanes, a janitor and a sweep, in any order.

The properties are those of the protocol: P1 no open job is lost.  P2 one settle is accepted.  P3 a final hash stays
as it is.  P4 nothing is written without the token of the latest claim.  P5 when the faults stop, everything ends.
P6 only faults that cost a run count as deliveries.  P8 a hash that vanished stays so.  Time is moved by hand.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
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

from redis_consumer.errors import LeaseLost, QueueUnavailable
from redis_consumer.job import FINAL
from redis_consumer.queues.base import Place
from redis_consumer.queues.lua import Scripts
from redis_consumer.queues.redis import RedisJobQueue, RedisSubmitter
from redis_consumer.queues.sweeper import RedisSweeper
from redis_consumer.redis import RedisClient
from redis_consumer.testing.servers import Server, start_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from redis_consumer.job import Job
    from redis_consumer.queues.base import JobQueue

QUEUE = "predict"
LEASE_SECONDS = 1000.0
OPEN_JOBS = 3
WHICH = st.integers(0, 1)
FAULTS = st.sampled_from(["lost reply", "late", "not sent", "dies before", "dies after", "moved", "torn"])
ONE_FAULT = st.builds(lambda fine, fault: [""] * fine + [fault], st.integers(0, 2), FAULTS)
NO_FAULT: st.SearchStrategy[list[str]] = st.builds(list)
PLANS = NO_FAULT | ONE_FAULT | st.builds(lambda first, second: first + second, ONE_FAULT, ONE_FAULT)
LEASES, SEEN, DUE = "redis-consumer:leases", "redis-consumer:seen", "redis-consumer:due"
ROUNDS = 50
LOOK = """
local world = {hashes = {}, lists = {}, leases = {}, seen = {}, due = {}, submitted = {}}
local function fold(flat)
  local map = {}
  for i = 1, #flat, 2 do map[flat[i]] = tonumber(flat[i + 1]) or flat[i + 1] end
  return map
end
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'hash' then world.hashes[key] = fold(redis.call('HGETALL', key)) end
  if kind == 'list' then world.lists[key] = redis.call('LRANGE', key, 0, -1) end
end
world.leases = fold(redis.call('ZRANGE', 'redis-consumer:leases', 0, -1, 'WITHSCORES'))
world.seen = fold(redis.call('ZRANGE', 'redis-consumer:seen', 0, -1, 'WITHSCORES'))
world.due = fold(redis.call('ZRANGE', 'redis-consumer:due', 0, -1, 'WITHSCORES'))
world.submitted = fold(redis.call('ZRANGE', 'redis-consumer:submitted:predict', 0, -1, 'WITHSCORES'))
return cjson.encode(world)
"""


@dataclass
class World:
    """Everything that the server holds, at one moment."""

    hashes: dict[str, dict[str, Any]]
    lists: dict[str, list[str]]
    leases: dict[str, float]
    seen: dict[str, float]
    due: dict[str, float]
    submitted: dict[str, float]

    def is_open(self, job: str) -> bool:
        return job in self.hashes and self.hashes[job]["status"] not in FINAL

    def processing(self) -> list[str]:
        return sorted(name for name in self.lists if name != QUEUE)

    def entries(self) -> set[str]:
        return {job for entries in self.lists.values() for job in entries}

    def known(self, job: str) -> bool:
        """Whether the sweep will find the job although it has no entry."""
        return (
            job in self.leases
            or job in self.due
            or job in self.submitted
            or any(sighting.partition("|")[2] == job for sighting in self.seen)
        )

    def list_of(self, job: str) -> str:
        """The list of the lane that holds a job, or has its entry."""
        standing = [name for name, entries in self.lists.items() if job in entries and name != QUEUE]
        return str(self.hashes.get(f"redis-consumer:job:{job}", {}).get("list") or (standing or [""])[0])

    def is_over(self) -> bool:
        jobs = [name for name in self.hashes if name.startswith(f"{QUEUE}:")]
        left = self.lists or self.leases or self.seen or self.due or self.submitted
        return not (left or any(map(self.is_open, jobs)))


class Died(BaseException):
    """A lane is no more; nothing in it may catch this."""


@dataclass
class Faults:
    """What goes wrong with the next commands of a lane, one word for each; nothing once the list is used up."""

    plan: list[str] = field(default_factory=list)
    late: list[tuple[str, tuple[str, ...], Callable[[], Any]]] = field(default_factory=list)
    janitor: Callable[[str, str], None] = field(default=lambda _job, _word: None)

    def run(self, name: str, keys: tuple[str, ...], command: Callable[[], Any]) -> Any:
        fault = self.plan.pop(0) if self.plan else ""
        if fault == "dies before":
            raise Died
        if fault == "not sent":
            raise QueueUnavailable(fault)
        if fault == "late":
            self.late.append((name, keys, command))
            raise QueueUnavailable(fault)
        if fault in ("moved", "torn"):
            self.janitor(keys[0], fault)
        reply = command()
        if fault == "dies after":
            raise Died
        if fault == "lost reply":
            raise QueueUnavailable(fault)
        return reply


class Ledger:
    """Sees each reply of the server, also those that are lost on the way, and holds it against P2 and P4."""

    def __init__(self) -> None:
        self.token: dict[str, str] = {}
        self.released: set[str] = set()
        self.settled: Counter[str] = Counter()

    def check(self, name: str, keys: tuple[str, ...], args: list[object], reply: Any) -> None:
        answer = reply[0] if isinstance(reply, list) and reply else reply
        job, token = keys[0] if keys else "", str(args[0]) if args else ""
        if name == "claim" and answer == "taken":
            self.token[job] = token
        elif answer == "released" and token in self.released:
            return  # the first answer again
        elif answer in ("held", "settled", "released"):
            assert self.token.get(job) == token, f"P4: {name} of {job} was accepted without its token"
        if answer == "released":
            self.released.add(token)
        if answer == "settled":
            self.settled[job] += 1
            assert self.settled[job] == 1, f"P2: {job} was settled twice"


class SpiedScripts(Scripts):
    def __init__(self, client: RedisClient, faults: Faults, ledger: Ledger) -> None:
        super().__init__(client)
        self._faults, self._ledger = faults, ledger

    def run(self, name: str, *keys: str, args: Iterable[object] = (), confirm: bool = False) -> Any:
        arguments = list(args)

        def command() -> Any:
            reply = Scripts.run(self, name, *keys, args=arguments, confirm=confirm)
            self._ledger.check(name, keys, arguments, reply)
            return reply

        return self._faults.run(name, keys, command)


class SteppedWaiter:
    """BLMOVE that does not block."""

    def __init__(self, client: RedisClient, faults: Faults) -> None:
        self._client, self._faults = client, faults

    def call(self, _move: str, source: bytes, to: bytes, *_: object, **__: float) -> Any:
        return self._faults.run("move", ("",), lambda: self._client.lmove(source, to, "RIGHT", "LEFT"))

    def end(self) -> None:
        pass

    def close(self) -> None:
        pass


class Lane:
    """A lane with its faults, and the job in its hand."""

    def __init__(self, client: RedisClient, number: int, ledger: Ledger) -> None:
        self.faults = Faults()
        self.name = f"processing-{QUEUE}:{number}:pod-{number}"
        self.job: Job | None = None
        self.queue = RedisJobQueue(
            client, queue=QUEUE, lane=str(number), pod=f"pod-{number}", lease_seconds=LEASE_SECONDS, max_deliveries=99
        )
        self.queue._scripts = SpiedScripts(client, self.faults, ledger)
        self.queue._waiter = SteppedWaiter(client, self.faults)  # type: ignore[assignment]  # what it does is the same


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
        self.jobs: list[str] = []
        self.vanished: set[str] = set()
        self.final: dict[str, dict[str, str]] = {}
        self.costs: Counter[str] = Counter()
        self.number = 0
        self.dead: list[Lane] = []
        self.lanes = [self.new_lane(), self.new_lane()]
        self.in_janitors_hand: str | None = None
        self.kicked: set[str] = set()

    def new_lane(self) -> Lane:
        self.number += 1
        lane = Lane(self.client, self.number, self.ledger)
        lane.faults.janitor = lambda job, word: self.janitor_meddles(lane, job, word)
        return lane

    def janitor_meddles(self, lane: Lane, job: str, word: str) -> None:
        """The entry is taken out between two commands of the lane; the janitor may die over it."""
        if self.look().is_open(job) and self.client.lrem(lane.name, 1, job):
            self.costs[job] += 1
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

    @precondition(lambda self: len(self.open_jobs()) < OPEN_JOBS)
    @rule()
    def submit(self) -> None:
        self.jobs.append(self.submitter.submit(QUEUE, f"{len(self.jobs)}.tif", {}))

    @some_lane_is_free
    @rule(which=WHICH, plan=PLANS)
    def claim(self, which: int, plan: list[str]) -> None:
        free = [lane for lane in self.lanes if lane.job is None]
        lane = free[which % len(free)]

        def act() -> None:
            lane.job = lane.queue.claim(timeout=0)

        self.step(lane, plan, act)

    @some_lane_is_busy
    @rule(beat=st.booleans(), which=WHICH, plan=PLANS)
    def write(self, which: int, plan: list[str], *, beat: bool) -> None:
        def act(queue: JobQueue, job: Job) -> None:
            if beat:
                queue.heartbeat(job)
            else:
                queue.update(job, {"by": job.token})

        self.work(which, plan, act)

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

    # The world.

    @rule()
    def sweep(self) -> None:
        self.swept()

    def swept(self) -> int:
        self.client.delete("redis-consumer:swept")  # a turn soon after another is left out
        return self.sweeper.sweep()

    @rule(which=st.integers(0, 9), event=st.integers(0, 9))
    def something_happens(self, which: int, event: int) -> None:
        events = [self.lease_runs_out, self.lease_period_passes, self.janitor_works, self.late_command_arrives]
        rare = [self.somebody_else_finishes, self.hash_vanishes, self.server_forgets_its_scripts]
        act = events[event % 4] if event < 8 else rare[which % 3]
        act(which)

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
        elif which or not self.look().known(self.in_janitors_hand):
            self.janitor_pushes()
        else:
            # It dies.  Where nobody of ours knows the job yet it is lost, as it always was: not our doing.
            self.in_janitors_hand = None

    def janitor_takes(self, which: int) -> None:
        world = self.look()
        if entries := [(name, job) for name in world.processing() for job in world.lists[name]]:
            name, job = entries[which % len(entries)]
            self.costs[job] += 1
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
        for job in self.jobs:
            self.check(job, world)

    def look(self) -> World:
        return World(**json.loads(self.client.eval(LOOK, 0)))

    def check(self, job: str, world: World) -> None:
        fields = world.hashes.get(job)
        if job in self.vanished:
            assert fields is None, f"P8: {job} was created again"
        if world.is_open(job) and job not in world.entries() and job != self.in_janitors_hand:
            assert world.known(job), f"P1: {job} is lost"
        if fields and fields["status"] in FINAL:
            assert self.final.setdefault(job, fields) == fields, f"P3: {job} was written after its end"
        deliveries = int(world.hashes.get(f"redis-consumer:job:{job}", {}).get("deliveries", 0))
        assert 0 <= deliveries <= 1 + self.costs[job], f"P6: {deliveries} deliveries after {self.costs[job]} faults"

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
        for job in self.jobs:
            assert self.client.ttl(f"redis-consumer:job:{job}") != -1, "a record stays for ever"

    def work_off(self, lane: Lane) -> None:
        with suppress(LeaseLost):
            lane.job = lane.job or lane.queue.claim(timeout=0)
            if lane.job:
                lane.queue.settle(lane.job, "done", {})
        lane.job = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def test_no_fault_loses_or_doubles_a_job(server: Server) -> None:
    client = RedisClient(server.host, server.port)
    with stamina.set_testing(True, attempts=2):
        run_state_machine_as_test(
            type("Machine", (QueueUnderFaults,), {"client": client}),
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
