"""Label images tidied: edges, small objects, holes, ids.

A label image is an integer array, 0 is background, every other value one object.  These functions take one image,
(Y, X), or, where they say so, any number of axes.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # loads its parts at their first use

from redis_consumer.processing import kernels

if TYPE_CHECKING:
    import numpy.typing as npt

    LabelImage = npt.NDArray[np.int32]

_SHAPES = 32  # of images, whose steps are kept


def erode(labels: LabelImage, width: int) -> LabelImage:
    """Return `labels` without the outermost `width` pixels of each object.

    A pixel is outermost where an edge neighbour has another value; the border of the image is none.  Any rank.
    """
    result = labels.copy()
    for _ in range(width):
        outermost = np.zeros(result.shape, bool)
        for axis in range(result.ndim):
            pixels, edges = np.moveaxis(result, axis, 0), np.moveaxis(outermost, axis, 0)
            differ = pixels[1:] != pixels[:-1]
            edges[1:] |= differ
            edges[:-1] |= differ
        result[outermost] = 0
    return result


def label_places(places: npt.NDArray[np.intp], shape: tuple[int, ...], *, corners: bool = True) -> LabelImage:
    """Return labels of the connected pieces of few pixels, one for each: `places`, ascending in an image of `shape`.

    It is flat, of any rank.  With `corners` they connect across corners too.  Most often no two of them touch, which is
    seen without an image.
    """
    # Steps across the border lead to the next row: then labelling decides.
    if not kernels.touch(places, _steps_ahead(shape, corners=corners)):
        return np.arange(1, places.size + 1, dtype=np.int32)
    image = np.zeros(shape, bool)
    image.flat[places] = True
    labels = np.empty(shape, np.int32)
    scipy.ndimage.label(image, neighbourhood(len(shape), corners=corners), output=labels)
    return labels.flat[places]


@cache
def neighbourhood(rank: int, *, corners: bool) -> npt.NDArray[np.bool_]:
    """Return which pixels around one are its neighbours, at its edges, with `corners` at its corners too."""
    structure: npt.NDArray[np.bool_] = scipy.ndimage.generate_binary_structure(rank, rank if corners else 1)
    structure.flags.writeable = False  # it is kept
    return structure


@lru_cache(maxsize=_SHAPES)
def _steps_ahead(shape: tuple[int, ...], *, corners: bool) -> npt.NDArray[np.intp]:
    """Return the steps in a flat image of `shape` to those neighbours of a pixel that come after it."""
    strides = np.append(np.cumprod(shape[:0:-1])[::-1], 1)
    steps = (np.argwhere(neighbourhood(len(shape), corners=corners)) - 1) @ strides
    return np.ascontiguousarray(steps[steps > 0], np.intp)


def remove_small(labels: npt.NDArray[np.integer], min_size: int) -> LabelImage:
    """Return `labels` without objects of fewer than `min_size` pixels; ids stay.  Any rank.

    An object is all pixels of an id, connected or not.
    """
    sizes = kernels.sizes(_flat(labels)[np.newaxis])
    kept = np.arange(sizes.size, dtype=np.int32)
    kept[sizes < min_size] = 0
    return looked_up(kept, labels)


def compact(labels: LabelImage) -> LabelImage:
    """Return `labels` with ids 1 to n, in the order of the old ones; where they are that already, itself.  Any rank."""
    present = kernels.sizes(_flat(labels)[np.newaxis]) > 0
    present[0] = False
    ids = np.cumsum(present, dtype=np.int32)
    return labels if ids[-1] == ids.size - 1 else looked_up(ids, labels)


def looked_up(table: LabelImage, labels: npt.NDArray[np.integer]) -> LabelImage:
    """Return `table[labels]`.  Any rank.  IndexError for a label that the table does not have."""
    result = np.empty(labels.shape, np.int32)
    kernels.look_up(table, _flat(labels), result.reshape(-1))
    return result


def _flat(labels: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
    """Return labels as the kernels take them."""
    kind = np.int32 if labels.dtype == np.int32 else np.int64
    return np.ascontiguousarray(labels, kind).reshape(-1)


def fill_holes(labels: LabelImage, size: int) -> LabelImage:
    """Return `labels` (Y, X) with holes of fewer than `size` pixels filled.

    For every object with a hole, each edge-connected region of other pixels within its bounding box that is
    smaller than `size` becomes part of it: also a notch at the box's edge, and also a small cell of its own.
    That is how the published results were made; an object without a hole stays as it is.
    """
    result = labels.copy()
    boxes = scipy.ndimage.find_objects(labels) if labels.size else []
    for label in np.flatnonzero(_euler_numbers(labels) < 1):
        box = boxes[label - 1] if label else None
        if box is None:
            continue
        patch = result[box]
        regions, _ = scipy.ndimage.label(patch != label)
        small = np.bincount(regions.ravel()) < size
        small[0] = False
        patch[small[regions]] = label
    return result


def _euler_numbers(labels: LabelImage) -> npt.NDArray[np.intp]:
    """Return for each id its pieces (touching at corners counts) minus its holes.

    Pixels are closed squares: faces minus sides plus corners, each counted once for an id (Euler's formula).
    """
    padded = np.pad(labels, 1)
    count = int(labels.max(initial=0)) + 1

    def occurrences(values: LabelImage, where: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.intp]:
        return np.bincount(values.ravel() if where is None else values[where], minlength=count)

    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    corners = (
        occurrences(a)
        + occurrences(b, b != a)
        + occurrences(c, (c != a) & (c != b))
        + occurrences(d, (d != a) & (d != b) & (d != c))
    )
    shared = occurrences(labels[1:], labels[1:] == labels[:-1]) + occurrences(
        labels[:, 1:], labels[:, 1:] == labels[:, :-1]
    )
    faces = occurrences(labels)
    return faces - (4 * faces - shared) + corners
