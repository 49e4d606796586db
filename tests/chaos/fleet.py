"""The workers: processes with the environment of a pod, each behind proxies of its own to all that it talks to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from tests.acceptance.bench import ROOT, text_of, wait_for
from tests.chaos.ledger import QUEUE
from tests.chaos.model_server import MODEL
from tests.chaos.proxy import Proxy

from redis_consumer.testing.servers import HOST

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from tests.acceptance.bench import Programs
    from tests.chaos.models import Models
    from tests.chaos.proxy import Loop
    from tests.chaos.servers import Site

    from redis_consumer.demo.stack import Child

LEASE_SECONDS = 2
LANES = (1, 2, 1, 3)
"""CONCURRENCY of each pod of the fleet."""
DRAIN_SECONDS = (0, 0.05, 2)
"""By turns: a worker that hands everything back at once, one that ends some jobs first, and one that ends them all."""
WORKING = "Takes image jobs"
"""What a worker says once it hears signals."""
EXIT_SECONDS = 20.0
BUSY_SECONDS = 2.0
DISK_BYTES = 1 << 20
OWN_DISK = f'mount -t tmpfs -o size={DISK_BYTES} tmpfs "$TMPDIR" && exec "$@"'
SCRIPT = str(ROOT / "consume-redis-events.py")


@dataclass(frozen=True)
class Pod:
    """One worker process and the proxies in front of what it needs."""

    name: str
    lanes: int
    child: Child
    redis: Proxy
    s3: Proxy
    models: Proxy
    disk: Path
    """Its folder for temporary files, as others see it."""

    @property
    def proxies(self) -> tuple[Proxy, Proxy, Proxy]:
        """All that it talks through."""
        return self.redis, self.s3, self.models

    def close(self) -> None:
        """Close its proxies."""
        for proxy in self.proxies:
            proxy.close()


class Fleet:
    """All workers of one site.  Two faults at a time are never both about workers, so none is hurt twice at once."""

    def __init__(self, name: str, programs: Programs, loop: Loop, site: Site, models: Models) -> None:
        self._name = name
        self._programs = programs
        self._loop = loop
        self._site = site
        self._models = models
        self._pods: list[Pod] = []
        self._lock = threading.Lock()
        self.unclean: list[str] = []
        """Drains that did not end as they should."""
        self.started = 0

    @cached_property
    def no_disks(self) -> str:
        """Why a worker cannot have a disk of its own here; empty if it can."""
        if not shutil.which("unshare"):
            return "there is no unshare"
        environ = {"TMPDIR": str(self._programs.folder / "tmp"), "PATH": os.environ["PATH"]}
        command = [*own_disk(), "true"]
        found = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=10)
        return found.stderr.strip() if found.returncode else ""

    def start(self, lanes: int, *, skew_seconds: float = 0.0) -> Pod:
        """Start a worker under a new name; with a wrong clock if asked to."""
        with self._lock:
            self.started += 1
            name = f"{self._name}-{self.started:04d}"
        to_redis = Proxy(self._loop, self._site.port)
        s3_port, model_port = int(self._programs.endpoint.rpartition(":")[2]), self._models.port
        s3, models = Proxy(self._loop, lambda: s3_port), Proxy(self._loop, lambda: model_port)
        tmp = self._programs.folder / "tmp" / name
        tmp.mkdir()
        clock = ["-m", "tests.chaos.skewed", str(skew_seconds)] if skew_seconds else []
        program = [sys.executable, *clock, SCRIPT]
        environ = {
            **self._programs.s3_environ(f"http://{HOST}:{s3.port}"),
            "HOSTNAME": name,
            "TMPDIR": str(tmp),
            "REDIS_HOST": HOST,
            "REDIS_PORT": str(to_redis.port),
            "REDIS_TIMEOUT": "1",
            "REDIS_WAIT_REPLICAS": str(self._site.replicas),
            "TF_HOST": HOST,
            "TF_PORT": str(models.port),
            "QUEUE": QUEUE,
            "CONSUMER_TYPE": "image",
            "NUCLEAR_MODEL": MODEL,
            "CONCURRENCY": str(lanes),
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "DRAIN_SECONDS": str(DRAIN_SECONDS[self.started % len(DRAIN_SECONDS)]),
            "STORAGE_MAX_BACKOFF": "1",
            "GRPC_BACKOFF": "1",
            "GRPC_TIMEOUT": "10",
        }
        child = self._programs.start(name, [*self._wrapper(), *program], environ, cwd=ROOT)
        disk = tmp if self.no_disks else Path(f"/proc/{child.process.pid}/root{tmp}")
        pod = Pod(name, lanes, child, to_redis, s3, models, disk)
        with self._lock:
            self._pods.append(pod)
        return pod

    def pods(self) -> list[Pod]:
        """Return the workers that are meant to run."""
        with self._lock:
            return list(self._pods)

    def choose(self, rng: Random, *, busy: bool = False) -> Pod:
        """Choose a worker; a `busy` one has a job in hand, if there is one soon."""
        deadline = time.monotonic() + BUSY_SECONDS
        while busy and time.monotonic() < deadline:
            if wanted := [pod for pod in self.pods() if pod.name in self._busy()]:
                return rng.choice(wanted)
            time.sleep(0.01)
        return rng.choice(self.pods())

    def replace(self, pod: Pod, *, skew_seconds: float = 0.0) -> Pod:
        """Start a successor, and end a worker in order once that one works; return the successor."""
        successor = self.start(pod.lanes, skew_seconds=skew_seconds)
        wait_for(successor.child, WORKING)
        self.drain(pod)
        return successor

    def drain(self, pod: Pod) -> None:
        """End a worker with SIGTERM and wait for it; more than that it does not get."""
        self._drop(pod)
        pod.child.process.terminate()
        try:
            code = pod.child.process.wait(EXIT_SECONDS)
            if code and not (code == -signal.SIGTERM and WORKING not in text_of(pod.child)):
                self.unclean.append(f"{pod.name} ended with exit code {code}")
        except subprocess.TimeoutExpired:
            self.unclean.append(f"{pod.name} did not end within {EXIT_SECONDS:g} s of SIGTERM")
            pod.child.process.kill()
        pod.close()

    def kill(self, pod: Pod) -> None:
        """End a worker with SIGKILL."""
        self._drop(pod)
        pod.child.process.kill()
        pod.child.process.wait(EXIT_SECONDS)
        pod.close()

    def replace_dead(self) -> list[str]:
        """Start a worker for each one that ended though nobody told it to; return their names."""
        dead = [pod for pod in self.pods() if pod.child.process.poll() is not None]
        for pod in dead:
            self._drop(pod)
            pod.close()
            self.start(pod.lanes)
        return [pod.name for pod in dead]

    def _drop(self, pod: Pod) -> None:
        with self._lock:
            self._pods.remove(pod)

    def _busy(self) -> set[str]:
        """Return the pods that hold an entry now; none if Redis does not say."""
        try:
            with self._site.connect() as asked:
                lists = asked.zrange("redis-consumer:lists", 0, -1)
                return {name.rpartition(":")[2] for name in lists if asked.llen(name)}
        except (redis.RedisError, OSError):
            return set()

    def _wrapper(self) -> Sequence[str]:
        return () if self.no_disks else own_disk()


def own_disk() -> list[str]:
    """Return the command that runs another with a small disk of its own as TMPDIR, without any special right."""
    return ["unshare", "-rm", "/bin/sh", "-c", OWN_DISK, "sh"]
