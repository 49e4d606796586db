"""A process that reads archives and track files for a test: one request a line in, how it ended a line out.

Apart from the test, so that its memory can be measured from outside.
"""

from __future__ import annotations

import json
import sys

from redis_consumer import archives, utils
from redis_consumer.errors import JobRejected


def read(path: str, destination: str) -> int:
    """Read a file by what it is; return the number of its parts."""
    if path.endswith(".trk"):
        return len(utils.load_track_file(path))
    if path.endswith(".old.zip"):
        return len(list(utils.iter_image_archive(path, destination)))
    return len(list(archives.iter_archive(path, destination)))


def ended(request: str) -> dict[str, str]:
    try:
        read(**json.loads(request))
    except JobRejected as error:
        return {"status": "failed", "reason": str(error)}
    except Exception as error:  # noqa: BLE001 - a bug, which the test shows
        return {"status": "bug", "reason": f"{type(error).__name__}: {error}"}
    return {"status": "done", "reason": ""}


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(ended(line)) + "\n")
        sys.stdout.flush()
