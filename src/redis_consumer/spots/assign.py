"""In which cell of a label image each spot lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray
    from redis_consumer.spots.detect import Points


def cell_of_spots(labels: AnyArray, points: Points) -> npt.NDArray[np.int64]:
    """Return for each of `points` (N, 2) the id at its pixel of `labels` (Y, X), 0 for background.

    The pixel is the coordinate cut towards zero: -0.4 lies in row 0, and 7.9 in row 7.  A spot outside the image
    lies in no cell; the original took -1.2 for the last row, and failed beyond the end.  ValueError for other shapes.
    """
    if labels.ndim != 2 or points.ndim != 2 or points.shape[1] != 2:  # noqa: PLR2004 - rows and columns
        raise ValueError(f"spots: labels have shape {labels.shape}, points {points.shape}: expected are (Y, X), (N, 2)")
    # Compared as floats: what is not finite, or too large for an integer, lies outside.
    inside = ((points > -1) & (points < labels.shape)).all(axis=1)
    cells = np.zeros(len(points), np.int64)
    rows, columns = points[inside].astype(np.intp).T
    cells[inside] = labels[rows, columns]
    return cells


def match_spots_to_cells(labels: AnyArray, points: Points) -> dict[int, list[Points]]:
    """Return the coordinates of the spots of each cell, by its id, as `cell_of_spots` finds it; background is 0.

    Cells come in the order of their first spots, spots in their own.
    """
    cells: dict[int, list[Points]] = {}
    for cell, point in zip(cell_of_spots(labels, points).tolist(), points, strict=True):
        cells.setdefault(cell, []).append(point)
    return cells
