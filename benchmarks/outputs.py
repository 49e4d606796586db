"""What the files beside a result's zip cost: a label image of some 5,000 nuclei, 2048 x 2048, one channel.

``python benchmarks/outputs.py`` prints the table.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from processing import nuclei, peak, seconds
from tables import show

from redis_consumer.arrays import Labels
from redis_consumer.processing import deep_watershed
from redis_consumer.results.extras import WRITERS, Seen, write_extras
from redis_consumer.results.outlines import outlines
from redis_consumer.results.tables import label_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_consumer.settings.schema import ExtraOutput

RUNS = 5
SIZE = 2048


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def written(labels: Labels, seen: Seen, kind: ExtraOutput) -> int:
    """Write one kind into a new folder; return its bytes."""
    folder = Path(tempfile.mkdtemp())
    try:
        return size_of(write_extras(labels, seen, [kind], folder)[kind])
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Print the table."""
    maps = nuclei(SIZE)
    labels, seen = Labels(deep_watershed(maps)), Seen(maps[0])
    steps: dict[str, Callable[[], object]] = {
        "outlines alone": lambda: dict(outlines(labels.array[0, ..., 0])),
        "table alone": partial(label_table, labels, seen.pixels),
        **{kind: partial(written, labels, seen, kind) for kind in WRITERS[Labels]},
    }
    rows = []
    for name, step in steps.items():
        made = step()
        times = [seconds(step) for _ in range(RUNS)]
        size = made / 2**20 if isinstance(made, int) else ""
        rows.append((name, 1000 * median(times), peak(step), size))
    title = (
        f"Files beside the zip: {labels.count()} nuclei in {SIZE} x {SIZE} (time of one processor, medians of {RUNS})"
    )
    show(title, ("file", "ms", "MiB of memory at most", "MiB on disk"), rows)


if __name__ == "__main__":
    main()
