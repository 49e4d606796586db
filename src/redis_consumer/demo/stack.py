"""The processes of the demonstration: Redis, model server and workers, and a folder as their bucket.

All of them are gone when we are gone, however we went.  Knows no images.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from redis_consumer.errors import ConsumerError
from redis_consumer.settings import Settings
from redis_consumer.settings.declare import declarations
from redis_consumer.testing.servers import start_redis

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from redis_consumer.demo.kinds.base import Worker
    from redis_consumer.demo.signals import Signals

MODELS = Path(__file__).with_name("models")
START_SECONDS = 60.0
"""Until the model server listens: it reads its libraries from a disk that may be cold."""
STOP_SECONDS = 5.0
LOOK_SECONDS = 0.05
LAST_LINES = 8
"""So much of a log is shown of a process that died."""

KEEPER = """
while read -r word pid; do
    case $word in
        watch) pids="$pids $pid" ;;
        over) exit 0 ;;
    esac
done
[ -n "$pids" ] && kill -9 $pids
rm -rf "$1"
"""
"""Reads from us.  When that ends without "over", we are dead, and it clears up behind us.

A shell, and not prctl's parent death signal: that one belongs to a thread, must be set between fork and exec, and
is Linux's alone.
"""


class Keeper:
    """A process that outlives our violent death just long enough to end our children and remove our folder."""

    def __init__(self, folder: Path) -> None:
        command = ["/bin/sh", "-c", KEEPER, "keeper", str(folder)]
        self._process = subprocess.Popen(  # noqa: S603 - a constant and our own folder
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def watch(self, pid: int) -> None:
        """End this process too."""
        self._say(f"watch {pid}\n")

    def release(self) -> None:
        """Everything is cleared up already."""
        self._say("over\n")
        with suppress(OSError):
            self._process.communicate(timeout=STOP_SECONDS)

    def _say(self, words: str) -> None:
        with suppress(OSError):  # somebody killed it; then we live on without
            if self._process.stdin:
                self._process.stdin.write(words.encode())
                self._process.stdin.flush()


@dataclass(frozen=True)
class Child:
    """One process of ours, and where it writes."""

    name: str
    """As in a sentence: "the worker"."""
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """End it: asked first, then killed."""
        self.process.send_signal(signal.SIGCONT)  # a stopped process hears nothing else
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_SECONDS)

    def last_lines(self) -> list[str]:
        """Return the end of its log."""
        with suppress(OSError):
            return [line for line in self.log.read_text(errors="replace").splitlines() if line][-LAST_LINES:]
        return []


class ProcessDied(ConsumerError):
    """A process of the demonstration ended by itself, or never came up."""

    def __init__(self, child: Child, what: str) -> None:
        super().__init__(f"{child.name[0].upper()}{child.name[1:]} {what}")
        self.log = child.last_lines()
        """The last lines that it wrote."""


class Stack:
    """Redis, model server and workers on free ports of the loopback, alive inside the `with` block.

    `settings` are those of every worker, `queue` is where jobs will be submitted.  `logs` is a folder to leave the logs
    in; without one they go when everything goes.
    """

    def __init__(
        self,
        signals: Signals,
        workers: Sequence[Worker],
        settings: Mapping[str, str],
        queue: str,
        *,
        models: Path = MODELS,
        logs: Path | None = None,
    ) -> None:
        self._signals = signals
        self._workers = workers
        self._settings = {**settings, "QUEUE": queue}
        self._models = models
        self._logs = logs
        self._cleanup = ExitStack()
        self._children: list[Child] = []
        self.folder = Path()
        """A folder of ours, removed at the end."""
        self.logs = Path()
        """Where the processes write."""
        self.environ: dict[str, str] = {}
        """What the running workers have in common, as variables."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def check(self) -> None:
        """Raise ProcessDied if something does not run any more."""
        for child in self._children:
            if (code := child.process.poll()) is not None:
                raise ProcessDied(child, f"ended unexpectedly ({ending(code)})")

    def _start(self) -> None:
        with self._signals.held():
            self.folder = Path(tempfile.mkdtemp(prefix="redis-consumer-demo-"))
            self._cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._keeper = Keeper(self.folder)
            self._cleanup.callback(self._keeper.release)
        for name in ("bucket", "tmp"):
            (self.folder / name).mkdir()
        self.logs = self._logs or self.folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        address = {**self._start_redis(), **self._start_model_server(self.logs / "model-server.log")}
        self.environ = {**settings_of(self.folder / "bucket", address), **self._settings}
        for worker in self._workers:
            kind = worker.consumer_type
            name, log = (
                ("the worker", "worker.log")
                if len(self._workers) == 1
                else (f"the worker for {kind!r}", f"worker-{kind}.log")
            )
            variables = {**self.environ, "QUEUE": worker.queue, "CONSUMER_TYPE": kind}
            self._start_process(name, ["run"], self.logs / log, variables)

    def _start_redis(self) -> dict[str, str]:
        with self._signals.held():
            try:
                server = start_redis(self.logs)
            except RuntimeError as error:
                raise ConsumerError(str(error)) from error
            self._cleanup.callback(server.stop)
        self._children.append(Child("Redis", server.process, server.log))
        return {"REDIS_HOST": server.host, "REDIS_PORT": str(server.port)}

    def _start_model_server(self, log: Path) -> dict[str, str]:
        words = ["serve-models", str(self._models), "--port", "0"]
        child = self._start_process("the model server", words, log, {})
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(r"listening on (\S+):(\d+)\s", log.read_text(errors="replace"))):
            self.check()
            if time.monotonic() > deadline:
                raise ProcessDied(child, f"does not listen after {START_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)
        return {"TF_HOST": found[1], "TF_PORT": found[2]}

    def _start_process(self, name: str, words: list[str], log: Path, variables: Mapping[str, str]) -> Child:
        # -P: a numpy.py in the folder where the demo is started is none of our business.
        command = [sys.executable, "-P", "-m", "redis_consumer", *words]
        environ = {**neutral_environ(), **variables, "TMPDIR": str(self.folder / "tmp"), "PYTHONUNBUFFERED": "1"}
        with self._signals.held(), log.open("wb") as out:
            process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environ, start_new_session=True
            )
            self._keeper.watch(process.pid)
            child = Child(name, process, log)
            self._cleanup.callback(child.stop)
        self._children.append(child)
        return child

    def _stop(self) -> None:
        """End everything, the worker first, while the others still answer it."""
        with self._signals.held():
            self._cleanup.close()


def settings_of(bucket: Path, address: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of all workers, whatever they do, as variables."""
    return {
        **address,
        "STORAGE_BUCKET": bucket.as_uri(),
        "CONCURRENCY": "2",
        "HOSTNAME": "demo",
        # Cameras give more than the Kiosk's 2048 pixels.
        "MAX_IMAGE_HEIGHT": "8192",
        "MAX_IMAGE_WIDTH": "8192",
        # A Redis on this machine that does not answer at once is dead.
        "REDIS_TIMEOUT": "0",
        # A laptop's processor is no GPU.
        "GRPC_TIMEOUT": "120",
        "MODEL_WAIT": "60",
        # Nobody waits for jobs that nobody will read.
        "DRAIN_SECONDS": "1",
    }


def neutral_environ() -> dict[str, str]:
    """Return our environment without any setting of the program: a production `REDIS_PASSWORD` has no place here."""
    declared = declarations(Settings)
    ours = {name.upper() for name in declared} | {alias for one in declared.values() for alias in one.aliases}
    return {name: value for name, value in os.environ.items() if name not in ours}


def ending(code: int) -> str:
    """Return how a process ended, in words."""
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
