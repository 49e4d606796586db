"""Rows for people, or for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from redis_consumer.cli.options import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MINUTE, HOUR, DAY = 60, 3600, 86400


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows: whole as JSON, or these columns, aligned, with a heading.  Nothing at all where there are no rows."""
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    if not rows:
        return
    lines = [[name.upper() for name in columns], *[[one_line(row.get(name, "")) for name in columns] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        say("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def one_line(value: object) -> str:
    """Return a value so that it stays in its line: names and reasons come from users."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(value))


def duration(seconds: float) -> str:
    """Return a time span as people say it: ``42s``, ``5m``, ``3h``, ``2d``."""
    for unit, letter in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m")):
        if seconds >= unit:
            return f"{seconds / unit:.0f}{letter}"
    return f"{max(seconds, 0):.0f}s"
