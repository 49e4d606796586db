"""The pipeline against its bound: jobs per second end to end, for sizes, model servers, lanes and processes.

Valkey, an S3 server (s3.py), a model server that computes nothing (model_server.py) and the workers, each a process of
its own, share this machine's cores.  Jobs are pushed as the Kiosk's frontend does, so that the queue is never empty;
what is measured is the steady state.  No pipeline of these stages is faster than

    1 / max(batches per job x time of a batch, processor seconds of all stages per job / cores)

and efficiency is what was reached, over that.  Other programs on the machine take their part of the cores: what they
took is printed, and the efficiency on what they left.  Linux, for /proc.

``python benchmarks/pipeline.py`` needs five minutes, ``--full`` (every combination, run once) two hours.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import time
import zipfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import product, starmap
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import redis
import tables
import tifffile
from model_server import BATCHES, NUCLEI_IN_512
from rig import HERE, LONGEST_SECONDS, OURS, QUEUE, Bench, cpu_seconds, resident_mb, running, spoken, stage

from redis_consumer.bootstrap import build_storage
from redis_consumer.consumers.work import TIME_FIELDS
from redis_consumer.demo.simulation.nuclei import Cells, simulate
from redis_consumer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CORES = len(os.sched_getaffinity(0))
WORKER, OBSERVER = "worker", "observer"
SIZES, MILLISECONDS, LANES, PROCESSES = (512, 1024, 2048, 4096), (0, 20, 100, 500), (1, 2, 4, 8), (1, 2)
LOOK_SECONDS = 0.05
RUNS = 3
RUN_SECONDS, RUN_JOBS, RUN_ROUNDS = 4.0, 5, 3
"""How long a run is at least, in jobs too, and in jobs of each lane: lanes that share cores end their jobs together."""
SPARE_JOBS = 16
"""So many wait in the queue besides two for each lane."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table."""

    size: int
    milliseconds: int
    lanes: int
    processes: int


ONE_LANE, LARGE = Cell(512, 0, 1, 1), Cell(2048, 0, 1, 1)
TELLING = (
    ONE_LANE,
    Cell(512, 0, 4, 1),
    Cell(512, 0, 2, 2),
    Cell(512, 20, 4, 1),
    Cell(512, 100, 2, 1),
    Cell(512, 500, 4, 1),
    Cell(1024, 0, 4, 1),
    Cell(1024, 0, 2, 2),
    Cell(1024, 20, 2, 2),
    Cell(1024, 100, 2, 1),
    LARGE,
    Cell(2048, 0, 4, 1),
    Cell(2048, 20, 2, 2),
    Cell(2048, 100, 2, 1),
    Cell(4096, 20, 2, 2),
    Cell(4096, 100, 2, 1),
)
"""Each kind of bound, some ways to reach it, and what one lane costs."""
EVERY = tuple(starmap(Cell, product(SIZES, MILLISECONDS, LANES, PROCESSES)))


@dataclass(frozen=True, slots=True)
class Moment:
    """What has been used up to now."""

    at: float
    """Seconds of the wall's clock, which Redis reads too."""
    cpu: dict[str, float]
    """Seconds of a processor, by program."""
    machine: float
    """The same of everything on this machine, ourselves included."""
    batches: int


