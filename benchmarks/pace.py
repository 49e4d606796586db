"""How fast jobs go through a queue, any queue: what they cost at full speed, and how soon one starts."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rig import cpu_seconds, family, percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tell import Ear

WARM = 10
"""One job of so many is over before the measurement begins."""


@dataclass(frozen=True)
class Rate:
    """What jobs cost at full speed."""

    jobs_per_s: float
    cpu_ms_per_job: float
    """Of the workers, all their processes."""
    redis_ms_per_job: float
    """CPU time of the server, its scripts included."""


@dataclass(frozen=True)
class Latency:
    """From before the push to the first line of the job."""

    median_ms: float
    p99_ms: float


def rate(ear: Ear, workers: Sequence[int], server: int, count: int, *, warm: int = 0, event: str = "began") -> Rate:
    """Listen to workers that work off `count` jobs, and return what each cost but the first tenth, or `warm`."""
    warm = warm or count // WARM
    jobs = count - warm
    began = ear.hear_all(warm, event)[-1]
    cpu, redis = of_families(workers), cpu_seconds(server)
    seconds = ear.hear_all(jobs, event)[-1] - began
    cpu, redis = of_families(workers) - cpu, cpu_seconds(server) - redis
    return Rate(jobs / seconds, 1000 * cpu / jobs, 1000 * redis / jobs)


def of_families(pids: Sequence[int]) -> float:
    """Return the CPU seconds of these processes and all their descendants."""
    return sum(cpu_seconds(member) for pid in pids for member in family(pid))


def latency(ear: Ear, push: Callable[[], object], pushes: int) -> Latency:
    """Push one job at a time to workers that wait, and return how soon each began."""
    ear.forget()
    times = []
    for _ in range(pushes):
        time.sleep(random.uniform(0.01, 0.05))
        pushed = time.monotonic()
        push()
        times.append(1000 * (ear.hear() - pushed))
    return Latency(statistics.median(times), percentile(times, 99))
