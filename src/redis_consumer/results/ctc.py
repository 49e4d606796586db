"""Tracks in the files of the Cell Tracking Challenge: a table and 16-bit masks (celltrackingchallenge.net).

The same tracks give the same bytes.
"""

from __future__ import annotations

from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from redis_consumer.archives import Entry
from redis_consumer.arrays import Tracks
from redis_consumer.errors import JobRejected
from redis_consumer.results import writing

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.arrays import Track

TABLE = "res_track.txt"
MOST_TRACKS = 2**16 - 1


class Row(NamedTuple):
    """One line of the table."""

    label: int
    first: int
    last: int
    parent: int
    """0 for none."""


def save_ctc(tracks: Tracks, folder: str | Path) -> list[Entry]:
    """Write ``res_track.txt`` and ``mask000.tif`` onwards; return them.

    The table has label, first and last frame and parent of each track.  A track of the Challenge has no gaps: one
    that has them becomes several, each the parent of the next, and the first keeps the label.  JobRejected for
    labels above 65,535, RetryJob if the disk is full.
    """
    import tifffile

    movie, rows = without_gaps(tracks)
    if max((row.label for row in rows), default=0) > MOST_TRACKS:
        raise JobRejected(f"The result has labels above {MOST_TRACKS}, more than a 16-bit mask can tell apart")
    with writing(folder, TABLE) as table:
        table.write_text("".join(f"{row.label} {row.first} {row.last} {row.parent}\n" for row in rows))
    entries = [Entry(str(table), TABLE)]
    digits = max(3, len(str(len(movie) - 1)))
    for t, frame in enumerate(movie):
        with writing(folder, f"mask{t:0{digits}}.tif") as path:
            tifffile.imwrite(path, frame.astype(np.uint16), photometric="minisblack")
        entries.append(Entry(str(path), path.name))
    return entries


def load_ctc(folder: str | Path) -> Tracks:
    """Return what `save_ctc` wrote; ValueError if the table and the masks contradict each other."""
    import tifffile

    masks = sorted(Path(folder).glob("mask*.tif"))
    movie = np.stack([tifffile.imread(mask) for mask in masks]).astype(np.int32)
    return Tracks(movie, {row.label: row.parent for row in read_table(Path(folder, TABLE)) if row.parent})


def read_table(path: str | Path) -> list[Row]:
    """Return the lines of a table; ValueError for one that is not four whole numbers."""
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    if any(len(words) not in {0, len(Row._fields)} for words in lines):
        raise ValueError("a line of the table has not four numbers")
    return [Row(*map(int, words)) for words in lines if words]


def without_gaps(tracks: Tracks) -> tuple[npt.NDArray[np.int32], list[Row]]:
    """Return the movie and the rows of the table, every track cut at its gaps."""
    fresh = count(max(tracks.lineage, default=0) + 1)
    parts = {
        label: [(label if run[0] == cell.frames[0] else next(fresh), run) for run in _runs(cell)]
        for label, cell in tracks.lineage.items()
    }
    movie, rows = tracks.array.copy(), []
    for label, cell in tracks.lineage.items():
        parent = parts[cell.parent][-1][0] if cell.parent else 0
        for name, (first, last) in parts[label]:
            frames = movie[first : last + 1]
            frames[frames == label] = name
            rows.append(Row(name, first, last, parent))
            parent = name
    return movie, rows


def _runs(cell: Track) -> list[tuple[int, int]]:
    """Return the first and the last frame of each part of a track that has no gaps."""
    breaks = [(a, b) for a, b in pairwise(cell.frames) if b > a + 1]
    starts = [cell.frames[0], *(b for _, b in breaks)]
    ends = [*(a for a, _ in breaks), cell.frames[-1]]
    return list(zip(starts, ends, strict=True))
