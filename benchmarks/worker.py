"""The worker as a process: start, memory, what a job costs and where its time goes, Redis commands of a job.

Real Valkey, a folder as the bucket, the embedded model server and the worker, each a process of its own, all on this
machine's cores.  Everything is measured from outside.  What an empty job costs stands in queues.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tables
import tifffile
from rig import Bench, counted, cpu_seconds, meaning, resident_mb, running, spoken, stage

from redis_consumer.bootstrap import build_storage
from redis_consumer.consumers.work import TIME_FIELDS
from redis_consumer.demo.simulation.nuclei import Cells, simulate
from redis_consumer.demo.stack import MODELS
from redis_consumer.job import FINAL
from redis_consumer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

STARTS, JOBS = 7, 20
RESTING_SECONDS = 2.0
"""A worker whose memory has not grown for so long has loaded everything."""
LARGE = 2048
STAINS = {"1": "0,", "3": "0,1,2"}
"""Channels of the large images, and the roles that their jobs name."""


@contextmanager
def bench(models: Path) -> Iterator[Bench]:
    """Start what a worker needs, with one 512 x 512 image in the bucket, and end it."""
    with stage() as servers, model_server(models, servers.folder) as port:
        environ = {
            **servers.environ,
            "TF_HOST": "127.0.0.1",
            "TF_PORT": port,
            **dict.fromkeys(("NUCLEAR_MODEL", "CYTOPLASM_MODEL", "PHASE_MODEL"), "NuclearSegmentation:1"),
        }
        field = servers.folder / "field.tif"
        tifffile.imwrite(field, simulate((512, 512), cells=Cells(count=80), seed=3).image)
        image = build_storage(Settings.from_environ(environ)).deposit(field).key
        yield replace(servers, environ=environ, image=image)


@contextmanager
def model_server(models: Path, folder: Path) -> Iterator[str]:
    """Serve `models` in a process of its own, and give the port."""
    command = [sys.executable, "-m", "redis_consumer", "serve-models", str(models), "--port", "0"]
    log = folder / "models.log"
    with running(command, os.environ, log) as process:
        yield spoken(log, r"listening on \S+:(\d+)", process)


def resting_mb(pid: int) -> float:
    """Return the resident memory of a worker that has loaded what it loads at its start."""
    before, now = 0.0, 0.0
    while now < 1 or now - before > 1:
        time.sleep(RESTING_SECONDS)
        before, now = now, resident_mb(pid)
    return now


def start(bench: Bench) -> dict[str, object]:
    """Measure from exec to the status `started` of a job that waits, and memory."""
    seconds = []
    for _ in range(STARTS):
        key = bench.push()
        began = time.perf_counter()
        with bench.worker():
            bench.wait(key, lambda status: status != "new")
            seconds.append(time.perf_counter() - began)
            bench.wait(key, lambda status: status in FINAL)
    with bench.worker() as pid:
        idle = resting_mb(pid)
        first, _ = bench.see_through()
        for _ in range(JOBS):
            bench.see_through()
        after, peak = resident_mb(pid), resident_mb(pid, "VmHWM")
    rows = [
        ("start to first claim, s: median", statistics.median(seconds), "< 1.0"),
        ("start to first claim, s: slowest", max(seconds), ""),
        ("resident memory idle, MB", idle, "< 150"),
        (f"resident memory after {JOBS + 1} jobs of 512 x 512, MB", after, ""),
        ("most resident memory, MB", peak, ""),
        ("first job of an idle worker, push to `done`, s", first, ""),
    ]
    tables.show(f"Start and memory ({STARTS} starts)", ("what", "measured", "goal"), rows)
    return {"start_s": round(statistics.median(seconds), 3), "rss_idle_mb": round(idle)}


def one_job(bench: Bench) -> dict[str, object]:
    """Measure a 512 x 512 job, its stages and its CPU time."""
    with bench.worker() as pid:
        resting_mb(pid)
        bench.see_through()
        before = cpu_seconds(pid)
        jobs = [bench.see_through() for _ in range(JOBS)]
        cpu = 1000 * (cpu_seconds(pid) - before) / JOBS
    stages = {
        field: 1000 * statistics.median(float(fields[field]) for _, fields in jobs) for field in TIME_FIELDS.values()
    }
    rows: list[tuple[object, ...]] = [(f"`{field}`", milliseconds) for field, milliseconds in stages.items()]
    rows += [
        ("the rest: claim, settle, our looking", 1000 * statistics.median(map(rest, jobs))),
        ("push to `done`", 1000 * statistics.median(seconds for seconds, _ in jobs)),
        ("CPU time of the worker", cpu),
    ]
    tables.show(f"One 512 x 512 job with the demo's model (medians of {JOBS})", ("what", "ms"), rows)
    return {}


def rest(job: tuple[float, dict[str, str]]) -> float:
    """Return the seconds of a job that belong to no stage."""
    seconds, fields = job
    return seconds - sum(float(fields[field]) for field in TIME_FIELDS.values())


def large(bench: Bench) -> dict[str, object]:
    """Measure the most memory of a worker that does one large job, for one role and for three."""
    plane = simulate((LARGE, LARGE), cells=Cells(count=5000), seed=3).image
    one = plane.size * 4 / 1e6
    rows = []
    for number, channels in STAINS.items():
        path = bench.folder / "large.ome.tif"
        tifffile.imwrite(path, np.stack([plane] * int(number)), ome=True, metadata={"axes": "CYX"}, compression="zlib")
        image = build_storage(Settings.from_environ(bench.environ)).deposit(path).key
        with bench.worker() as pid:
            idle = resting_mb(pid)
            seconds, _ = bench.see_through(image=image, channels=channels)
            most = resident_mb(pid, "VmHWM")
        rows.append((channels, idle, most, (most - idle) / one, seconds, "< 300" if number == "1" else "< 600"))
    head = ("`channels`", "idle, MB", "most, MB", "copies of a float32 plane", "push to `done`, s", "goal, MB")
    tables.show(f"Memory of a {LARGE} x {LARGE} segmentation job", head, rows)
    return {}


def commands(bench: Bench) -> dict[str, object]:
    """Count the commands that a worker sends for one job."""
    with bench.worker():
        bench.see_through()
        time.sleep(1.0)  # until the next claim waits: each job's next claim is counted with it
        with counted(bench, meaning) as counts:
            bench.see_through()
            time.sleep(1.0)
    besides = counts["progress"] + counts["heartbeat"]
    rows: list[tuple[object, ...]] = [(name, count, "") for name, count in counts.items()]
    needed = counts.total() - besides
    rows.append(("all but `progress` and heartbeats", needed, "<= 10"))
    tables.show("Redis commands that a worker sends for a segmentation job", ("what", "count", "goal"), rows)
    return {"redis_commands_per_job": needed}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder with NuclearSegmentation/1/model.onnx")
    options = tables.parse(parser)
    figures: dict[str, object] = {}
    with bench(options.models) as servers:
        for part in (start, one_job, large, commands):
            figures |= part(servers)
    tables.hand_over(figures, options.json)


if __name__ == "__main__":
    main()
