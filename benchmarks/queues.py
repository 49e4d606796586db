"""The queue: what a job costs that does nothing, how soon it starts, and how both grow with jobs and lanes.

``python benchmarks/queues.py`` needs a minute; ``--full`` adds a million waiting jobs and 200 lanes, and needs some
five.  ``--json FILE`` writes the figures.  Other queues on the same Redis: see queue_peers.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import tables
from pace import latency, rate
from plain_jobs import NAP_VARIABLE
from rig import OURS, Bench, counted, meaning, resident_mb, stage
from tell import VARIABLE, Ear

from redis_consumer.queues.redis import RedisJobQueue, RedisSubmitter
from redis_consumer.queues.sweeper import SWEPT, RedisSweeper
from redis_consumer.worker import CLAIM_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EMPTY, FULL = "nothing", "waiting"
"""Two queues: of the workers, and of jobs that nobody takes."""
JOBS, PUSHES, COUNTED = 3000, 200, 500
LANES = {1: 1, 4: 2}
"""Lanes, and the processes that they are spread over."""
MORE_LANES = {1: 1, 8: 2, 32: 2, 100: 2, 200: 4}
DEPTHS = (1, 1_000, 100_000, 1_000_000)
CLAIMS, FILLED_AT_ONCE = 300, 2000
NAP_SECONDS, NAPS = 1.0, 6
IDLE_LANES = 4
ONCE = {"CLIENT", "SCRIPT"}
"""Sent when a connection opens, or where the server does not know a script."""
FILL = """
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local job = KEYS[1] .. ':field.tif:' .. string.format('%032x', i)
  redis.call('HSET', job, 'status', 'new', 'original_name', 'field.tif', 'input_file_name', 'uploads/field.tif')
  redis.call('LPUSH', KEYS[1], job)
  redis.call('ZADD', 'redis-consumer:submitted:' .. KEYS[1], ARGV[3], job)
end
"""
"""Leaves jobs as our own submitter does, with few fields."""

HEAD = (
    "lanes",
    "processes",
    "jobs/s",
    "CPU of the workers, ms per job",
    "CPU of Redis, ms per job",
    "push to start, ms: median",
    "p99",
)

Figures = dict[str, Any]
T = TypeVar("T")


def fill(bench: Bench, queue: str, count: int) -> None:
    """Put new jobs into a queue until `count` stand in it."""
    there, now = bench.client.llen(queue), round(1000 * time.time())
    total = bench.client.incrby(f"{OURS}:filled", count - there)  # no name is used twice
    for first in range(total - count + there, total, FILLED_AT_ONCE):
        bench.client.eval(FILL, 1, queue, first, min(first + FILLED_AT_ONCE, total) - 1, now)


@contextmanager
def workers(bench: Bench, ear: Ear, *, lanes: int, processes: int = 1, **variables: str) -> Iterator[list[int]]:
    """Run worker processes with `lanes` lanes together, on empty jobs."""
    environ = {"QUEUE": EMPTY, "CONSUMER_TYPE": "our_jobs:Nothing", VARIABLE: ear.port, **variables}
    with ExitStack() as stack:
        yield [
            stack.enter_context(bench.worker(CONCURRENCY=str(lanes // processes), **environ)) for _ in range(processes)
        ]


def see_lanes(bench: Bench, ear: Ear, lanes: int) -> None:
    """Wait until so many lanes of workers wait for jobs."""
    while sum(client["cmd"] == "blmove" for client in bench.client.client_list()) < lanes:
        time.sleep(0.1)
    ear.forget()


def submitter(bench: Bench, queue: str = EMPTY) -> Callable[[], str]:
    """Return what submits one empty job."""
    ours = RedisSubmitter(bench.client, host=OURS)
    fields = {"original_name": "field.tif", "input_file_name": "uploads/field.tif"}
    return lambda: ours.submit(queue, "field.tif", fields)


def at_speed(bench: Bench, ear: Ear) -> Figures:
    """Measure empty jobs at full speed, and one at a time on a worker that waits."""
    figures, rows = {}, []
    for lanes, processes in LANES.items():
        fill(bench, EMPTY, JOBS)
        with workers(bench, ear, lanes=lanes, processes=processes) as pids:
            fast = rate(ear, pids, bench.server.pid, JOBS)
            see_lanes(bench, ear, lanes)
            soon = latency(ear, submitter(bench), PUSHES)
        figures[str(lanes)] = asdict(fast) | asdict(soon)
        rows.append((lanes, processes, *figures[str(lanes)].values()))
    tables.show(f"Empty jobs ({JOBS} at full speed, {PUSHES} pushes one at a time)", HEAD, rows)
    return figures


def commands(bench: Bench, ear: Ear) -> Figures:
    """Count what a worker sends for an empty job."""
    with workers(bench, ear, lanes=1):
        see_lanes(bench, ear, 1)
        with counted(bench, meaning) as counts:
            fill(bench, EMPTY, COUNTED)
            ear.hear_all(COUNTED)
            time.sleep(0.5)  # the last one is settled, and the next claim waits
    per_job = {name: count / COUNTED for name, count in counts.items()}
    rows = [*per_job.items(), ("together", sum(per_job.values()))]
    tables.show(f"Redis commands that a worker sends for an empty job (mean of {COUNTED})", ("what", "count"), rows)
    return {"redis_commands_per_empty_job": sum(per_job.values())}


@contextmanager
def idleness(figures: Figures) -> Iterator[None]:
    """Count what an idle worker on a Redis of its own sends while the block runs; at least two claims' time."""
    with stage() as bench, workers(bench, ear := Ear(), lanes=IDLE_LANES):
        see_lanes(bench, ear, IDLE_LANES)
        began = time.monotonic()
        with counted(bench, meaning) as counts:
            yield
            time.sleep(max(0.0, 2 * CLAIM_SECONDS - (time.monotonic() - began)))
            seconds = time.monotonic() - began
    sweeps = counts.pop("sweep", 0) / seconds
    each = sum(count for name, count in counts.items() if name not in ONCE) / IDLE_LANES / seconds
    figures["idle_commands_per_s"] = {"lane": each, "sweeps of a process": sweeps}
    rows = [(f"each lane: {name}", count / IDLE_LANES / seconds) for name, count in counts.items()]
    rows += [("each lane, together, without what opens connections", each), ("sweeps of the process", sweeps)]
    tables.show(f"Redis commands that an idle worker sends ({seconds:.0f} s)", ("what", "per second"), rows)


