"""Label images compared: whether two ways of making them find the same objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def differing_objects(first: npt.NDArray[np.integer], second: npt.NDArray[np.integer]) -> tuple[int, int]:
    """Return how many objects of each label image are not one of the other, pixel for pixel; ids do not matter.

    Any rank, both alike.
    """
    pairs = np.stack([first.ravel(), second.ravel()]).astype(np.int64)
    (a, b), counts = np.unique(pairs, axis=1, return_counts=True)
    sizes = [np.bincount(labels) for labels in pairs]
    same = np.count_nonzero((a > 0) & (b > 0) & (counts == sizes[0][a]) & (counts == sizes[1][b]))
    of_first, of_second = (int(np.count_nonzero(size[1:]) - same) for size in sizes)
    return of_first, of_second
