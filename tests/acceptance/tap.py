"""Every command that a Redis server executes, as MONITOR tells it."""

from __future__ import annotations

import re
import socket
import threading
from typing import NamedTuple

LINE = re.compile(rb"\+\d+\.\d+ \[\d+ (\S+?)\] (.*)")
WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|(.))")
LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}


class Command(NamedTuple):
    """One command, as the server got it."""

    client: str
    """Address of the client; ``lua`` for a command of a script."""
    words: tuple[str, ...]


class Tap:
    """Listens from its construction to `close`."""

    def __init__(self, host: str, port: int) -> None:
        self.commands: list[Command] = []
        self._socket = socket.create_connection((host, port), timeout=10)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(b"MONITOR\r\n")
        assert self._file.readline() == b"+OK\r\n"
        self._socket.settimeout(None)
        self._thread = threading.Thread(target=self._listen, name="tap", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._file.close()
        self._socket.close()

    def saw(self, *words: str) -> bool:
        """Return whether this command was executed."""
        return any(command.words == words for command in reversed(self.commands))

    def _listen(self) -> None:
        try:
            for line in self._file:
                if command := parsed(line):
                    self.commands.append(command)
        except OSError:
            pass  # the server is gone


def parsed(line: bytes) -> Command | None:
    """Read one line of MONITOR."""
    found = LINE.match(line)
    if not found:
        return None
    words = [unescaped(word).decode(errors="replace") for word in WORD.findall(found[2])]
    return Command(found[1].decode(), (words[0].lower(), *words[1:]))


def unescaped(word: bytes) -> bytes:
    """Undo the escapes of Redis's `sdscatrepr`."""

    def plain(match: re.Match[bytes]) -> bytes:
        return bytes.fromhex(match[1].decode()) if match[1] else LETTERS.get(match[2], match[2])

    return ESCAPE.sub(plain, word)