def depths(bench: Bench, ear: Ear) -> Figures:
    """Measure the steps of a job in a queue where many wait, and starts in another queue beside it."""
    figures, rows = {}, []
    with workers(bench, ear, lanes=1):
        see_lanes(bench, ear, 1)
        for depth in DEPTHS:
            fill(bench, FULL, depth)
            steps = {step: statistics.median(times) for step, times in step_times(bench).items()}
            beside = latency(ear, submitter(bench), PUSHES // 2)
            memory = bench.client.info("memory")["used_memory"] / 1e6
            figures[str(depth)] = steps | asdict(beside) | {"redis_mb": memory}
            rows.append((depth, *figures[str(depth)].values()))
    head = ("jobs that wait", *steps, "start in another queue: median", "p99", "memory of Redis, MB")
    tables.show(f"Many waiting jobs (ms, medians of {CLAIMS})", head, rows)
    return figures


def step_times(bench: Bench) -> dict[str, list[float]]:
    """Return how long each step of a job took in the full queue, in ms; submits keep it as full as it was."""
    queue = RedisJobQueue(bench.client, queue=FULL, lane="0", pod=OURS)
    submit = submitter(bench, FULL)
    sweeper = RedisSweeper(bench.client, lease_seconds=0.1)
    sweeper.sweep_now()  # the first turn after a start only looks
    times: dict[str, list[float]] = {"submit": [], "claim": [], "settle": [], "sweep": []}

    def timed(step: str, action: Callable[[], T]) -> T:
        began = time.perf_counter()
        made = action()
        times[step].append(1000 * (time.perf_counter() - began))
        return made

    for _ in range(CLAIMS):
        timed("submit", submit)
        job = timed("claim", partial(queue.claim, timeout=1))
        if job is None:
            raise RuntimeError("the queue is empty")
        timed("settle", partial(queue.settle, job, "done", {}))
        bench.client.delete(SWEPT)  # or a sweep so soon after another would be left out
        timed("sweep", sweeper.sweep)
    queue.close()
    return times


def crowds(bench: Bench, ear: Ear) -> Figures:
    """Measure many lanes on one Redis: empty jobs, jobs that wait as a model server makes them wait, and idleness."""
    figures, rows = {}, []
    for lanes, processes in MORE_LANES.items():
        with workers(bench, ear, lanes=lanes, processes=processes) as pids:
            see_lanes(bench, ear, lanes)
            soon = latency(ear, submitter(bench), PUSHES)
            fill(bench, EMPTY, JOBS)
            fast = rate(ear, pids, bench.server.pid, JOBS)
            memory = sum(map(resident_mb, pids))
        busy = busy_share(bench, ear, lanes, processes)
        figures[str(lanes)] = asdict(fast) | asdict(soon) | {"busy": busy, "rss_mb": memory}
        rows.append((lanes, processes, *figures[str(lanes)].values()))
    head = (*HEAD, f"busy with jobs of {NAP_SECONDS:g} s", "memory, MB")
    tables.show("Many lanes on one Redis", head, rows)
    return figures


def busy_share(bench: Bench, ear: Ear, lanes: int, processes: int) -> float:
    """Return the share of their time that lanes are busy with jobs that wait for somebody else."""
    naps = {"CONSUMER_TYPE": "our_jobs:Nap", NAP_VARIABLE: str(NAP_SECONDS)}
    with workers(bench, ear, lanes=lanes, processes=processes, **naps):
        see_lanes(bench, ear, lanes)
        fill(bench, EMPTY, lanes * NAPS)
        began = ear.hear_all(lanes)[0]
        ended = ear.hear_all(lanes * (NAPS - 1))[-1] + NAP_SECONDS
    return NAPS * NAP_SECONDS / (ended - began)


def main() -> None:
    """Print the tables."""
    options = tables.parse(argparse.ArgumentParser(description=__doc__))
    figures: Figures = {}
    with idleness(figures), stage() as bench:
        for part in (at_speed, commands, *((depths, crowds) if options.full else ())):
            figures[part.__name__] = part(bench, Ear())
    soon = figures["at_speed"]["1"]
    tables.hand_over(
        {
            "push_to_start_ms": {"median": soon["median_ms"], "p99": soon["p99_ms"]},
            "jobs_per_s_empty": soon["jobs_per_s"],
            "queue": figures,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
