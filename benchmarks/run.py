"""Print every table of docs/performance.md: ``make bench``.  Each part also runs alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PARTS = ("size.py", "worker.py", "tensors.py", "processing.py", "outputs.py", "heartbeat.py")


def main() -> int:
    """Run the parts one after the other, so that they do not disturb each other."""
    folder = Path(__file__).parent
    return max(subprocess.run([sys.executable, str(folder / part)], check=False).returncode for part in PARTS)


if __name__ == "__main__":
    sys.exit(main())
