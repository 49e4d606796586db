"""What a pairwise model sees of the cells of a movie, quirks of its training included; and for how long it is kept."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.processing import resize
from redis_consumer.tracking.features import Crops, features_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.arrays import Image

    Integers = npt.NDArray[np.integer]
    Indices = npt.NDArray[np.intp]
    Floats = npt.NDArray[np.float32]

REACH = 100
"""Pixels that the surroundings reach from a cell's centroid to each side."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Rows and columns of what shows a cell."""

    appearance: int = 32
    neighborhood: int = 61


@dataclass(frozen=True, eq=False)
class Shown:
    """The n cells of a frame by ascending id, or any others."""

    appearances: Floats
    """(n, side, side, C): the cell's box, whatever else it shows, resized."""
    neighborhoods: Floats
    """(n, side, side, C): `surroundings`."""
    regionprops: Floats
    """(n, 3): area and perimeter in pixels, eccentricity."""
    centroids: Floats
    """(n, 2): row and column."""

    @classmethod
    def nothing(cls, sides: Sides, channels: int) -> Shown:
        """Return no cells."""
        sizes = ((side, side, channels) for side in (sides.appearance, sides.neighborhood))
        appearances, neighborhoods, regionprops, centroids = (
            np.empty((0, *size), np.float32) for size in (*sizes, (3,), (2,))
        )
        return cls(appearances, neighborhoods, regionprops, centroids)

    def __len__(self) -> int:
        return len(self.centroids)

    def take(self, cells: Indices) -> Shown:
        """Return these cells, as often as they are named; of a table of cells as many axes."""
        return Shown(*(getattr(self, column.name)[cells] for column in fields(self)))

    def joined(self, others: Shown) -> Shown:
        """Return these cells, and then the others."""
        names = [column.name for column in fields(self)]
        return Shown(*(np.concatenate([getattr(self, name), getattr(others, name)]) for name in names))


def show(image: Image, labels: Integers, sides: Sides) -> tuple[Indices, Shown]:
    """Return the ids of the cells in one frame, (Y, X, C) and (Y, X), ascending, and what is seen of them."""
    cells = features_of(image, labels, Crops(sides.appearance))
    around = surroundings(image, cells.centroids, sides.neighborhood)
    return cells.ids, Shown(cells.appearances, around, cells.morphologies, cells.centroids)


def surroundings(image: Image, centroids: Floats, side: int) -> Floats:
    """Return the 200 x 200 pixels around each centroid, cut down to whole pixels, resized; zero beyond the border."""
    padded = np.pad(image, ((REACH, REACH), (REACH, REACH), (0, 0)))
    result = np.empty((len(centroids), side, side, image.shape[-1]), np.float32)
    for crop, (row, column) in zip(result, centroids.astype(np.intp), strict=True):
        crop[:] = resize(padded[row : row + 2 * REACH, column : column + 2 * REACH], (side, side))
    return result


@dataclass(eq=False)
class Memory:
    """The cells that the model may see again; each has a number, in the order in which they were added."""

    shown: Shown
    numbers: Indices
    """Of `shown`, ascending."""
    added: int = 0

    @classmethod
    def empty(cls, sides: Sides, channels: int) -> Memory:
        """Return a memory of no cells."""
        return cls(Shown.nothing(sides, channels), np.empty(0, np.intp))

    def add(self, cells: Shown) -> Indices:
        """Add cells; return their numbers."""
        new = self.added + np.arange(len(cells))
        self.shown, self.numbers = self.shown.joined(cells), np.concatenate([self.numbers, new])
        self.added += len(cells)
        return new

    def of(self, numbers: Indices) -> Indices:
        """Return where these cells stand in `shown`."""
        return np.searchsorted(self.numbers, numbers)

    def keep(self, numbers: Indices) -> None:
        """Forget all other cells: a long movie has more of them than there is memory."""
        kept = np.unique(numbers)
        self.shown, self.numbers = self.shown.take(self.of(kept)), kept
