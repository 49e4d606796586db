"""What benchmarks of the worker share: its servers, looking on from outside, and counting Redis commands.

Everything runs as processes of their own, on this machine's cores.  Linux, for /proc.
"""

from __future__ import annotations

import hashlib
import os
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
from typing import TYPE_CHECKING, Any

import redis

from redis_consumer.demo.stack import neutral_environ
from redis_consumer.job import FINAL
from redis_consumer.queues import lua
from redis_consumer.queues.redis import RedisSubmitter
from redis_consumer.redis import RedisClient
from redis_consumer.testing.servers import start_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from redis_consumer.testing.servers import Server

QUEUE = "segmentation"
HERE = Path(__file__).parent
LONGEST_SECONDS = 60.0
LOOK_SECONDS = 0.0005
OURS = "benchmark"
"""Name of our own connections: their commands are not counted."""


@dataclass(frozen=True)
class Bench:
    """Redis, a folder as the bucket, and the environment of workers; `image` is one in the bucket, if any is."""

    server: Server
    client: RedisClient
    environ: dict[str, str]
    folder: Path
    image: str = ""

    @contextmanager
    def worker(self, **variables: str) -> Iterator[int]:
        """Run a worker, and give its process id as soon as there is one."""
        command = [sys.executable, "-m", "redis_consumer", "run"]
        with running(command, {**self.environ, **variables}, self.folder / "worker.log") as process:
            yield process.pid

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
def stage() -> Iterator[Bench]:
    """Start what a worker needs but the model server, and end it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="redis-consumer-bench-")))
        server = stack.enter_context(start_redis(folder / "redis"))
        (folder / "bucket").mkdir()
        environ = {
            **neutral_environ(),
            "REDIS_HOST": server.host,
            "REDIS_PORT": str(server.port),
            "STORAGE_BUCKET": (folder / "bucket").as_uri(),
            "QUEUE": QUEUE,
            "CONSUMER_TYPE": "segmentation",
            "HOSTNAME": "pod",
        }
        client = RedisClient(server.host, server.port, client_name=OURS)
        yield Bench(server, client, environ, folder)


@contextmanager
def running(command: Sequence[str], environ: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that can import the benchmarks; asked to end at the end of the block, killed if it does not."""
    with log.open("ab") as out:
        process = subprocess.Popen(command, env={**environ, "PYTHONPATH": str(HERE)}, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(LONGEST_SECONDS)


def spoken(log: Path, pattern: str, process: subprocess.Popen[bytes]) -> str:
    """Wait until a program prints what `pattern` matches, and return its first group."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while not (found := re.search(pattern, log.read_text())):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} does not start: {log.read_text()[-500:]}")
        time.sleep(0.05)
    return found[1]


def resident_mb(pid: int, name: str = "VmRSS") -> float:
    """Return the resident memory of a process, in MB (10^6 bytes); `VmHWM` is the most it ever was."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else float("nan")


def own_mb(pid: int) -> float:
    """Return the memory of a process in MB, what it shares with others divided by their number."""
    found = re.search(r"Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text())
    return int(found[1]) * 1024 / 1e6 if found else float("nan")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, user and system, all threads, and its ended children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that `percent` of the values do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


@contextmanager
def counted(
    bench: Bench, key: Callable[[dict[str, Any]], str], besides: Collection[str] = ()
) -> Iterator[Counter[str]]:
    """Count what others than we send while the block runs, by `key` of what MONITOR tells about each command.

    What scripts do inside is not counted, nor what comes from the addresses `besides`.
    """
    counts: Counter[str] = Counter()
    watcher = redis.Redis(bench.server.host, bench.server.port, client_name=OURS, decode_responses=True)
    with watcher, watcher.monitor() as monitor:  # type: ignore[no-untyped-call]  # redis-py leaves it so
        yield counts
        ours = {client["addr"] for client in bench.client.client_list() if client["name"] == OURS}
        bench.client.echo("the end")
        for sent in monitor.listen():
            if sent["command"] == "ECHO the end":
                return
            address = f"{sent['client_address']}:{sent['client_port']}"
            if sent["client_type"] != "lua" and address not in ours and address not in besides:
                counts[key(sent)] += 1


def meaning(sent: dict[str, Any]) -> str:
    """Return the name of the script that a command runs, or the command's own."""
    command: str = sent["command"]
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
