"""The cells of one frame: where they are and how large.  One pass over the frame for all of them together."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Integers = npt.NDArray[np.integer]
    Indices = npt.NDArray[np.intp]
    Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cells:
    """The n cells of a frame, a row for each."""

    ids: Indices
    """In the frame."""
    centroids: Doubles
    """(n, 2), row and column."""
    areas: Indices
    """In pixels."""
    first: Indices
    """Position of the first pixel in the frame, row by row: no two cells share it."""

    def __len__(self) -> int:
        return len(self.ids)

    def ordered(self, order: Indices) -> Cells:
        """Return the same cells in another order."""
        return Cells(*(getattr(self, column.name)[order] for column in fields(self)))


def measure(frame: Integers) -> Cells:
    """Return the cells of a label image (Y, X), by ascending id."""
    ids, pixels, cell = _pixels(frame)
    rows, columns = np.divmod(pixels, frame.shape[1])
    areas = np.bincount(cell, minlength=len(ids))
    centroids = np.stack([_means(rows, cell, areas), _means(columns, cell, areas)], axis=-1)
    first = np.zeros(len(ids), np.intp)
    first[cell[::-1]] = pixels[::-1]
    return Cells(ids, centroids, areas, first)


def _pixels(frame: Integers) -> tuple[Indices, Indices, Indices]:
    """Return the ids, the positions of all their pixels, and for each of these the row of its cell."""
    flat = frame.ravel()
    pixels = np.flatnonzero(flat)
    values = flat[pixels]
    if values.size and values.max() > frame.size:  # a table for every possible id would be larger than the frame
        ids, cell = np.unique(values, return_inverse=True)
        return ids.astype(np.intp), pixels, cell
    present = np.bincount(values) > 0
    return np.flatnonzero(present), pixels, (np.cumsum(present) - 1)[values]


def _means(values: Indices | Doubles, cell: Indices, areas: Indices) -> Doubles:
    return np.bincount(cell, weights=values, minlength=len(areas)) / areas


def unique_labels(movie: Integers) -> npt.NDArray[np.int32]:
    """Return label images (T, ...) in which no two frames share an id: N + 1, N + 2, ... of N cells in all frames.

    By frame, and then by ascending old id.  What the original's annotation tools call a clean movie; the trackers here
    take frames as they are.
    """
    result = np.zeros(movie.shape, np.int32)
    ids = [np.unique(frame[frame != 0]) for frame in movie]
    first = sum(map(len, ids)) + 1
    for frame, known, out in zip(movie, ids, result, strict=True):
        out[frame != 0] = first + np.searchsorted(known, frame[frame != 0])
        first += len(known)
    return result
