"""Operating the queues on Redis or Valkey.  What changes a job is one script; what is shown may be a moment old.

No command here looks through a whole queue or the whole key space: a million jobs may wait.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from redis_consumer.job import Status
from redis_consumer.queues.admin import DeadLetter, Delivery, JobState, LaneState, QueueState
from redis_consumer.queues.depth import age_seconds, queue_depth
from redis_consumer.queues.lua import Scripts, packed
from redis_consumer.queues.redis import hashes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from redis_consumer.redis import RedisClient

LISTS, LEASES, DEAD = "redis-consumer:lists", "redis-consumer:leases", "redis-consumer:dead"
SEEN_SECONDS = 90.0
"""An idle lane gives a sign of life every 25 s.  One that is silent for longer, and holds nothing, is not shown."""
PARKED = "parked"
AT_A_TIME = 500


class RedisJobAdmin:
    """A `JobAdmin`.  `known` are queues to show though no worker ever served them here."""

    def __init__(self, client: RedisClient, *, known: Iterable[str] = ()) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._known = set(known)

    def lanes(self) -> list[LaneState]:
        """See `JobAdmin.lanes`."""
        with self._client.translated() as master:
            now = seconds_of(master.time())
            lists = [(*list_name(name), score / 1000) for name, score in master.zrange(LISTS, 0, -1, withscores=True)]
            found = []
            for queue, lane, pod, registered_at in lists:
                if lane != PARKED and (state := self._lane(master, queue, lane, pod, registered_at)):
                    found.append(state)
        return sorted(
            (state for state in found if state.job or now - state.seen_at < SEEN_SECONDS),
            key=lambda state: (state.queue, state.pod, state.lane),
        )

    def queues(self) -> list[QueueState]:
        """See `JobAdmin.queues`."""
        with self._client.translated() as master:
            lists = [list_name(name) for name in master.zrange(LISTS, 0, -1)]
        dead = self._dead_by_queue()
        names = self._known | {queue for queue, _, _ in lists} | set(dead)
        return [self._queue(name, lists, dead[name]) for name in sorted(names)]

    def find(self, queues: Sequence[str], place: str, *, limit: int) -> list[JobState]:
        """See `JobAdmin.find`."""
        if place == "failed":
            return self._failed(queues, limit)
        return [job for queue in queues for job in self._open(queue, place, limit)]

    def cancel(self, key: str, *, by: str) -> list[str]:
        """See `JobAdmin.cancel`."""
        arguments = [by, f"Cancelled by {by}"]
        return [job for job in self._family(key) if self._scripts.run("cancel", job, args=arguments) == "cancelled"]

    def requeue(self, key: str, *, by: str) -> str:
        """See `JobAdmin.requeue`."""
        return str(self._scripts.run("requeue", key, args=[by]))

    def dead_letters(self) -> Iterator[DeadLetter]:
        """See `JobAdmin.dead_letters`."""
        cursor = -1
        while cursor:
            with self._client.translated() as master:
                cursor, found = master.hscan(DEAD, max(cursor, 0), count=AT_A_TIME)
            for key, text in found.items():
                yield dead_letter(key, text)

    def dead_letter(self, key: str) -> DeadLetter | None:
        """See `JobAdmin.dead_letter`."""
        with self._client.translated() as master:
            text = master.hget(DEAD, packed(key))
        return dead_letter(key, text) if text else None

    def replay(self, key: str, *, by: str) -> str:
        """See `JobAdmin.replay`."""
        return str(self._scripts.run("replay", key, args=[by]))

    def purge(self, keys: Sequence[str]) -> int:
        """See `JobAdmin.purge`."""
        forgotten = 0
        for start in range(0, len(keys), AT_A_TIME):
            with self._client.translated() as master:
                forgotten += master.hdel(DEAD, *map(packed, keys[start : start + AT_A_TIME]))
        return forgotten

    def _lane(self, master: Any, queue: str, lane: str, pod: str, registered_at: float) -> LaneState | None:
        entries = master.lrange(packed(f"processing-{queue}:{lane}:{pod}"), -1, -1)
        if not entries:
            return LaneState(pod, lane, queue, registered_at)
        job = entries[0]
        with master.pipeline(transaction=False) as pipe:
            pipe.hmget(packed(job), "status", "updated_at")
            pipe.hmget(packed(f"redis-consumer:job:{job}"), "since", "deliveries")
            (status, updated_at), (since, deliveries) = pipe.execute()
        # Each heartbeat is a sign of life.
        seen_at = max(registered_at, seconds_of(master.time()) - age_seconds(updated_at or "")) if since else 0.0
        return LaneState(pod, lane, queue, seen_at, job, status or "", float(since or 0) / 1000, int(deliveries or 0))

    def _queue(self, name: str, lists: Sequence[tuple[str, str, str]], dead: int) -> QueueState:
        depth = queue_depth(self._client, name)
        return QueueState(
            name,
            waiting=depth.jobs,
            running=len(self._standing(name, parked=False, lists=lists)),
            parked=len(self._standing(name, parked=True, lists=lists)),
            dead=dead,
            oldest_seconds=depth.oldest_seconds,
        )

    def _standing(self, queue: str, *, parked: bool, lists: Sequence[tuple[str, str, str]] | None = None) -> list[str]:
        """Return the entries of the lanes of a queue, or of its parked lists."""
        with self._client.translated() as master:
            names = [list_name(name) for name in master.zrange(LISTS, 0, -1)] if lists is None else lists
            ours = [
                f"processing-{q}:{lane}:{pod}" for q, lane, pod in names if q == queue and (lane == PARKED) is parked
            ]
            with master.pipeline(transaction=False) as pipe:
                for name in ours:
                    pipe.lrange(packed(name), 0, -1)
                return [key for entries in pipe.execute() for key in reversed(entries)]

    def _family(self, key: str) -> Iterator[str]:
        # A parent first, and only then the look at its children: else it could submit more of them meanwhile, or be
        # woken by their end, and go on.
        yield key
        for child in self._children(key):
            yield from self._family(child)

    def _children(self, key: str) -> list[str]:
        with self._client.translated() as master:
            children: list[str] = master.zrange(packed(f"redis-consumer:children:{key}"), 0, -1)
        return children

    def _hashes(self, keys: Sequence[str]) -> list[dict[str, str]]:
        found = []
        for start in range(0, len(keys), AT_A_TIME):
            found += hashes(self._client, keys[start : start + AT_A_TIME])
        return found

    def _open(self, queue: str, place: str, limit: int) -> list[JobState]:
        if place == "waiting":
            with self._client.translated() as master:
                keys = master.lrange(packed(queue), -limit, -1)[::-1]
        else:
            keys = self._standing(queue, parked=place == PARKED)[:limit]
        return [JobState(key, queue, place, fields) for key, fields in zip(keys, self._hashes(keys), strict=True)]

    def _failed(self, queues: Sequence[str], limit: int) -> list[JobState]:
        letters = self._last_dead(queues, limit)
        found = self._hashes([letter.key for letter in letters])
        return [
            JobState(letter.key, letter.queue, "failed", fields or letter.fields)
            for letter, fields in zip(letters, found, strict=True)
        ]

    def _last_dead(self, queues: Sequence[str], limit: int) -> list[DeadLetter]:
        """Return the last ones of each queue; all are read once, however many queues are asked for."""
        by_queue: dict[str, list[DeadLetter]] = {queue: [] for queue in queues}
        for letter in self.dead_letters():
            if letter.queue in by_queue:
                by_queue[letter.queue].append(letter)
        return [
            letter
            for letters in by_queue.values()
            for letter in heapq.nlargest(limit, letters, key=lambda letter: letter.died_at)
        ]

    def _dead_by_queue(self) -> Counter[str]:
        with self._client.translated() as master:
            return Counter(key.partition(":")[0] for key in master.hkeys(DEAD))


def list_name(name: str) -> tuple[str, str, str]:
    """Return queue, lane and pod of ``processing-<queue>:<lane>:<pod>``."""
    queue, lane, pod = name.removeprefix("processing-").split(":", 2)
    return queue, lane, pod


def dead_letter(key: str, text: str) -> DeadLetter:
    """Read a dead letter as the scripts write it."""
    found: dict[str, Any] = json.loads(text)
    # Lua has one kind of table: an empty list comes as an object.
    deliveries = [Delivery(**one) for one in found.get("deliveries") or []]
    return DeadLetter(
        key,
        found["queue"],
        found["died_at"],
        found.get("error") or str(Status.FAILED),
        found.get("reason") or "",
        found.get("traceback") or "",
        deliveries,
        found["fields"] or {},
    )


def seconds_of(time: tuple[int, int]) -> float:
    """Return a reply of TIME as seconds since 1970."""
    return time[0] + time[1] / 1e6
