"""The table of faults."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from tests.chaos.blows import (
    crash_redis,
    cut_clients,
    cut_worker,
    depose_master,
    fill_disk,
    fill_redis,
    freeze_redis,
    hang_storage,
    kill_models,
    kill_worker,
    lose_reply,
    lose_settles,
    moves,
    part_worker,
    refuse_storage,
    reset_storage,
    restart_redis,
    rolling_restart,
    scripts,
    skew_clock,
    slow_worker,
    stop_worker,
    upset_models,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.chaos.blows import Blow, Hurt


class Where(StrEnum):
    """What a fault is about.  Two at one time are never about the same."""

    WORKER = "worker"
    REDIS = "redis"
    STORAGE = "storage"
    MODELS = "models"


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    where: Where
    strike: Callable[[Hurt, Random], Blow]
    sites: frozenset[str] = frozenset({"single"})
    drains: bool = False
    """Whether it only ends workers in order: then no delivery may be counted."""
    rare: bool = False
    """Too long for every round."""


EVERYWHERE = frozenset({"single", "replicated"})
REPLICATED = frozenset({"replicated"})
RELAXED = frozenset({"relaxed"})
SHORT = (1.0, 3.0)
COLD_SECONDS = 60.0

FAULTS: tuple[Fault, ...] = (
    Fault("worker killed", Where.WORKER, kill_worker, EVERYWHERE | RELAXED),
    Fault("worker stopped past its lease", Where.WORKER, stop_worker, EVERYWHERE),
    Fault("rolling restart", Where.WORKER, rolling_restart, EVERYWHERE, drains=True),
    Fault("worker's clock wrong", Where.WORKER, skew_clock, drains=True),
    Fault("worker's disk full", Where.WORKER, fill_disk),
    Fault("worker cut off", Where.WORKER, cut_worker),
    Fault("worker parted past its lease", Where.WORKER, part_worker),
    Fault("worker's network slow", Where.WORKER, slow_worker),
    Fault("reply lost: move", Where.WORKER, partial(lose_reply, markers=moves)),
    Fault("reply lost: claim", Where.WORKER, partial(lose_reply, markers=partial(scripts, "claim"))),
    Fault("reply lost: settle", Where.WORKER, lose_settles),
    Fault("reply lost: others", Where.WORKER, partial(lose_reply, markers=partial(scripts, "update", "heartbeat"))),
    Fault("claim arrives late", Where.WORKER, partial(lose_reply, markers=partial(scripts, "claim"), late=True)),
    Fault("Redis restarted", Where.REDIS, restart_redis),
    Fault("Redis killed", Where.REDIS, crash_redis),
    Fault("Redis frozen past a lease", Where.REDIS, freeze_redis),
    Fault("Redis out of memory", Where.REDIS, fill_redis, EVERYWHERE),
    Fault("Redis cuts all clients", Where.REDIS, cut_clients, EVERYWHERE),
    Fault("Sentinel failover", Where.REDIS, crash_redis, REPLICATED),
    Fault("power cut, AOF everysec", Where.REDIS, crash_redis, RELAXED),
    Fault("failover without a death", Where.REDIS, depose_master, frozenset({"two-masters"})),
    Fault("storage answers 500", Where.STORAGE, partial(refuse_storage, status=500)),
    Fault("storage answers 503", Where.STORAGE, partial(refuse_storage, status=503)),
    Fault("storage resets", Where.STORAGE, reset_storage),
    Fault("storage hangs", Where.STORAGE, hang_storage),
    Fault("model server killed", Where.MODELS, kill_models, EVERYWHERE),
    Fault("model server cold", Where.MODELS, partial(upset_models, mood="cold", seconds=SHORT)),
    Fault("model server's queue full", Where.MODELS, partial(upset_models, mood="full", seconds=SHORT)),
    Fault("model server exhausted", Where.MODELS, partial(upset_models, mood="exhausted", seconds=SHORT)),
    Fault("model server out of memory", Where.MODELS, partial(upset_models, mood="oom 1", seconds=SHORT)),
    Fault(
        "model server cold for 60 s",
        Where.MODELS,
        partial(upset_models, mood="cold", seconds=(COLD_SECONDS, COLD_SECONDS)),
        rare=True,
    ),
)
