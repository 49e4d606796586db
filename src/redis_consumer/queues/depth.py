"""How much waits in a queue on Redis or Valkey, and for how long.  Two commands, or three."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

from redis_consumer.queues.lua import packed

if TYPE_CHECKING:
    from redis_consumer.redis import RedisClient


class Depth(NamedTuple):
    """What waits in one queue."""

    jobs: int
    oldest_seconds: float
    """Age of the job that is next; 0 where nothing waits or its age is not known."""


def queue_depth(client: RedisClient, queue: str) -> Depth:
    """Ask once; QueueUnavailable if Redis does not answer."""
    name = packed(queue)
    with client.translated() as master:
        jobs, key = master.llen(name), master.lindex(name, -1)
        created = master.hget(packed(key), "created_at") if key else None
    return Depth(jobs, age_seconds(created or ""))


def age_seconds(created_at: str) -> float:
    """Return how long ago a job was submitted, by this machine's clock; 0 if the text is no time with an offset."""
    try:
        age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(created_at)
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, age.total_seconds())
