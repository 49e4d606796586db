"""Reads the append-only files of a Redis or Valkey: what was written, in order, each script as one step.

Takes no part in what the commands mean.  The files are as ``appendonly yes``, ``aof-use-rdb-preamble no`` and
``aof-timestamp-enabled yes`` leave them: a manifest, a base and increments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

TIMESTAMP = re.compile(rb"#TS:(\d+)\r?$")
FILE = re.compile(r"file (\S+) seq \d+ type ([bi])")


@dataclass(frozen=True)
class Command:
    """One command, its name in upper case, and when the file says that it came: whole seconds since the epoch."""

    at: float
    words: tuple[str, ...]


Step = list[Command]
"""Commands that ran as one: a script's, a transaction's, or a single one."""


class Log(NamedTuple):
    """The files of one ``appenddirname``."""

    base: list[Step]
    """Makes the state that the log begins with; these are no deeds."""
    steps: list[Step]
    """What was written since, the oldest first."""


def read(folder: Path) -> Log:
    """Return what the files of a server say."""
    base, increments = files(folder)
    return Log(_steps_of(base), _steps_of(increments))


def files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the base and the increments that the manifest names, in the order in which they are loaded."""
    (manifest,) = folder.glob("*.manifest")
    found = FILE.findall(manifest.read_text())
    base, increments = ([folder / name for name, kind in found if kind == wanted] for wanted in "bi")
    return base, increments


def _steps_of(paths: Iterable[Path]) -> list[Step]:
    return list(steps(command for path in paths for command in commands(path.read_bytes())))


def commands(data: bytes) -> Iterator[Command]:
    """Yield the commands of one file.  A server that was killed may leave half a command at the end: it never ran."""
    at, position = 0.0, 0
    while position < len(data):
        line, position = _line(data, position)
        if line.startswith(b"*"):
            words, position = _words(data, position, int(line[1:]))
            if len(words) < int(line[1:]):
                return
            yield Command(at, (words[0].upper(), *words[1:]))
        elif found := TIMESTAMP.match(line):
            at = float(found[1])


def steps(found: Iterable[Command]) -> Iterator[Step]:
    """Group what stands between MULTI and EXEC; without an EXEC it never ran."""
    open_step: Step | None = None
    for command in found:
        name = command.words[0]
        if name == "MULTI":
            open_step = []
        elif name == "EXEC":
            yield open_step or []
            open_step = None
        elif open_step is None:
            yield [command]
        else:
            open_step.append(command)


def cut_before(data: bytes, moment: float) -> bytes:
    """Return what a disk would hold that was written to last at `moment`: whole seconds, whole commands."""
    for found in re.finditer(rb"^#TS:(\d+)\r?\n", data, re.MULTILINE):
        if float(found[1]) > moment:
            return data[: found.start()]
    return data


def _line(data: bytes, position: int) -> tuple[bytes, int]:
    end = data.find(b"\n", position)
    if end < 0:
        return b"", len(data)
    return data[position:end].rstrip(b"\r"), end + 1


def _words(data: bytes, position: int, count: int) -> tuple[list[str], int]:
    words: list[str] = []
    for _ in range(count):
        line, position = _line(data, position)
        if not line.startswith(b"$"):
            break
        end = position + int(line[1:])
        if end + 2 > len(data):
            return words, len(data)
        words.append(data[position:end].decode("utf-8", "surrogateescape"))
        position = end + 2
    return words, position
