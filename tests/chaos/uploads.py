"""What the S3 server says that it stored: its own log, a line for each request.  Knows no worker's word."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.acceptance.bench import BUCKET

if TYPE_CHECKING:
    from pathlib import Path

PUT = re.compile(rf'"(?:\x1b\[[\d;]*m)*PUT /{BUCKET}/(\S+) HTTP/[\d.]+(?:\x1b\[[\d;]*m)*" (\d+)')


def stored(log: str) -> set[str]:
    """Return the keys of every upload that the server answered with success."""
    return {key for key, status in PUT.findall(log) if status.startswith("2")}


def read(path: Path) -> set[str]:
    """Return the keys of every upload in a log file."""
    return stored(path.read_text(errors="replace"))
