"""What the demonstration shows: a line for each image while it runs, and a table of results.  Knows no processes."""

from __future__ import annotations

import datetime as dt
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from redis_consumer.consumers.children import name_in
from redis_consumer.job import FINAL, Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from redis_consumer.demo.kinds.base import Found

WIDE = 400
"""Columns of a file or a pipe: nobody wants paths and reasons folded there."""
STYLES: Mapping[str, str] = {Status.DONE: "green", Status.FAILED: "red", Status.NEW: "dim"}
UNKNOWN = "-"
MOST_FAILURES = 20
"""Images of one batch."""
SECONDS = ("waiting\ns", "predicting\ns", "post-\nprocessing\ns")
"""Headings, narrow enough for a terminal of 80 columns."""


def open_console() -> Console:
    """Return stdout as rich sees it.  File names may have brackets, so markup is off."""
    return Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else WIDE)


@dataclass
class Line:
    """What is known of one job while it runs."""

    name: str
    began: float
    status: str = Status.NEW
    progress: str = ""
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the job was submitted, until its end."""
        return (self.ended or time.monotonic()) - self.began


class Board:
    """One line for each job: live on a terminal, elsewhere one printed at each new status."""

    def __init__(self, console: Console, names: Mapping[str, str]) -> None:
        began = time.monotonic()
        self._console = console
        self._lines = {key: Line(name, began) for key, name in names.items()}

    def shown(self) -> AbstractContextManager[object]:
        """Return the context in which the lines are live."""
        if not self._console.is_terminal:
            return nullcontext()
        return Live(console=self._console, get_renderable=self.render, refresh_per_second=8)

    def look(self, key: str, fields: Mapping[str, str]) -> bool:
        """Take note of a job's fields; return whether they bring news."""
        line = self._lines[key]
        status, progress = fields.get("status", ""), fields.get("progress", "")
        new_word = status != line.status
        if not new_word and progress == line.progress:
            return False
        line.status, line.progress = status, progress
        if status in FINAL:
            line.ended = time.monotonic()
        if new_word and not self._console.is_terminal:
            self._console.print(f"{line.seconds:7.1f} s  {line.name}: {status}")
        return True

    def render(self) -> Table:
        """Return the lines as they are now; where the terminal is too low for all, what is in work comes first."""
        grid = Table.grid(padding=(0, 2))
        lines, room = list(self._lines.values()), max(self._console.height - 2, 1)
        if len(lines) > room:
            lines = sorted(lines, key=lambda line: (line.ended is not None, line.status == Status.NEW))[:room]
        for line in lines:
            part = f"{line.progress} %" if line.progress and line.status not in FINAL else ""
            grid.add_row(line.name, f"{line.seconds:6.1f} s", Text(line.status, STYLES.get(line.status, "cyan")), part)
        ended = sum(line.ended is not None for line in self._lines.values())
        grid.add_row(Text(f"{ended} of {len(self._lines)}", "dim"))
        return grid


@dataclass(frozen=True)
class Row:
    """What became of one image."""

    name: str
    image: Path
    fields: Mapping[str, str]
    """The job's hash at its end."""
    found: Found | None = None
    """What the result holds, if there is one."""
    result: Path | None = None

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self.fields.get("status") == Status.DONE

    @property
    def whole(self) -> bool:
        """Whether there is a result, and nothing that was submitted is missing in it."""
        return self.done and not self.failures

    @property
    def failures(self) -> Mapping[str, str]:
        """The jobs of a batch that failed, each with its reason; there is none for those beyond a thousand."""
        reasons = dict(parse_qsl(self.fields.get("failures", "")))
        failed = filter(None, self.fields.get("children:failed", "").split(","))
        return {key: reasons.get(key, "") for key in failed}

    @property
    def reason(self) -> str:
        """Why it failed, with the image's own name: that of the upload says nothing to who sent it."""
        upload = PurePosixPath(self.fields.get("input_file_name", "")).name
        text = self.fields.get("reason", "")
        return text.replace(upload, self.image.name) if upload else text


def results_table(rows: Sequence[Row], objects: str) -> Table:
    """Return the table of results and their `objects`; the column F1 only where some truth is known."""
    scored = any(row.found and row.found.score for row in rows)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("image", overflow="fold")
    for heading in ("size", objects, *(("F1",) if scored else ()), *SECONDS):
        table.add_column(heading, justify="right")
    table.add_column("result", overflow="fold")
    for row in rows:
        table.add_row(*cells(row, scored=scored))
    return table


def cells(row: Row, *, scored: bool) -> list[str | Text]:
    """Return the cells of one row."""
    size, number, f1 = UNKNOWN, UNKNOWN, UNKNOWN
    end = Text(str(row.result)) if row.done else Text(f"failed: {row.reason}", "red")
    if row.done and row.failures:
        end.append(f"\n{len(row.failures)} of {row.fields.get('total_jobs', UNKNOWN)} images failed, see below", "red")
    if row.found:
        size, number = row.found.size, str(row.found.count)
        f1 = f"{row.found.score.f1:.3f}" if row.found.score else UNKNOWN
    seconds = [
        waited(row.fields),
        *(in_seconds(row.fields.get(name)) for name in ("prediction_time", "postprocess_time")),
    ]
    return [row.name, size, number, *([f1] if scored else []), *seconds, end]


def failure_lines(row: Row) -> list[Text]:
    """Return a line for each image of a batch that failed, the first ones if there are many."""
    failures = list(row.failures.items())
    lines = [f"{row.name}: {name_in(key)} failed: {reason}" for key, reason in failures[:MOST_FAILURES]]
    if more := len(failures) - len(lines):
        lines.append(f"{row.name}: {more} more failed")
    return [Text(line, "red") for line in lines]


def waited(fields: Mapping[str, str]) -> str:
    """Return the seconds from the submit to the claim; the hash has the end, and the time from claim to end."""
    try:
        created, finished = (dt.datetime.fromisoformat(fields[name]) for name in ("created_at", "finished_at"))
        return f"{max((finished - created).total_seconds() - float(fields['total_time']), 0):.2f}"
    except (KeyError, ValueError):
        return UNKNOWN


def in_seconds(text: str | None) -> str:
    """Return a field of seconds for the table; a batch has one for each image, together they are its own."""
    return f"{sum(map(float, text.split(','))):.2f}" if text else UNKNOWN
