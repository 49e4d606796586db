"""How soon a job is done whose worker was killed in the middle of it: kill -9 to `done` by another, without a janitor.

``python benchmarks/recovery.py`` needs some three minutes: a lease has to run out each time.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from typing import TYPE_CHECKING

import tables
from worker import bench

from redis_consumer.demo.stack import MODELS
from redis_consumer.job import FINAL, Status
from redis_consumer.testing.servers import free_port

if TYPE_CHECKING:
    from rig import Bench

RUNS = 3
LEASES = ("5", "30")


def seconds_to_done(bench: Bench, lease: str) -> float:
    """Kill a worker that holds a job, and return how long another one, already idle, needs until it is done."""
    with bench.worker(HOSTNAME="victim", LEASE_SECONDS=lease, TF_PORT=str(free_port())) as victim:
        key = bench.push()
        bench.wait(key, lambda status: status == Status.PREDICTING)
        with bench.worker(HOSTNAME="heir", LEASE_SECONDS=lease):
            time.sleep(3)  # it is there, and idle
            os.kill(victim, signal.SIGKILL)
            began = time.monotonic()
            status = bench.wait(key, lambda status: status in FINAL)
            seconds = time.monotonic() - began
    if status != Status.DONE:
        raise RuntimeError(f"the job is {status}: {bench.client.hget(key, 'reason')}")
    return seconds


def main() -> None:
    """Print the table."""
    with bench(MODELS) as running:
        rows = []
        for lease in LEASES:
            runs = [seconds_to_done(running, lease) for _ in range(RUNS)]
            rows.append((int(lease), statistics.median(runs), max(runs)))
    tables.show(
        f"A worker is killed in the middle of a job, {RUNS} times each",
        ("LEASE_SECONDS", "until another has done the job, median, s", "slowest, s"),
        rows,
    )


if __name__ == "__main__":
    main()
