"""Tables as Markdown, the machine that they were made on, and the figures that go into results/bench.json."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence  # noqa: TC003 - a script, no cycles to avoid
from importlib.metadata import version
from pathlib import Path

from redis_consumer.testing.servers import find_redis

VARIABLE = "BENCH_FIGURES"
"""Names the file that `keep` writes to; `run.py` sets it for each part."""
PACKAGES = ("numpy", "scipy", "scikit-image", "grpcio", "protobuf", "obstore", "redis", "imagecodecs", "tifffile")


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> None:
    """Print a table under a title."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(_text(cell) for cell in row) + " |")
    print(f"\n{note or machine()}", flush=True)


def keep(**figures: object) -> None:
    """Have figures stand in results/bench.json under these names; a part that runs alone only prints."""
    if path := os.environ.get(VARIABLE):
        merge(Path(path), figures)


def merge(path: Path, figures: dict[str, object]) -> None:
    """Put figures into a file of figures; what it has under other names stays."""
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(written({**known, **figures}), "utf-8")


def written(figures: dict[str, object]) -> str:
    """Return JSON with a line for each figure, and for each row of a list of rows: small, and its changes readable."""
    lines = []
    for name, value in sorted(figures.items()):
        rows = isinstance(value, list) and value and isinstance(value[0], dict)
        text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]" if rows else json.dumps(value)  # type: ignore[arg-type]  # a list
        lines.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def full() -> bool:
    """Return whether everything is to be measured, and not only what is most telling."""
    return bool(os.environ.get("FULL"))


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
