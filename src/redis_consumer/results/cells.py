"""Spots in cells, as the Kiosk's queue `polaris` delivers them: label images, and a table for each image.

Knows no jobs and no models.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from redis_consumer.archives import Entry
from redis_consumer.results import PER_BATCH_AND_FEATURE, entry_stem, save_labels, writing
from redis_consumer.spots.table import spot_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from redis_consumer.arrays import Labels
    from redis_consumer.spots import Points
    from redis_consumer.spots.table import SpotTable


def save_spots_in_cells(points: Sequence[Points], labels: Labels | None, name: str, folder: str | Path) -> list[Entry]:
    """Write, image by image, its label images ``<name>_batch_<i>_feature_<c>.tif``, if any, and ``<name>_<i>.csv``.

    `points` are (N, 2) for each image, row and column; `labels` have as many frames.  The table has the columns
    of `redis_consumer.spots.table`.  `name`, order and errors are those of `save_labels`.
    """
    stem = entry_stem(name)
    images = iter(save_labels(labels, name, folder, pattern=PER_BATCH_AND_FEATURE) if labels else ())
    features = labels.array.shape[-1] if labels else 0
    entries = []
    for number, found in enumerate(points):
        entries += [next(images) for _ in range(features)]
        table = spot_table(found, labels.array[number] if labels else None)
        entries.append(_save_table(table, f"{stem}_{number}.csv", folder))
    return entries


def _save_table(table: SpotTable, name: str, folder: str | Path) -> Entry:
    with writing(folder, name) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.header)
        writer.writerows(table.rows)
    return Entry(str(path), name)
