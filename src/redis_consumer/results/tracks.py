"""Tracks as the Kiosk delivers them: a stack of labels, and who is whose daughter in lineage.json.

The same tracks give the same bytes.  Knows no jobs and no models.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from redis_consumer.archives import Entry
from redis_consumer.arrays import Labels
from redis_consumer.results import save_labels, writing

if TYPE_CHECKING:
    from pathlib import Path

    from redis_consumer.arrays import Tracks

LINEAGE = "lineage.json"


def save_tracks(tracks: Tracks, name: str, folder: str | Path) -> list[Entry]:
    """Write the stack ``<name>_feature_0.tif``, (T, Y, X), and ``lineage.json``; return both, as readers want them.

    `name` and the errors are those of `save_labels`.
    """
    stack = save_labels(Labels(tracks.array[..., None]), name, folder, stack=True)
    with writing(folder, LINEAGE) as path:
        path.write_text(json.dumps(lineage(tracks)), encoding="utf-8")
    return [*stack, Entry(str(path), LINEAGE)]


def lineage(tracks: Tracks) -> dict[str, dict[str, object]]:
    """Return every cell by its label, as the files have it: label, frames, daughters, capped, frame_div, parent."""
    return {str(label): asdict(cell) for label, cell in tracks.lineage.items()}
