"""The worker as a process: start, memory, latency, what a job costs and where its time goes, Redis commands.

Real Valkey, a folder as the bucket, the embedded model server and the worker, each a process of its own, all on this
machine's cores.  Everything is measured from outside.  Linux, for /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import redis
import tables
import tifffile

from redis_consumer.bootstrap import build_storage
from redis_consumer.consumers import Consumer
from redis_consumer.consumers.work import TIME_FIELDS
from redis_consumer.demo.simulator import Cells, simulate
from redis_consumer.demo.stack import MODELS, neutral_environ
from redis_consumer.job import FINAL
from redis_consumer.queues import lua
from redis_consumer.queues.redis import RedisSubmitter
from redis_consumer.redis import RedisClient
from redis_consumer.settings import Settings
from redis_consumer.testing.servers import start_redis
from redis_consumer.worker import CLAIM_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_consumer.testing.servers import Server

QUEUE = "segmentation"
STARTS, PUSHES, JOBS = 7, 200, 20
RESTING_SECONDS = 2.0
"""A worker whose memory has not grown for so long has loaded everything."""
LONGEST_SECONDS = 60.0
LOOK_SECONDS = 0.0005
LARGE = 2048
STAINS = {"1": "0,", "3": "0,1,2"}
"""Channels of the large images, and the roles that their jobs name."""
OURS = "benchmark"
"""Name of our own connections: their commands are not counted."""


class Nothing(Consumer):
    """What an empty job costs."""

    def _consume(self, redis_hash: str) -> str:  # noqa: ARG002 - the contract's parameter
        return self.final_status


@dataclass(frozen=True)
class Bench:
    """The servers, and one 512 x 512 image in the bucket."""

    server: Server
    client: RedisClient
    environ: dict[str, str]
    image: str
    folder: Path

    @contextmanager
    def worker(self, **variables: str) -> Iterator[int]:
        """Run a worker, and give its process id as soon as there is one."""
        command = [sys.executable, "-m", "redis_consumer", "run"]
        environ = {**self.environ, **variables, "PYTHONPATH": str(Path(__file__).parent)}
        with (self.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        try:
            yield process.pid
        finally:
            process.terminate()
            process.wait(LONGEST_SECONDS)

    def push(self, queue: str = QUEUE, image: str = "", channels: str = "0,") -> str:
        """Push a job as the Kiosk's frontend does, and return its key."""
        name = {"original_name": "field.tif", "input_file_name": image or self.image}
        fields = {**name, "channels": channels, "scale": "1", "dimension_order": "XYB"}
        return RedisSubmitter(self.client, host=OURS).submit(queue, "field.tif", fields)

    def wait(self, key: str, reached: Callable[[str], bool]) -> str:
        """Look at a job's status until it is as wanted."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while not reached(status := self.client.hget(key, "status")):
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {key} is {status!r}: see {self.folder / 'worker.log'}")
            time.sleep(LOOK_SECONDS)
        return str(status)

    def see_through(self, queue: str = QUEUE, image: str = "", channels: str = "0,") -> tuple[float, dict[str, str]]:
        """Push a job and wait for its end; return the seconds and its fields."""
        began = time.perf_counter()
        key = self.push(queue, image, channels)
        status = self.wait(key, lambda status: status in FINAL)
        seconds, fields = time.perf_counter() - began, dict(self.client.hgetall(key))
        if status != "done":
            raise RuntimeError(f"the job is {status}: {fields.get('reason')}")
        return seconds, fields


@contextmanager
def bench(models: Path) -> Iterator[Bench]:
    """Start what a worker needs, and end it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="redis-consumer-bench-")))
        server = stack.enter_context(start_redis(folder / "redis"))
        port = stack.enter_context(model_server(models, folder))
        (folder / "bucket").mkdir()
        environ = {
            **neutral_environ(),
            "REDIS_HOST": server.host,
            "REDIS_PORT": str(server.port),
            "TF_HOST": "127.0.0.1",
            "TF_PORT": port,
            "STORAGE_BUCKET": (folder / "bucket").as_uri(),
            "QUEUE": QUEUE,
            "CONSUMER_TYPE": "segmentation",
            **dict.fromkeys(("NUCLEAR_MODEL", "CYTOPLASM_MODEL", "PHASE_MODEL"), "NuclearSegmentation:1"),
            "HOSTNAME": "pod",
        }
        tifffile.imwrite(folder / "field.tif", simulate((512, 512), cells=Cells(count=80), seed=3).image)
        image = build_storage(Settings.from_environ(environ)).deposit(folder / "field.tif").key
        client = RedisClient(server.host, server.port, client_name=OURS)
        yield Bench(server, client, environ, image, folder)