@dataclass(frozen=True, slots=True)
class Run:
    """One stretch of steady state."""

    jobs_per_s: float
    cpu: dict[str, float]
    """Seconds of a processor per job, by program."""
    batches: float
    """Per job."""
    others: float
    """Cores that others used meanwhile, and the kernel for nobody in particular."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of a cell: medians of its runs."""

    cell: Cell
    run: Run
    stages: dict[str, float]
    """Wall seconds of a job's stages."""
    peak_mb: float
    """The most memory of a worker process."""
    nuclei: int

    @property
    def cpu_s(self) -> float:
        """CPU seconds per job of all stages: everybody but who pushes and looks on."""
        return sum(seconds for name, seconds in self.run.cpu.items() if name != OBSERVER)

    @property
    def worker_cores(self) -> float:
        """How many cores the workers kept busy."""
        return self.run.cpu[WORKER] * self.run.jobs_per_s

    def bound(self, cores: float) -> float:
        """Return how many jobs per second are possible."""
        return 1 / max(self.run.batches * self.cell.milliseconds / 1000, self.cpu_s / cores)

    @property
    def efficiency(self) -> float:
        """What was reached of what is possible."""
        return self.run.jobs_per_s / self.bound(CORES)

    @property
    def efficiency_left(self) -> float:
        """The same of what is possible on the cores that others left."""
        return self.run.jobs_per_s / self.bound(CORES - self.run.others)

    def told(self) -> dict[str, object]:
        """Return all numbers, for bench.json."""
        return {
            "size": self.cell.size,
            "batch_ms": self.cell.milliseconds,
            "lanes": self.cell.lanes,
            "processes": self.cell.processes,
            "jobs_per_s": round(self.run.jobs_per_s, 2),
            "bound_jobs_per_s": round(self.bound(CORES), 2),
            "efficiency": round(self.efficiency, 3),
            "efficiency_of_cores_left": round(self.efficiency_left, 3),
            "cores_taken_by_others": round(self.run.others, 2),
            "worker_cores": round(self.worker_cores, 2),
            "batches_per_job": round(self.run.batches, 1),
            "cpu_ms_per_job": {name: round(1000 * seconds, 1) for name, seconds in self.run.cpu.items()},
            "wall_ms_per_job": {name: round(1000 * seconds, 1) for name, seconds in self.stages.items()},
            "rss_peak_mb": round(self.peak_mb),
        }


class Pipeline:
    """All programs of one cell, running."""

    def __init__(self, bench: Bench, model: grpc.Channel, pids: dict[str, list[int]], lanes: int) -> None:
        self._bench = bench
        self._batches = model.unary_unary(BATCHES, None, None)
        self._pids = {**pids, OBSERVER: [os.getpid()]}
        self._lanes = lanes
        self._keys: list[str] = []
        self._redis = redis.Redis(bench.server.host, bench.server.port, client_name=OURS, decode_responses=True)

    def warm_up(self) -> None:
        """Let every lane see some jobs through."""
        self._until(jobs=2 * self._lanes, seconds=1)

    def run(self) -> tuple[Run, list[dict[str, str]]]:
        """Measure a stretch; return it, and the fields of the jobs that ended in it."""
        before = self._now()
        self._until(jobs=max(RUN_JOBS, RUN_ROUNDS * self._lanes), seconds=RUN_SECONDS)
        after = self._now()
        ended = self._ended(before.at, after.at)
        seconds = after.at - before.at
        rate = pace([finished_at(fields) for fields in ended])
        ours = {name: after.cpu[name] - before.cpu[name] for name in after.cpu}
        others = (after.machine - before.machine - sum(ours.values())) / seconds
        cpu = {name: used / seconds / rate for name, used in ours.items()}
        return Run(rate, cpu, (after.batches - before.batches) / seconds / rate, max(others, 0)), ended

    def peak_mb(self) -> float:
        """Return the most memory that a worker ever had."""
        return max(resident_mb(pid, "VmHWM") for pid in self._pids[WORKER])

    def _until(self, *, jobs: int, seconds: float) -> None:
        """Keep the queue filled until so many jobs were taken from it, and so much time has passed."""
        began = time.monotonic()
        taken = self._taken()
        while self._taken() - taken < jobs or time.monotonic() - began < seconds:
            if time.monotonic() - began > jobs * LONGEST_SECONDS:
                raise TimeoutError(f"jobs are not taken: see {self._bench.folder / 'worker.log'}")
            time.sleep(LOOK_SECONDS)

    def _taken(self) -> int:
        """Fill the queue, and return how many jobs were taken from it so far."""
        waiting = int(self._redis.llen(QUEUE))
        missing = 2 * self._lanes + SPARE_JOBS - waiting
        self._keys += [self._bench.push() for _ in range(missing)]
        return len(self._keys) - waiting - max(missing, 0)

    def _now(self) -> Moment:
        cpu = {name: sum(map(cpu_seconds, pids)) for name, pids in self._pids.items()}
        return Moment(time.time(), cpu, machine_seconds(), int(self._batches(b"")))

    def _ended(self, since: float, until: float) -> list[dict[str, str]]:
        """Return the fields of the jobs that ended in between, by their ends; RuntimeError if one failed."""
        asked = self._redis.pipeline(transaction=False)
        for key in self._keys:
            asked.hgetall(key)
        ended = [fields for fields in asked.execute() if "finished_at" in fields]
        for fields in ended:
            if fields["status"] != "done":
                raise RuntimeError(f"a job is {fields['status']}: {fields.get('reason')}")
        return sorted((fields for fields in ended if since < finished_at(fields) <= until), key=finished_at)


