"""Tables as Markdown, and the machine that they were made on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence  # noqa: TC003 - a script, no cycles to avoid


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> None:
    """Print a table under a title."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(_text(cell) for cell in row) + " |")
    print(f"\n{note or machine()}", flush=True)


def machine() -> str:
    """Return what the figures depend on, in a line."""
    return f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, Python {platform.python_version()}."


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return str(cell)
