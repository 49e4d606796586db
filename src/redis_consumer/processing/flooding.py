"""Seeded watershed, piece by piece of the mask: the basins are scikit-image's, in less than half of its time.

scikit-image takes the pixels of an image from one queue, by height and then by age.  That of a large image does not
fit into a processor's cache, though most of its pixels have nothing to do with each other.  Here each connected
piece of the mask is flooded alone, and a piece with one seed not at all.

The result is the same.  Which of two basins gets a pixel between them depends on the order in which the queue takes
their own pixels, and height and age order those alone as they do amid all others.  But seeds of equal height are of
equal age too, and the queue takes them in an order that depends on everything else in it.  (Among pixels of one seed
that changes nothing.)  So where basins touch whose seeds tie, `ties` has to show that the height decided
between them and not the age; else the whole image is flooded at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # both load their parts at their first use

from redis_consumer.processing import kernels, ties
from redis_consumer.processing.kernels import plain
from redis_consumer.processing.labels import looked_up, neighbourhood
from redis_consumer.scikit import ski

if TYPE_CHECKING:
    import numpy.typing as npt

    Heights = npt.NDArray[Any]  # floats or signed integers
    Ids = npt.NDArray[np.integer]
    Indices = npt.NDArray[np.intp]
    LabelImage = npt.NDArray[np.int32]
    Mask = npt.NDArray[np.bool_]

_CONTESTED = -1


def flood(heights: Heights, markers: Ids, mask: Mask) -> LabelImage:
    """Return basins around `markers`, downhill from edge to edge within `mask`; any rank, ids kept.

    Equal to `skimage.segmentation.watershed(-heights, markers, mask=mask)` in every pixel.  What no marker reaches
    is 0, and a marker outside the mask does not count.
    """
    places = np.flatnonzero(markers)
    return flood_places(heights, places, markers.flat[places], mask)


def flood_places(heights: Heights, places: Indices, ids: Ids, mask: Mask) -> LabelImage:
    """Return what `flood` does where the pixels of markers are known: `places` in a flat image, and their ids."""
    pieces, count = scipy.ndimage.label(mask, neighbourhood(mask.ndim, corners=False))
    inside = pieces.flat[places] > 0
    places, marker = places[inside], ids[inside]
    if not places.size:
        return np.zeros(mask.shape, np.int32)
    piece = pieces.flat[places]
    tied = ties.of_seeds(piece, marker, heights.flat[places])
    if ties.too_many(tied):
        return _at_once(np.negative(heights), _marked(mask.shape, places, marker), mask)
    owners = _owners(piece, marker, count)
    basins = looked_up(np.maximum(owners, 0), pieces)
    contested = owners[piece] == _CONTESTED
    if contested.any():
        by_piece = np.argsort(piece[contested], kind="stable")
        seeds = places[contested][by_piece]
        basins.flat[seeds] = marker[contested][by_piece]
        _flood_pieces(heights, pieces, seeds, basins)
    del pieces  # as large as the image
    if tied.any():
        markers = _marked(mask.shape, places, marker)
        if ties.may_matter(tied, basins, heights, markers):
            return _at_once(np.negative(heights), markers, mask)
    return basins


def _marked(shape: tuple[int, ...], places: Indices, ids: Ids) -> Ids:
    markers = np.zeros(shape, ids.dtype)
    markers.flat[places] = ids
    return markers


def _at_once(levels: Heights, markers: Ids, mask: Mask) -> LabelImage:
    basins: LabelImage = ski.segmentation.watershed(levels, markers, mask=mask)
    return basins


def _flood_pieces(heights: Heights, pieces: Ids, seeds: Indices, basins: LabelImage) -> None:
    flat = heights.ndim == 2  # noqa: PLR2004 - rows and columns: what is compiled
    native = heights.dtype in {np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)}
    small = pieces.dtype == np.int32  # scipy labels images beyond 2**31 pixels in int64
    (kernels.flood if flat and native and small else plain.flood)(heights, pieces, seeds, basins)


def _owners(piece: Ids, marker: Ids, count: int) -> LabelImage:
    """Return for each of `count` pieces, and the background, its one marker, 0 for none, or that it is contested."""
    lowest, highest = np.full(count + 1, np.iinfo(np.int32).max, np.int32), np.zeros(count + 1, np.int32)
    np.minimum.at(lowest, piece, marker)
    np.maximum.at(highest, piece, marker)
    highest[lowest < highest] = _CONTESTED
    return highest