def finished_at(fields: dict[str, str]) -> float:
    """Return when a job ended."""
    return datetime.fromisoformat(fields["finished_at"]).timestamp()


def pace(moments: list[float]) -> float:
    """Return how many there are in a second: the slope of their number over time, which no single one decides."""
    return float(np.polyfit(np.subtract(moments, moments[0]), np.arange(len(moments)), 1)[0])


def machine_seconds() -> float:
    """Return the seconds that this machine's processors have worked so far, or were not there for us."""
    user, nice, system, _, _, interrupts, soft, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(script: str, folder: Path, *words: str) -> Iterator[tuple[int, str]]:
    """Run one of our servers; give its process id and its port."""
    log = folder / f"{script}-{time.monotonic()}.log"
    with running([sys.executable, str(HERE / script), *words], os.environ, log) as process:
        yield process.pid, spoken(log, r"listening on \S+:(\d+)", process)


@contextmanager
def pipeline(bench: Bench, cell: Cell, s3: int) -> Iterator[Pipeline]:
    """Start the model server and the workers of a cell, warm."""
    with ExitStack() as stack:
        milliseconds = str(cell.milliseconds)
        model, port = stack.enter_context(server("model_server.py", bench.folder, "--milliseconds", milliseconds))
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
        variables = {"CONCURRENCY": str(cell.lanes), "TF_PORT": port, "GRPC_TIMEOUT": "120", "DRAIN_SECONDS": "0"}
        workers = [stack.enter_context(bench.worker(**variables)) for _ in range(cell.processes)]
        pids = {WORKER: workers, "model server": [model], "S3": [s3], "Redis": [bench.server.pid]}
        running = Pipeline(bench, channel, pids, cell.lanes * cell.processes)
        stack.callback(bench.client.delete, QUEUE)
        running.warm_up()
        yield running


def measured(bench: Bench, cell: Cell, s3: int, runs: int) -> Row:
    """Measure a cell."""
    with pipeline(bench, cell, s3) as running:
        stretches, ended = zip(*(running.run() for _ in range(runs)), strict=True)
        peak = running.peak_mb()
    jobs = [fields for fields_of_run in ended for fields in fields_of_run]
    nuclei = nuclei_in(bench, jobs[-1]["output_file_name"])
    expected = NUCLEI_IN_512 * (cell.size / 512) ** 2
    if not 0.5 * expected < nuclei < 1.5 * expected:
        raise RuntimeError(f"{nuclei} nuclei in {cell.size} x {cell.size} pixels, {expected:.0f} were expected")
    bench.client.flushall()
    stages = {field: statistics.median(float(fields[field]) for fields in jobs) for field in TIME_FIELDS.values()}
    return Row(cell, middle(stretches), stages, peak, nuclei)


def middle(runs: Sequence[Run]) -> Run:
    """Return the medians of several runs, each figure for itself."""
    return Run(
        jobs_per_s=statistics.median(run.jobs_per_s for run in runs),
        cpu={name: statistics.median(run.cpu[name] for run in runs) for name in runs[0].cpu},
        batches=statistics.median(run.batches for run in runs),
        others=statistics.median(run.others for run in runs),
    )


def nuclei_in(bench: Bench, key: str) -> int:
    """Return how many nuclei a result has."""
    path = Path(build_storage(Settings.from_environ(bench.environ)).download(key, bench.folder))
    with zipfile.ZipFile(path) as archive:
        (name,) = archive.namelist()
        return int(tifffile.imread(io.BytesIO(archive.read(name))).max())


@contextmanager
def bucket() -> Iterator[tuple[Bench, int]]:
    """Start Redis and the S3 server; give them, and the process id of the latter."""
    with stage() as bench, server("s3.py", bench.folder) as (pid, port):
        bench.environ.update(
            STORAGE_BUCKET="s3://bench",
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
            AWS_REGION="us-east-1",
            AWS_ACCESS_KEY_ID="any",
            AWS_SECRET_ACCESS_KEY="any",  # noqa: S106 - nobody checks it
            TF_HOST="127.0.0.1",
            NUCLEAR_MODEL="NuclearSegmentation:1",
        )
        yield bench, pid


