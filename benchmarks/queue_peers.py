"""Other queues beside ours, on the same Valkey and the same cores: Celery, Dramatiq, RQ and taskiq.

With a job that does nothing, with the image job (plain_jobs.py; ours is the `segmentation` consumer), and with a worker
that is killed in the middle of a job.  The bucket (s3.py) and the model server (model_server.py) answer at once.

``python benchmarks/queue_peers.py`` needs some twelve minutes, and the dependency group `bench`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tables
import tifffile
from pace import latency, rate
from plain_jobs import BUCKET, MODEL, NAP_VARIABLE, TF_VARIABLE
from rig import HERE, OURS, Bench, counted, family, own_mb, running, spoken, stage
from tell import VARIABLE, Ear

from redis_consumer.bootstrap import build_storage
from redis_consumer.demo.simulation.nuclei import Cells, simulate
from redis_consumer.queues.redis import RedisSubmitter
from redis_consumer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Figures = dict[str, Any]

BIN = Path(sys.executable).parent
PUSHES, IDLE_SECONDS = 200, 60.0
SETTLING_SECONDS = 3.0
"""After so long a worker that has nothing to do is idle."""
NAP_SECONDS, PATIENCE_SECONDS = 5.0, 200.0
"""How long a killed job would have taken, and how long it is waited for."""
FIRST_IMAGES = 0.25
"""So many of the image jobs are over before the measurement begins."""


@dataclass(frozen=True)
class Contender:
    """One queue, as its documentation recommends it."""

    name: str
    settings: str
    module: str = ""
    """What submits jobs, by its function `push`; ours without."""
    command: Sequence[str] = ()
    """Words in braces are variables of the environment."""
    variables: Mapping[str, str] = field(default_factory=dict)
    jobs: int = 2000
    images: int = 80


CELERY = (f"{BIN}/celery", "--app", "peer_celery", "worker", "--loglevel", "WARNING")
CONTENDERS = (
    Contender("this program", "2 processes of 2 lanes"),
    Contender("Celery", "defaults: 2 processes, prefetch 4, acknowledged before the job", "peer_celery", CELERY),
    Contender(
        "Celery, late",
        "`acks_late`, prefetch 1: its advice for long tasks",
        "peer_celery",
        CELERY,
        {"BENCH_ACKS_LATE": "1"},
    ),
    Contender(
        "Dramatiq",
        "defaults: 2 processes of 8 threads, prefetch 16",
        "peer_dramatiq",
        (f"{BIN}/dramatiq", "peer_dramatiq"),
    ),
    Contender(
        "RQ",
        "pool of 2 workers, a fork for each job, all imported before",
        "peer_rq",
        (f"{BIN}/rq", "worker-pool", "-n", "2", "-w", "peer_rq.Ready", "-q", "-u", "{BENCH_REDIS}/3"),
        jobs=200,
        images=32,
    ),
    Contender(
        "taskiq",
        "defaults: 2 processes, a pool of threads; RedisStreamBroker",
        "peer_taskiq",
        (f"{BIN}/taskiq", "worker", "peer_taskiq:broker", "--log-level", "WARNING"),
    ),
)


@dataclass(frozen=True)
class Stage:
    """The servers; the image is in the bucket."""

    bench: Bench

    @contextmanager
    def workers(self, one: Contender, ear: Ear, job: str) -> Iterator[list[int]]:
        """Run the workers of a contender, and give the first process of each; the job tells ours what to be."""
        environ = {**self.bench.environ, **one.variables, VARIABLE: ear.port}
        with ExitStack() as stack:
            if one.module:
                command = [word.format_map(environ) for word in one.command]
                log = self.bench.folder / f"{one.name}.log"
                process = stack.enter_context(running(command, environ, log))
                stack.callback(kill, [process.pid])  # asked, some need a minute, and leave children behind
                yield [process.pid]
            else:
                ours = {
                    "CONSUMER_TYPE": f"our_jobs:{job.title()}",
                    "CONCURRENCY": "2",
                    "QUEUE": job,
                    VARIABLE: ear.port,
                }
                yield [stack.enter_context(self.bench.worker(**ours)) for _ in range(2)]

    def pusher(self, one: Contender, job: str) -> Callable[[], object]:
        """Return what submits one job."""
        if one.module:
            push = importlib.import_module(one.module).push
            return partial(push, job, *([self.bench.image] if job == "segment" else []))
        ours = RedisSubmitter(self.bench.client, host=OURS)
        name = {"original_name": "field.tif", "input_file_name": self.bench.image}
        fields = {**name, "channels": "0,", "scale": "1", "dimension_order": "XYB"}
        return partial(ours.submit, job, "field.tif", fields)

    def addresses(self) -> set[str]:
        """Return everybody who is connected to Redis."""
        return {client["addr"] for client in self.bench.client.client_list()}


@contextmanager
def everything() -> Iterator[Stage]:
    """Start the servers, and put one image of 80 nuclei in the bucket."""
    with stage() as bench, ExitStack() as stack:
        ports = {}
        for name in ("s3", "model_server"):
            log = bench.folder / f"{name}.log"
            process = stack.enter_context(running([sys.executable, str(HERE / f"{name}.py")], os.environ, log))
            ports[name] = spoken(log, r"listening on \S+:(\d+)", process)
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        environ = {
            **bench.environ,
            "BENCH_REDIS": f"redis://{bench.server.host}:{bench.server.port}",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "STORAGE_BUCKET": f"s3://{BUCKET}",
            TF_VARIABLE: f"127.0.0.1:{ports['model_server']}",
            "TF_HOST": "127.0.0.1",
            "TF_PORT": ports["model_server"],
            "NUCLEAR_MODEL": f"{MODEL}:1",
            NAP_VARIABLE: str(NAP_SECONDS),
        }
        os.environ.update(environ)  # for those who submit from here
        path = bench.folder / "field.tif"
        tifffile.imwrite(path, simulate((512, 512), cells=Cells(count=80), seed=3).image)
        image = build_storage(Settings.from_environ(environ)).deposit(path).key
        yield Stage(replace(bench, environ=environ, image=image))


def empty_jobs(servers: Stage, contenders: Sequence[Contender]) -> Figures:
    """Measure jobs that do nothing: at full speed, then one at a time, then none at all."""
    figures = {one.name: empty_job(servers, one) for one in contenders}
    rows = [(one.name, one.settings, *figures[one.name].values()) for one in contenders]
    head = (
        "queue",
        "settings",
        "jobs/s",
        "CPU of the workers, ms per job",
        "CPU of Redis, ms per job",
        "push to start, ms: median",
        "p99",
        "commands per job",
        "idle commands/s",
        "memory, MB",
    )
    tables.show("Jobs that do nothing", head, rows)
    return figures


def empty_job(servers: Stage, one: Contender) -> dict[str, float]:
    """Measure one contender with the empty job."""
    bench, ear = servers.bench, Ear()
    push = servers.pusher(one, "nothing")
    for _ in range(one.jobs):
        push()
    pushing = servers.addresses()
    with servers.workers(one, ear, "nothing") as pids:
        fast = rate(ear, pids, bench.server.pid, one.jobs)
        time.sleep(SETTLING_SECONDS)
        soon = latency(ear, push, PUSHES)
        time.sleep(SETTLING_SECONDS)
        with counted(bench, one_word, pushing) as of_jobs:
            latency(ear, push, PUSHES)
        time.sleep(SETTLING_SECONDS)
        with counted(bench, one_word, pushing) as of_idleness:
            time.sleep(IDLE_SECONDS)
        memory = sum(own_mb(member) for pid in pids for member in family(pid))
    each = {"commands_per_job": of_jobs.total() / PUSHES, "idle_commands_per_s": of_idleness.total() / IDLE_SECONDS}
    return asdict(fast) | asdict(soon) | each | {"memory_mb": memory}


def one_word(_: object) -> str:
    """Count all commands together."""
    return ""


def image_jobs(servers: Stage, contenders: Sequence[Contender]) -> Figures:
    """Measure the image job at full speed."""
    figures: Figures = {}
    for one in contenders:
        ear, push = Ear(), servers.pusher(one, "segment")
        for _ in range(one.images):
            push()
        with servers.workers(one, ear, "segment") as pids:
            warm = round(FIRST_IMAGES * one.images)
            fast = rate(ear, pids, servers.bench.server.pid, one.images, warm=warm, event="ended")
        figures[one.name] = {"jobs_per_s": fast.jobs_per_s, "cpu_s_per_job": fast.cpu_ms_per_job / 1000}
    rows = [(name, *found.values()) for name, found in figures.items()]
    tables.show("Image jobs, 512 x 512", ("queue", "jobs/s", "CPU s per job"), rows)
    return figures


def deaths(servers: Stage, contenders: Sequence[Contender]) -> Figures:
    """Kill every worker in the middle of a job, and wait for the job to begin again on another one."""
    ears = {one.name: Ear() for one in contenders}
    with ExitStack() as stack:
        killed = {}
        for one in contenders:
            killed[one.name] = death(servers, one, ears[one.name])
            stack.enter_context(servers.workers(one, ears[one.name], "nap"))
        deadline = time.monotonic() + PATIENCE_SECONDS
        figures = {name: again(ear, deadline) - killed[name] for name, ear in ears.items()}
    rows = [(name, f"{seconds:.0f}" if seconds < inf else "not seen") for name, seconds in figures.items()]
    head = ("queue", "killed to begun again, s")
    tables.show(f"Worker killed in the middle of a job (watched for {PATIENCE_SECONDS:.0f} s)", head, rows)
    return {name: seconds if seconds < inf else None for name, seconds in figures.items()}


def death(servers: Stage, one: Contender, ear: Ear) -> float:
    """Kill the worker of a contender, all its processes at once, while it does a job; return when."""
    with servers.workers(one, ear, "nap") as pids:
        time.sleep(SETTLING_SECONDS)
        servers.pusher(one, "nap")()
        ear.hear()
        kill(pids)
        return time.monotonic()


def kill(pids: Sequence[int]) -> None:
    """Kill processes and all that descend from them."""
    for member in [member for pid in pids for member in family(pid)]:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def again(ear: Ear, deadline: float) -> float:
    """Return when a job began again; infinity if it does not."""
    try:
        return ear.hear(seconds=max(0.001, deadline - time.monotonic()))
    except TimeoutError:
        return inf


PARTS = {part.__name__: part for part in (empty_jobs, image_jobs, deaths)}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--only", default="", help="the contenders whose name begins so")
    parser.add_argument("--part", choices=PARTS, help="this part only")
    options = parser.parse_args()
    parts = [options.part] if options.part else list(PARTS)
    contenders = [one for one in CONTENDERS if one.name.startswith(options.only)]
    with everything() as servers:
        figures = {part: PARTS[part](servers, contenders) for part in parts}
    if options.json:
        options.json.write_text(json.dumps({"queue_peers": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
