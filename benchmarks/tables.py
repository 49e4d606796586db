"""Tables as Markdown, the machine that they were made on, and the figures that go into results/bench.json."""

from __future__ import annotations

import argparse  # noqa: TC003 - a script, no cycles to avoid
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence  # noqa: TC003 - a script, no cycles to avoid
from importlib.metadata import version
from pathlib import Path

from redis_consumer.testing.servers import find_redis

PACKAGES = ("numpy", "scipy", "scikit-image", "grpcio", "protobuf", "obstore", "redis", "imagecodecs", "tifffile")


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> None:
    """Print a table under a title."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(_text(cell) for cell in row) + " |")
    print(f"\n{note or machine()}", flush=True)


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options of a part: its own, and those that every part with figures takes."""
    parser.add_argument("--full", action="store_true", help="measure everything, not only what tells most")
    parser.add_argument("--json", type=Path, help="write the figures to this file, as results/bench.json has them")
    return parser.parse_args()


def hand_over(figures: Mapping[str, object], path: Path | None) -> None:
    """Write the figures where `--json` wants them, if it does."""
    if path:
        path.write_text(written(figures), "utf-8")


def written(figures: Mapping[str, object]) -> str:
    """Return JSON with a line for each figure, and for each part of those that have parts: short, readable in diffs."""
    return _block("{", (f"{json.dumps(name)}: {_parts(value)}" for name, value in sorted(figures.items())), "}") + "\n"


def _parts(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _block("[", map(_line, value), "]", depth=2)
    if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
        return _block("{", (f"{json.dumps(name)}: {_line(part)}" for name, part in value.items()), "}", depth=2)
    return _line(value)


def _block(opening: str, lines: Iterable[str], closing: str, depth: int = 1) -> str:
    return opening + ",".join(f"\n{' ' * depth}{line}" for line in lines) + "\n" + " " * (depth - 1) + closing


def _line(value: object) -> str:
    return json.dumps(_rounded(value))


def _rounded(value: object) -> object:
    """Return figures with four digits: nobody measures more."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def machine() -> str:
    """Return what the figures depend on, in a line."""
    return f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, Python {platform.python_version()}."


def versions() -> dict[str, str]:
    """Return the versions of what the figures depend on."""
    server = subprocess.run([find_redis(), "--version"], capture_output=True, text=True, check=True).stdout
    found = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found, "redis server": " ".join(server.split()[:3])}


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return str(cell)