def deposited(bench: Bench, size: int) -> str:
    """Put a simulated field into the bucket, and return its key."""
    path = bench.folder / f"{size}.tif"
    small = min(size, 2048)  # larger ones would take minutes to simulate
    field = simulate((small, small), cells=Cells(count=80 * (small // 512) ** 2), seed=3).image
    tifffile.imwrite(path, np.tile(field, (size // small, size // small)))
    return build_storage(Settings.from_environ(bench.environ)).deposit(path).key


def measure(cells: Sequence[Cell], runs: int = RUNS) -> list[Row]:
    """Measure cells one after the other, each so many times."""
    with bucket() as (bench, s3):
        images = {size: deposited(bench, size) for size in sorted({cell.size for cell in cells})}
        return [measured(replace(bench, image=images[cell.size]), cell, s3, runs) for cell in cells]


def show_efficiency(rows: Sequence[Row]) -> None:
    """Print what was reached of what is possible."""
    head = ("image", "ms a batch", "lanes", "processes", "batches a job", "jobs/s", "bound", "efficiency")
    more = ("of the cores left", "cores of the workers", "of other programs")
    told = [
        (
            *cell_of(row),
            row.run.batches,
            row.run.jobs_per_s,
            row.bound(CORES),
            row.efficiency,
            row.efficiency_left,
            row.worker_cores,
            row.run.others,
        )
        for row in rows
    ]
    tables.show("The pipeline against its bound (medians)", (*head, *more), told)


def show_grid(rows: Sequence[Row]) -> None:
    """Print the efficiency alone, the times of a batch beside each other."""
    times = sorted({row.cell.milliseconds for row in rows})
    found: dict[tuple[object, ...], dict[int, float]] = {}
    for row in rows:
        size, _, *hands = cell_of(row)
        found.setdefault((size, *hands), {})[row.cell.milliseconds] = row.efficiency
    told = [(*key, *(by_time.get(time, "") for time in times)) for key, by_time in found.items()]
    head = ("image", "lanes", "processes", *(f"{time} ms a batch" for time in times))
    tables.show("Efficiency of every combination", head, told)


def show_costs(rows: Sequence[Row]) -> None:
    """Print what a job costs each program, and how long its stages take."""
    programs = [name for name in rows[0].run.cpu if name != OBSERVER]
    stages = list(rows[0].stages)
    told = [
        (
            *cell_of(row),
            *(1000 * row.run.cpu[name] for name in programs),
            1000 * row.cpu_s,
            *(1000 * row.stages[name] for name in stages),
            row.peak_mb,
        )
        for row in rows
    ]
    cpu = [*(f"CPU ms, {name}" for name in programs), "together"]
    head = ("image", "ms a batch", "lanes", "processes", *cpu, *(f"`{name}`, ms" for name in stages), "most memory, MB")
    tables.show("What a job costs: processor time by program, and the clock's by stage", head, told)


def cell_of(row: Row) -> tuple[object, ...]:
    """Return the first columns of a row."""
    return f"{row.cell.size} x {row.cell.size}", row.cell.milliseconds, row.cell.lanes, row.cell.processes


def figures_of(rows: Sequence[Row]) -> dict[str, object]:
    """Return what stands in bench.json."""
    by_cell = {row.cell: row for row in rows}
    small = [row for row in rows if (row.cell.size, row.cell.milliseconds) == (ONE_LANE.size, 0)]
    fastest = max(small, key=lambda row: row.run.jobs_per_s)
    return {
        "efficiency": [row.told() for row in rows],
        "cpu_s_per_job_512": round(by_cell[ONE_LANE].run.cpu[WORKER], 4),
        "jobs_per_s_512": round(fastest.run.jobs_per_s, 1),
        "jobs_per_s_512_with": {"lanes": fastest.cell.lanes, "processes": fastest.cell.processes},
        "rss_peak_2048_mb": round(by_cell[LARGE].peak_mb),
    }


def main() -> None:
    """Print the tables."""
    options = tables.parse(argparse.ArgumentParser(description=__doc__))
    rows = measure(EVERY, runs=1) if options.full else measure(TELLING)
    show_efficiency(rows)
    show_costs(rows)
    if options.full:
        show_grid(rows)
    tables.hand_over(figures_of(rows), options.json)


if __name__ == "__main__":
    main()
