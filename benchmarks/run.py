"""Print the tables of docs/performance.md and docs/outputs.md, and the heartbeat's of docs/reliability.md.

``make bench`` calls it.  Each part also runs alone, and recovery.py and tracking.py do so only.
"""

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
