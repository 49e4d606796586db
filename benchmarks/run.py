"""Print the tables of docs/performance.md and docs/outputs.md, and write their figures to results/bench.json.

``make bench`` calls it.  Words name the parts to run, ``python benchmarks/run.py pipeline.py`` say; the figures of the
others stay.  FULL=1 in the environment measures everything.  Each part also runs alone; recovery.py, tracking.py and
queue_peers.py do so only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import tables

HERE = Path(__file__).parent
RESULTS = HERE / "results/bench.json"
WITH_FIGURES = ("worker.py", "queues.py", "pipeline.py", "large.py")
PARTS = ("size.py", *WITH_FIGURES, "tensors.py", "processing.py", "outputs.py", "heartbeat.py")


def run(part: str, *, full: bool) -> tuple[int, dict[str, object]]:
    """Run one part; return its exit status and its figures."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        words = ["--json", str(figures), *(["--full"] if full else [])] if part in WITH_FIGURES else []
        status = subprocess.run([sys.executable, str(HERE / part), *words], check=False).returncode
        return status, json.loads(figures.read_text("utf-8")) if figures.exists() else {}


def main(parts: list[str]) -> int:
    """Run the parts one after the other, so that they do not disturb each other."""
    full = bool(os.environ.get("FULL"))
    RESULTS.parent.mkdir(exist_ok=True)
    known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    statuses = []
    for part in parts or PARTS:
        status, figures = run(part, full=full)
        statuses.append(status)
        known |= figures
        now = {
            "machine": tables.machine(),
            "versions": tables.versions(),
            "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
        }
        tables.hand_over(known | now, RESULTS)  # after each part: a later one may be given up
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
