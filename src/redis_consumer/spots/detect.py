"""Points from a model's two maps: how likely a pixel is nearest to a spot, and where in or beside it the spot is.

The model normalizes nothing: its image goes through `redis_consumer.processing.min_max_normalize` first, with `clip`
where bright specks are to be cut off.

Four ways from maps to points; the Kiosk uses the first.  In all of them the offset of a pixel is added as it is, even
where it leads out of the pixel or the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy  # both load their parts at their first use

from redis_consumer.scikit import ski

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_consumer.arrays import AnyArray

    Map = npt.NDArray[Any]  # floats, (Y, X)
    Mask = npt.NDArray[np.bool_]

Points: TypeAlias = npt.NDArray[np.float64]
"""Spots of one image, (N, 2): row and column."""

_TWO = 2  # classes (no spot, spot), and offsets (rows, columns)
_HALF = 0.5  # a pixel


def detect_spots(
    classification: AnyArray, offsets: AnyArray, *, threshold: float = 0.95, min_distance: int = 1
) -> list[Points]:
    """Return the spots of each image as the Kiosk does: `spots_at_maxima`, neighbours allowed.

    The arguments are the model's outputs `classification` and `offset_regression`, in the order of their names.
    """
    return spots_at_maxima(classification, offsets, threshold=float(threshold), min_distance=min_distance)


def spots_at_maxima(
    classification: AnyArray, offsets: AnyArray, *, threshold: float = 0.95, min_distance: int = 2
) -> list[Points]:
    """Return for each image a spot for every local maximum above `threshold`, the most likely first.

    `classification` (T, Y, X, 2) holds the probabilities of no spot and of a spot, `offsets` (T, Y, X, 2) how far
    the spot is from the pixel's centre in rows and in columns.  A maximum is the highest within `min_distance` rows
    and columns; of two that are closer the more likely one stays, of equals the one that comes first by row and
    column.  Pixels within `min_distance` of the border are no spots.  A constant map has none.

    The result is a list, one array (N, 2) for each image, (0, 2) where there is no spot; the original packed them into
    one array, which needs equal numbers.  ValueError for maps of other shapes, values that are not finite, or a
    threshold outside 0 to 1.
    """

    def find(probability: Map, offset: Map) -> Points:
        places = ski.feature.peak_local_max(
            probability, min_distance=min_distance, threshold_abs=threshold, exclude_border=min_distance
        )
        return _moved(places, offset)

    return _by_image(classification, offsets, threshold, find)


def spots_at_pixels(classification: AnyArray, offsets: AnyArray, *, threshold: float = 0.95) -> list[Points]:
    """Return for each image a spot for every pixel above `threshold`, by row and column; else as `spots_at_maxima`."""
    return _by_image(
        classification, offsets, threshold, lambda probability, offset: _moved(_above(probability, threshold), offset)
    )


def spots_within_pixels(classification: AnyArray, offsets: AnyArray, *, threshold: float = 0.95) -> list[Points]:
    """Return what `spots_at_pixels` does, without spots more than half a row or column from their pixel's centre."""

    def find(probability: Map, offset: Map) -> Points:
        places = _above(probability, threshold)
        near = (np.abs(offset[tuple(places.T)]) <= _HALF).all(axis=-1)
        return _moved(places[near], offset)

    return _by_image(classification, offsets, threshold, find)


def spots_at_regions(classification: AnyArray, offsets: AnyArray, *, threshold: float = 0.95) -> list[Points]:
    """Return for each image a spot for every region above `threshold`: the mean of its pixels' spots.

    Pixels are connected by edges and corners; regions come by their first pixel.  Else as `spots_at_maxima`.
    """

    def find(probability: Map, offset: Map) -> Points:
        places = _above(probability, threshold)
        regions, count = scipy.ndimage.label(probability > threshold, np.ones((3, 3)))
        region = regions[tuple(places.T)] - 1
        sizes = np.bincount(region, minlength=count)
        sums = [np.bincount(region, axis, count) for axis in _moved(places, offset).T]
        return np.stack(sums, axis=-1) / sizes[:, None]

    return _by_image(classification, offsets, threshold, find)


def _by_image(
    classification: AnyArray, offsets: AnyArray, threshold: float, find: Callable[[Map, Map], Points]
) -> list[Points]:
    if not 0 <= threshold <= 1:
        raise ValueError(f"spots: the threshold is {threshold}: allowed is 0 to 1")
    for name, head in (("classification", classification), ("offset regression", offsets)):
        if head.ndim != 4 or head.shape[-1] != _TWO or head.shape[:3] != classification.shape[:3]:  # noqa: PLR2004 - the four axes of the layout
            raise ValueError(f"spots: the {name} has shape {head.shape}: expected are (T, Y, X, 2), alike")
        if not np.isfinite(head).all():
            raise ValueError(f"spots: the {name} holds values that are not finite (NaN or infinity)")
    if 0 in classification.shape:
        return [np.empty((0, 2)) for _ in classification]
    # scipy's filters know no half precision.
    probabilities = classification[..., 1].astype(np.result_type(classification.dtype, np.float32), copy=False)
    return [find(probability, offset) for probability, offset in zip(probabilities, offsets, strict=True)]


def _above(probability: Map, threshold: float) -> npt.NDArray[np.intp]:
    """Return the places (N, 2) of the pixels above `threshold`, by row and column."""
    return np.argwhere(probability > threshold)


def _moved(places: npt.NDArray[np.integer], offset: Map) -> Points:
    points: Points = places + offset[tuple(places.T)].astype(np.float64)
    return points.reshape(-1, 2)
