"""How jobs under a benchmark tell it what they do: by datagrams, the same for every queue, and unseen by Redis.

The clock is the machine's own, which all its processes share.
"""

from __future__ import annotations

import os
import socket
import time

VARIABLE = "BENCH_PORT"
"""Tells a worker where the benchmark listens."""
LONGEST_SECONDS = 60.0
_HOST = "127.0.0.1"
_BUFFER_BYTES = 8 * 2**20
_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def tell(event: str) -> None:
    """Tell the benchmark that a job has come to `event`, and when."""
    _socket.sendto(f"{event} {time.monotonic()}".encode(), (_HOST, int(os.environ[VARIABLE])))


class Ear:
    """The benchmark's end."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.bind((_HOST, 0))
        self.port = str(self._socket.getsockname()[1])

    def hear(self, event: str = "began", seconds: float = LONGEST_SECONDS) -> float:
        """Return when the next `event` was; TimeoutError if none comes for so long."""
        self._socket.settimeout(seconds)
        while True:
            word, _, moment = self._socket.recv(256).decode().partition(" ")
            if word == event:
                return float(moment)

    def hear_all(self, count: int, event: str = "began") -> list[float]:
        """Return when the next `count` events were."""
        return [self.hear(event) for _ in range(count)]

    def forget(self) -> None:
        """Drop what was told and not heard."""
        self._socket.setblocking(False)
        try:
            while True:
                self._socket.recv(256)
        except BlockingIOError:
            return
