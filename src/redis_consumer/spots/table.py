"""The table of spots that a job's result holds, one for each image: where they are, and in which cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis_consumer.spots.assign import cell_of_spots

if TYPE_CHECKING:
    from redis_consumer.arrays import AnyArray
    from redis_consumer.spots.detect import Points


@dataclass(frozen=True, slots=True)
class SpotTable:
    """A header, and a row for each spot in the order of the spots."""

    header: tuple[str, ...]
    """``x``, ``y``, then ``cellID0`` and so on, one for each label image."""
    rows: tuple[tuple[float | int, ...], ...]
    """Column and row in pixels (the other way round than in points), then the id of the cell, 0 for none."""


def spot_table(points: Points, labels: AnyArray | None = None) -> SpotTable:
    """Return the table of `points` (N, 2) of one image and of its `labels` (Y, X, C), where there are any.

    ValueError for other shapes.
    """
    if labels is not None and labels.ndim != 3:  # noqa: PLR2004 - rows, columns, features
        raise ValueError(f"spots: labels have shape {labels.shape}: expected are (Y, X, C)")
    features = [] if labels is None else [cell_of_spots(labels[..., c], points) for c in range(labels.shape[-1])]
    header = ("x", "y", *(f"cellID{c}" for c in range(len(features))))
    columns = [points[:, 1].tolist(), points[:, 0].tolist(), *(cells.tolist() for cells in features)]
    return SpotTable(header, tuple(zip(*columns, strict=True)))
