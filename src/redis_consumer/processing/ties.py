"""Seeds of equal height, and whether a watershed may depend on which of them comes first.

The queue of a watershed rises: it takes a pixel when the flood has reached the pixel's level, that of the lowest pass
on a way there from the basin's own seed.  A pixel between two basins goes to the one whose neighbouring pixel is taken
first.  If one such neighbour has a lower level than all those of the other basin, it is first in any order of seeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # both load their parts at their first use

from redis_consumer.processing.labels import neighbourhood
from redis_consumer.scikit import ski

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Heights = npt.NDArray[Any]
    Ids = npt.NDArray[np.integer]
    Places = npt.NDArray[np.intp]  # in a flat, padded image

_SEVERAL = -1
_MOST_SHARE = 0.5  # of the seeds
_MOST_BASINS = 500  # whose levels are worth knowing: it takes half a millisecond each


def of_seeds(piece: Ids, marker: Ids, height: Heights) -> Ids:
    """Return for every marker's id with which others it ties: a number they share, 0 for none.

    The arguments tell for each pixel of a marker its piece of the mask, its id, and its height.  Seeds tie when pixels
    of them have the same height in the same piece.  One that ties in several pixels is taken to tie with all.
    """
    order = np.lexsort((marker, height, piece))
    piece, marker, height = piece[order], marker[order], height[order]
    first = np.append(True, (piece[1:] != piece[:-1]) | (height[1:] != height[:-1]))
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], piece.size)
    group = np.repeat(np.where(marker[starts] != marker[ends - 1], np.arange(1, starts.size + 1), 0), ends - starts)
    tied = np.zeros(int(marker.max()) + 1, np.intp)
    tied[marker[group > 0]] = group[group > 0]
    tied[np.bincount(marker[group > 0], minlength=tied.size) > 1] = _SEVERAL
    return tied


def too_many(tied: Ids) -> bool:
    """Return whether so many seeds tie that looking closer is a waste of time."""
    return int(np.count_nonzero(tied)) > _MOST_SHARE * max(tied.size - 1, _MOST_BASINS)


def may_matter(tied: Ids, basins: Ids, heights: Heights, markers: Ids) -> bool:
    """Return whether `basins`, flooded downhill in one order of seeds, may look different in another."""
    ids = np.pad(basins, 1)
    steps = [stride // ids.itemsize for stride in ids.strides]
    ids = ids.ravel()
    one, other = _contacts(ids, steps, tied)
    suspects = np.unique(ids[one])
    if suspects.size > _MOST_BASINS:
        return True
    levels = _levels(suspects, basins, heights, markers).ravel()
    free = np.pad(markers == 0, 1).ravel()[one]
    one, other = one[free], other[free]
    around = one[:, None] + np.array([*steps, *(-step for step in steps)])
    first = np.where(ids[around] == ids[one, None], levels[around], np.inf).min(axis=1, initial=np.inf)
    return bool((first >= levels[other]).any())


def _contacts(ids: Ids, steps: Sequence[int], tied: Ids) -> tuple[Places, Places]:
    """Return each pixel beside another basin with whose seed its own one ties, and the other basin's pixel."""
    pairs = []
    for step in steps:
        between = np.flatnonzero((ids[:-step] != ids[step:]) & (ids[:-step] > 0) & (ids[step:] > 0))
        one, other = tied[ids[between]], tied[ids[between + step]]
        alike = (one != 0) & (other != 0) & ((one == other) | (one == _SEVERAL) | (other == _SEVERAL))
        pairs += [(between[alike], between[alike] + step), (between[alike] + step, between[alike])]
    return np.concatenate([one for one, _ in pairs]), np.concatenate([other for _, other in pairs])


def _levels(chosen: Ids, basins: Ids, heights: Heights, markers: Ids) -> npt.NDArray[np.float64]:
    """Return the level of each pixel of the `chosen` basins, that is, minus the height of the lowest pass; else 0.

    One pixel wider on every side than the image.
    """
    padded = np.zeros([size + 2 for size in basins.shape])
    result = padded[(slice(1, -1),) * basins.ndim]
    edges = neighbourhood(basins.ndim, corners=False)
    boxes = scipy.ndimage.find_objects(basins)
    for basin in chosen.tolist():
        box = boxes[basin - 1]
        inside = basins[box] == basin
        ground = np.negative(heights[box], dtype=np.float64)
        top = ground.max()
        flooded = np.where(inside & (markers[box] > 0), ground, top)
        level = ski.morphology.reconstruction(flooded, np.where(inside, ground, top), "erosion", footprint=edges)
        np.copyto(result[box], level, where=inside)
    return padded
