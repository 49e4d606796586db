"""Label images as writers see them, in memory or in files: planes (Y, X) that are read block by block.

Knows no formats and no jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from redis_consumer.processing.planes import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from redis_consumer.processing.planes import Plane, Rectangle

    Numbers = npt.NDArray[np.int64]

WIDEST_RANGE = 2**24
"""Of labels, up to which a look-up table is made; it has a few bytes for each."""


class LabelImages(Protocol):
    """Label images of several frames and features: 0 is background, every other value one object."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Frames, rows, columns and features."""

    def name_of(self, feature: int, /) -> str:
        """Return what a feature is called."""

    def planes(self) -> Iterator[tuple[int, int, Plane]]:
        """Yield the index of a frame, that of a feature, and the label image (Y, X) of both; frames first."""


@dataclass(frozen=True, eq=False)
class LabelPlanes:
    """Label images that are too large for the memory; else as `redis_consumer.arrays.Labels`."""

    by_frame: Sequence[Sequence[Plane]]
    """A plane for each frame and feature, all of one size."""
    names: tuple[str, ...] = ()
    """What each feature is."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Frames, rows, columns and features."""
        first = self.by_frame[0]
        return len(self.by_frame), *first[0].shape, len(first)

    def name_of(self, feature: int) -> str:
        """Return what a feature is called: ``feature_<index>`` where nobody named it."""
        return self.names[feature] if self.names else f"feature_{feature}"

    def planes(self) -> Iterator[tuple[int, int, Plane]]:
        """Yield the index of a frame, that of a feature, and the label image (Y, X) of both; frames first."""
        for frame, features in enumerate(self.by_frame):
            for feature, plane in enumerate(features):
                yield frame, feature, plane

    def count(self) -> int:
        """Return the number of objects, all frames and features together."""
        return sum(len(last_blocks(plane)[0]) for _, _, plane in self.planes())


def walk(plane: Plane) -> Iterator[tuple[Rectangle, npt.NDArray[Any]]]:
    """Yield a plane block by block: where a block lies, and its values."""
    for place in blocks(plane.shape):
        yield place, plane[place]


def last_blocks(labels: Plane) -> tuple[Numbers, Numbers]:
    """Return the labels of a plane, ascending, and for each the number of the last block that shows it."""
    seen = [distinct(values[values != 0])[0] for _, values in walk(labels)]
    numbers = np.repeat(np.arange(len(seen)), [len(some) for some in seen])
    ids, index = distinct(np.concatenate(seen) if seen else np.empty(0, np.int64))
    last = np.zeros(len(ids), np.int64)
    last[index] = numbers  # of several the last one stays
    return ids, last


def distinct(values: npt.NDArray[np.integer]) -> tuple[Numbers, Numbers]:
    """Return the different values, ascending, and for each value its index among them."""
    if not values.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if high - low > WIDEST_RANGE:
        ids, index = np.unique(values, return_inverse=True)
        return ids.astype(np.int64), index
    offset = values.astype(np.int64) - low
    present = np.zeros(high - low + 1, bool)
    present[offset] = True
    return np.flatnonzero(present) + low, (np.cumsum(present) - 1)[offset]