@contextmanager
def model_server(models: Path, folder: Path) -> Iterator[str]:
    """Serve `models` in a process of its own, and give the port."""
    command = [sys.executable, "-m", "redis_consumer", "serve-models", str(models), "--port", "0"]
    log = folder / "models.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + LONGEST_SECONDS
        while not (found := re.search(r"listening on \S+:(\d+)", log.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the model server does not start: {log.read_text()[-500:]}")
            time.sleep(0.05)
        yield found[1]
    finally:
        process.terminate()
        process.wait(LONGEST_SECONDS)


def resident_mb(pid: int, name: str = "VmRSS") -> float:
    """Return the resident memory of a process, in MB (10^6 bytes); `VmHWM` is the most it ever was."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else float("nan")


def resting_mb(pid: int) -> float:
    """Return the resident memory of a worker that has loaded what it loads at its start."""
    before, now = 0.0, 0.0
    while now < 1 or now - before > 1:
        time.sleep(RESTING_SECONDS)
        before, now = now, resident_mb(pid)
    return now


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, user and system, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values: list[float], percent: int) -> float:
    """Return the value that `percent` of the values do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def start(bench: Bench) -> None:
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
        ("start to first claim, s: median", statistics.median(seconds), "< 1.5"),
        ("start to first claim, s: slowest", max(seconds), ""),
        ("resident memory idle, MB", idle, "< 150"),
        (f"resident memory after {JOBS + 1} jobs of 512 x 512, MB", after, ""),
        ("most resident memory, MB", peak, ""),
        ("first job of an idle worker, push to `done`, s", first, ""),
    ]
    tables.show(f"Start and memory ({STARTS} starts)", ("what", "measured", "goal"), rows)


def latency(bench: Bench) -> None:
    """Measure from push to `started`, one push at a time, on a worker that waits."""
    started, done = [], []
    with bench.worker(CONSUMER_TYPE="worker:Nothing", QUEUE="nothing"):
        bench.see_through("nothing")
        for _ in range(PUSHES):
            time.sleep(random.uniform(0.01, 0.05))
            began = time.perf_counter()
            key = bench.push("nothing")
            bench.wait(key, lambda status: status != "new")
            started.append(1000 * (time.perf_counter() - began))
            bench.wait(key, lambda status: status in FINAL)
            done.append(1000 * (time.perf_counter() - began))
    rows = [
        ("push to `started`, ms", statistics.median(started), percentile(started, 99), "median < 10"),
        ("push to `done` of an empty job, ms", statistics.median(done), percentile(done, 99), ""),
    ]
    tables.show(f"Latency ({PUSHES} pushes)", ("what", "median", "p99", "goal"), rows)


def one_job(bench: Bench) -> None:
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


def rest(job: tuple[float, dict[str, str]]) -> float:
    """Return the seconds of a job that belong to no stage."""
    seconds, fields = job
    return seconds - sum(float(fields[field]) for field in TIME_FIELDS.values())


def large(bench: Bench) -> None:
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
        rows.append((channels, idle, most, (most - idle) / one, seconds, "< 600"))
    head = ("`channels`", "idle, MB", "most, MB", "copies of a float32 plane", "push to `done`, s", "goal, MB")
    tables.show(f"Memory of a {LARGE} x {LARGE} segmentation job", head, rows)


def commands(bench: Bench) -> None:
    """Count the commands that a worker sends for one job, and while it is idle."""
    lanes = 4
    with bench.worker():
        bench.see_through()
        time.sleep(1.0)  # until the next claim waits: each job's next claim is counted with it
        with counted(bench) as of_job:
            bench.see_through()
            time.sleep(1.0)
    idle_seconds = 2 * CLAIM_SECONDS
    with bench.worker(CONCURRENCY=str(lanes)):
        time.sleep(1.5 * CLAIM_SECONDS)  # every lane has opened its connections, and is amid a claim
        with counted(bench) as of_idleness:
            time.sleep(idle_seconds)
    rows: list[tuple[object, ...]] = [(f"segmentation job: {name}", count, "") for name, count in of_job.items()]
    besides = of_job["progress"] + of_job["heartbeat"]
    rows.append(("segmentation job, all but `progress` and heartbeats", of_job.total() - besides, "<= 10"))
    sweeps = of_idleness.pop("sweep", 0)
    rows.append(("idle, each lane, per second", of_idleness.total() / lanes / idle_seconds, "<= 0.1"))
    rows.append(("idle, sweeps of the process, per second", sweeps / idle_seconds, ""))
    tables.show("Redis commands sent by a worker", ("what", "count", "goal"), rows)


@contextmanager
def counted(bench: Bench) -> Iterator[Counter[str]]:
    """Count what workers send while the block runs; scripts by their names, what they do inside not at all."""
    counts: Counter[str] = Counter()
    watcher = redis.Redis(bench.server.host, bench.server.port, client_name=OURS, decode_responses=True)
    with watcher, watcher.monitor() as monitor:  # type: ignore[no-untyped-call]  # redis-py leaves it so
        yield counts
        clients = bench.client.client_list()
        bench.client.echo("the end")
        theirs = {client["addr"] for client in clients if client["name"] != OURS}
        for sent in monitor.listen():
            if sent["command"] == "ECHO the end":
                return
            if f"{sent['client_address']}:{sent['client_port']}" in theirs:
                counts[meaning(sent["command"])] += 1


def meaning(command: str) -> str:
    """Return the name of the script that a command runs, or the command's own."""
    verb, *words = command.split(" ")
    if verb != "EVALSHA":
        return verb
    name = script_names()[words[0]]
    return "progress" if name == "update" and " progress " in command and " status " not in command else name


def script_names() -> dict[str, str]:
    """Return the queue's scripts by their hash."""
    scripts = Path(lua.__file__).with_name("scripts")
    names = [path.stem for path in scripts.glob("*.lua") if path.stem != "prelude"]
    return {hashlib.sha1(lua._text(name).encode()).hexdigest(): name for name in names}  # noqa: S324, SLF001 - as Redis names them


def main() -> None:
    """Print the tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--models", type=Path, default=MODELS, help="folder with NuclearSegmentation/1/model.onnx")
    with bench(options.parse_args().models) as servers:
        for part in (start, latency, one_job, large, commands):
            part(servers)


if __name__ == "__main__":
    main()
