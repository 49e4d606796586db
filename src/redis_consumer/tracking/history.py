"""The tracks of a movie so far, and how its next frame is added: who is linked, begins, ends or divides.

Knows no models: what is likely comes as two matrices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts at their first use

from redis_consumer.arrays import Tracks
from redis_consumer.tracking.population import relabelled

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Terms:
    """On which a cell is linked, begins, ends or divides."""

    birth: float
    death: float
    """Costs of a beginning and of an end: a link costs 1 - p(same), and is made where twice that is less than both."""
    division: float
    """A new cell has a parent where p(parent) is above."""


@dataclass(eq=False)
class History:
    """The tracks so far, in the order in which they began.  A cell is a number of the caller's."""

    length: int
    windows: Indices
    """(n, length): the last cells of each, padded at the end with the very last."""
    counts: Indices
    """(n,): how many of these are real."""
    capped: npt.NDArray[np.bool_]
    """(n,): whether it ended in a division."""
    parents: dict[int, int] = field(default_factory=dict)

    @classmethod
    def empty(cls, length: int) -> History:
        """Return a history without tracks."""
        return cls(length, np.empty((0, length), np.intp), np.empty(0, np.intp), np.empty(0, np.bool_))

    def __len__(self) -> int:
        return len(self.counts)

    def begin(self, cell: int, parent: int | None = None) -> int:
        """Begin a track with `cell`; return its number."""
        self.windows = np.concatenate([self.windows, np.full((1, self.length), cell)])
        self.counts = np.append(self.counts, 1)
        self.capped = np.append(self.capped, False)
        if parent is not None:
            self.parents[len(self) - 1] = parent
        return len(self) - 1

    def extend(self, track: int, cell: int) -> int:
        """Add a cell to a track; return its number."""
        window, count = self.windows[track], self.counts[track]
        if count == self.length:
            window[:-1] = window[1:]
        window[min(count, self.length - 1) :] = cell
        self.counts[track] = min(count + 1, self.length)
        return track

    def add(self, cells: Indices, same: Floats, related: Floats, terms: Terms) -> Indices:
        """Add the `cells` of the next frame; return the number of each one's track.

        `same` and `related` are p(same) and p(parent) of every track and cell, (n, m) each, 0 where the track cannot
        be it.  The links are those of the least cost in all.
        """
        links, born = _assigned(same, terms)
        parents = {cell: _parent(related[:, cell], terms.division) for cell in born}
        divided = {parent for parent in parents.values() if parent is not None}
        numbers = np.full(len(cells), -1)
        for cell in born:
            numbers[cell] = self.begin(cells[cell], parents[cell])
        for number, cell in links:
            # The cell that carries on a parent is its daughter too.
            divides = number in divided
            numbers[cell] = self.begin(cells[cell], number) if divides else self.extend(number, cells[cell])
        self.capped[list(divided)] = True
        return numbers

    def tracks(self, labels: Integers, ids: Sequence[Indices], numbers: Sequence[Indices]) -> Tracks:
        """Return the tracks of a movie (T, Y, X): of each frame the ids of the cells, and the numbers of their tracks.

        Labels are numbers plus 1, in the order in which tracks began.
        """
        parents = {daughter + 1: parent + 1 for daughter, parent in self.parents.items()}
        return Tracks(relabelled(labels, [(old, new + 1) for old, new in zip(ids, numbers, strict=True)]), parents)


def costs(same: Floats, birth: float, death: float) -> Floats:
    """Return the assignment problem of n tracks and m cells, (n + m, n + m), from p(same), (n, m).

    Rows are tracks, then beginnings; columns cells, then ends (Jaqaman et al., Nature Methods 5, 2008).
    """
    n, m = same.shape
    matrix = np.ones((n + m, n + m), np.float32)
    matrix[:n, :m] = 1 - same
    matrix[np.arange(n), m + np.arange(n)] = death
    matrix[n + np.arange(m), np.arange(m)] = birth
    matrix[n:, m:] = matrix[:n, :m].T
    return matrix


def shaped(array: Floats, shape: tuple[int | None, ...], model: str) -> Floats:
    """Return what a model made; ValueError if it has not this shape, None for a free size."""
    if array.ndim != len(shape) or any(size not in {None, got} for size, got in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{model} returned shape {array.shape}, expected is {shape}")
    return array


def _assigned(same: Floats, terms: Terms) -> tuple[list[tuple[int, int]], list[int]]:
    """Return pairs of track and cell, by track, and the cells that begin a track."""
    tracks, cells = same.shape
    rows, columns = scipy.optimize.linear_sum_assignment(costs(same, terms.birth, terms.death))
    pairs = [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if column < cells]
    return [pair for pair in pairs if pair[0] < tracks], [column for row, column in pairs if row >= tracks]


def _parent(related: Floats, least: float) -> int | None:
    """Return the likeliest parent of a new cell; None if its probability is not above `least`."""
    return int(related.argmax()) if related.size and related.max() > least else None
