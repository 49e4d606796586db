"""The model server as something to be hurt: its process and its moods."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

from tests.acceptance.bench import ROOT, wait_until

from redis_consumer.testing.servers import HOST, free_port

if TYPE_CHECKING:
    from tests.acceptance.bench import Programs


class Models:
    """A running model server at `port`."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self.port, self._control_port = free_port(), free_port()
        self.start()

    def start(self, mood: str = "ok") -> None:
        """Start it, and let it be in this mood."""
        command = [sys.executable, "-m", "tests.chaos.model_server", str(self.port), str(self._control_port)]
        # It stands on Python's path as the tests do.
        self._child = self._programs.start("models", command, {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}, cwd=ROOT)
        wait_until(lambda: self._said(mood), "the model server", self._child)

    def kill(self) -> None:
        """End it at once."""
        self._child.process.kill()
        self._child.process.wait()

    def be(self, mood: str) -> None:
        """Set how it answers from now on."""
        wait_until(lambda: self._said(mood), f"the model server to be {mood}", self._child)

    def _said(self, mood: str) -> bool:
        try:
            with socket.create_connection((HOST, self._control_port), timeout=1) as control:
                control.sendall(f"{mood}\n".encode())
                return bool(control.makefile("rb").readline())
        except OSError:
            return False
