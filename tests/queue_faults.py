"""A server whose commands go wrong, seen whole: what the state machines of the queue share."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from redis_consumer.errors import QueueUnavailable
from redis_consumer.job import FINAL, Status
from redis_consumer.queues.lua import Scripts
from redis_consumer.queues.redis import RedisJobQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from redis_consumer.job import Job
    from redis_consumer.redis import RedisClient

QUEUE = "predict"
LEASE_SECONDS = 1000.0
LOOK = """
local world = {hashes = {}, lists = {}, leases = {}, seen = {}, due = {}, submitted = {}, children = {}, lasting = {}}
local function fold(flat)
  local map = {}
  for i = 1, #flat, 2 do map[flat[i]] = tonumber(flat[i + 1]) or flat[i + 1] end
  return map
end
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'hash' then world.hashes[key] = fold(redis.call('HGETALL', key)) end
  local parent = string.match(key, '^redis%-consumer:children:(.*)$')
  if parent then world.children[parent] = redis.call('ZRANGE', key, 0, -1) end
  if string.find(key, '^redis%-consumer:') and redis.call('TTL', key) == -1 then world.lasting[key] = 1 end
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
    children: dict[str, list[str]]
    lasting: dict[str, int]
    """Our keys that do not expire."""

    @classmethod
    def of(cls, client: RedisClient) -> World:
        return cls(**json.loads(client.eval(LOOK, 0)))

    def jobs(self) -> list[str]:
        return sorted(name for name in self.hashes if name.startswith(f"{QUEUE}:"))

    def record(self, job: str) -> dict[str, Any]:
        return self.hashes.get(f"redis-consumer:job:{job}", {})

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
        return str(self.record(job).get("list") or (standing or [""])[0])

    def open_children(self, job: str) -> set[str]:
        return set(filter(self.is_open, self.children.get(job, ())))

    def waits(self, job: str) -> bool:
        """Whether a parent stands aside for its children."""
        return job in self.due and self.is_open(job) and "children" in self.record(job)

    def is_over(self) -> bool:
        left = self.lists or self.leases or self.seen or self.due or self.submitted
        return not (left or any(map(self.is_open, self.jobs())))


class Died(BaseException):
    """A lane is no more; nothing in it may catch this."""


@dataclass
class Faults:
    """What goes wrong with the next commands of a lane, one word for each; nothing once the list is used up."""

    plan: list[str] = field(default_factory=list)
    late: list[tuple[str, tuple[str, ...], Callable[[], Any]]] = field(default_factory=list)
    janitor: Callable[[str, str], None] = field(default=lambda _job, _word: None)
    confirmed: Callable[[], None] = field(default=lambda: None)
    undo: Callable[[], None] = field(default=lambda: None)

    def run(self, name: str, keys: tuple[str, ...], command: Callable[[], Any], *, confirm: bool = False) -> Any:
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
        if fault == "undone before":
            self.undo()
        reply = command()
        if fault == "dies after":
            raise Died
        if fault == "lost reply":
            raise QueueUnavailable(fault)
        if confirm:
            self.confirmed()
        if fault == "undone after":
            self.undo()
        return reply


class Ledger:
    """Sees each reply of the server, also those that are lost on the way, and holds it against P2 and P4."""

    def __init__(self) -> None:
        self.token: dict[str, str] = {}
        self.released: set[str] = set()
        self.settled: Counter[str] = Counter()
        self.settled_by: set[str] = set()
        self.buried: set[str] = set()

    def forget(self, job: str) -> None:
        """An operator took it from whoever held it."""
        self.token.pop(job, None)

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
            self.settled_by.add(token)
            if args[2] == Status.FAILED:
                self.buried.add(job)
            assert self.settled[job] == 1, f"P2: {job} was settled twice"


class SpiedScripts(Scripts):
    def __init__(self, client: RedisClient, faults: Faults, ledger: Ledger) -> None:
        super().__init__(client)
        self._faults, self._ledger = faults, ledger
        self._is_slow = False

    def run(self, name: str, *keys: str, args: Iterable[object] = (), confirm: bool = False) -> Any:
        arguments = list(args)

        def command() -> Any:
            reply = Scripts.run(self, name, *keys, args=arguments, confirm=confirm)
            self._ledger.check(name, keys, arguments, reply)
            return reply

        return self._faults.run(name, keys, command, confirm=confirm)

    def begin(self, name: str, *keys: str, args: Iterable[object] = ()) -> Callable[[], Any]:
        """Every other one is slow: the server does it when its answer is waited for."""
        ask = partial(self.run, name, *keys, args=list(args))
        self._is_slow = not self._is_slow
        if self._is_slow:
            return ask
        try:
            reply = ask()
        except QueueUnavailable as error:
            return partial(_raise, error)
        return lambda: reply


def _raise(error: Exception) -> None:
    raise error


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
