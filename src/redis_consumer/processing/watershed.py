"""Labels from maps: seeds at the peaks of one map, flooded over another.

The maps come from a model, one number per pixel and output.  Each frame is labelled alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy  # loads its parts at their first use

from redis_consumer.processing import kernels
from redis_consumer.processing.checks import require_finite
from redis_consumer.processing.flooding import flood_places
from redis_consumer.processing.labels import compact, erode, fill_holes, label_places, remove_small
from redis_consumer.processing.maxima import h_maxima, peaks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray

    Floats = npt.NDArray[np.floating]
    LabelImage = npt.NDArray[np.int32]
    Mask = npt.NDArray[np.bool_]

_log = logging.getLogger(__name__)

_TRUNCATE, _NARROWEST = 4, 1e-15  # a Gaussian ends at so many sigmas, and is none at such a sigma: both scipy's
_RANKS = (4, 5)  # frames, rows and columns (or planes, rows and columns), channels


def deep_watershed(
    outputs: Sequence[AnyArray],
    *,
    radius: int = 10,
    maxima_threshold: float = 0.1,
    interior_threshold: float = 0.01,
    maxima_smooth: float = 0,
    interior_smooth: float = 1,
    maxima_index: int = 0,
    interior_index: int = -1,
    label_erosion: int = 0,
    small_objects_threshold: int = 0,
    fill_holes_threshold: int = 0,
    pixel_expansion: int | None = None,
    maxima_algorithm: Literal["h_maxima", "peak_local_max"] = "h_maxima",
    exclude_border: bool = False,
    min_distance: int | None = None,
    detection_threshold: float | None = None,
    distance_threshold: float | None = None,
) -> LabelImage:
    """Return labels (T, Y, X, 1), ids 1 to n in each frame, from the maps of a model.

    `outputs` are arrays (T, Y, X, C), or (T, Z, Y, X, C), alike but for their channels, of which the first counts.
    Seeds are the maxima of output `maxima_index` (for nuclei the distance to the border), flooded over output
    `interior_index` (the foreground) where it exceeds `interior_threshold`.

    `maxima_threshold` is the height of a maximum above its surroundings, with `peak_local_max` its value;
    `radius` says how far the surroundings reach.  `maxima_smooth` and `interior_smooth` are sigmas in pixels, 0
    for none.  Thresholds of 0 pixels are off.  `pixel_expansion` widens the interior by so many pixels.  The last
    three parameters are old names of `radius`, `maxima_threshold` and `interior_threshold`, and win.

    ValueError for maps that do not fit each other, or hold values that are not finite.

    The method: Greenwald et al., "Whole-cell segmentation of tissue images with human-level performance using
    large-scale data annotation and deep learning", Nature Biotechnology 2022.
    """
    radius = radius if min_distance is None else min_distance
    # Plain floats: they are compared in the precision of the maps.
    height = float(maxima_threshold if detection_threshold is None else detection_threshold)
    floor = float(interior_threshold if distance_threshold is None else distance_threshold)
    if maxima_algorithm not in {"h_maxima", "peak_local_max"}:
        raise ValueError(f"maxima_algorithm {maxima_algorithm!r}: allowed are 'h_maxima' and 'peak_local_max'")
    maxima, interior = _pick(outputs, maxima_index, interior_index)
    result = np.empty((*maxima.shape, 1), np.int32)
    for peak_map, interior_map, out in zip(maxima, interior, result[..., 0], strict=True):
        peak_values = _smooth(peak_map, maxima_smooth)
        if maxima_algorithm == "h_maxima":
            seeds = h_maxima(peak_values, height, radius)
        else:
            seeds = peaks(peak_values, height, radius, exclude_border=exclude_border)
        inside = _smooth(interior_map, interior_smooth)
        if pixel_expansion:
            inside = scipy.ndimage.maximum_filter(inside, 2 * pixel_expansion + 1)
        labels = _flood(inside, seeds, inside > floor)
        if label_erosion:
            labels = erode(labels, label_erosion)
        if small_objects_threshold:
            labels = remove_small(labels, small_objects_threshold)
        if fill_holes_threshold and labels.ndim == 2:  # noqa: PLR2004 - rows and columns
            labels = fill_holes(labels, fill_holes_threshold)
        elif fill_holes_threshold:
            _log.warning("Holes are filled in planes only: fill_holes_threshold is ignored")
        out[...] = compact(labels)
    return result


def watershed(
    prediction: AnyArray, min_distance: int = 10, min_size: int = 50, threshold_abs: float = 0.05
) -> LabelImage:
    """Return labels (T, Y, X, 1) of `prediction` (T, Y, X, classes), whose classes are steps of depth.

    Class 0 is background; the last one, above `threshold_abs` and `min_distance` apart, holds the seeds.  Objects
    of fewer than `min_size` pixels are removed, the ids of the others stay.  ValueError for a prediction of another
    rank, or with values that are not finite.
    """
    if prediction.ndim != 4:  # noqa: PLR2004 - the four axes of the layout
        raise ValueError(f"watershed: the prediction has shape {prediction.shape}: expected are (T, Y, X, classes)")
    require_finite(prediction, "watershed: the prediction")
    result = np.empty((*prediction.shape[:3], 1), np.int32)
    for frame, out in zip(prediction, result[..., 0], strict=True):
        depth = np.argmax(frame, axis=-1)
        mask = depth > 0
        deepest = frame[..., -1].astype(np.result_type(frame.dtype, np.float32), copy=False)
        seeds = peaks(deepest, threshold_abs, min_distance, mask=mask)
        out[...] = remove_small(_flood(depth, seeds, mask, corners=False), min_size)
    return result


def _pick(outputs: Sequence[AnyArray], maxima_index: int, interior_index: int) -> tuple[Floats, Floats]:
    """Return the two maps (T, ...) without channels, as floats."""
    shapes = [output.shape for output in outputs]
    for index in (maxima_index, interior_index):
        if not -len(shapes) <= index < len(shapes):
            raise ValueError(f"deep_watershed: the model has {len(shapes)} outputs, there is no output {index}")
    if any(len(shape) not in _RANKS or shape[:-1] != shapes[0][:-1] for shape in shapes):
        raise ValueError(f"deep_watershed: outputs of shapes {shapes}: expected are (T, Y, X, C) of equal T, Y and X")
    maxima, interior = (_map(outputs[index]) for index in (maxima_index, interior_index))
    return maxima, interior


def _map(output: AnyArray) -> Floats:
    """Return the first channel as float32, or as float64 where it is that."""
    if not np.issubdtype(output.dtype, np.floating):
        raise ValueError(f"deep_watershed: an output has dtype {output.dtype}: expected is a model's map of floats")
    # Native, and at their places in memory, whatever the model server gives.
    kind = np.float32 if output.dtype.itemsize <= np.dtype(np.float32).itemsize else np.float64
    values = np.require(output[..., 0], kind, "A")
    require_finite(values, "deep_watershed: an output of the model")
    return values


def _smooth(values: Floats, sigma: float) -> Floats:
    """Return `values` after a Gaussian, in their own precision: labels depend on the last bit where maps tie."""
    if not sigma > _NARROWEST:
        return values
    if values.ndim != 2:  # noqa: PLR2004 - rows and columns
        smooth: Floats = scipy.ndimage.gaussian_filter(values, sigma)
        return smooth
    radius = int(_TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    return kernels.correlate(values, weights / weights.sum())


def _flood(heights: Floats, seeds: Mask, mask: Mask, *, corners: bool = True) -> LabelImage:
    """Return basins around `seeds`, downhill from edge to edge within `mask`, ids in the order of the seeds.

    Seeds that touch, with `corners` even at a corner, are one.
    """
    places = np.flatnonzero(seeds)
    return flood_places(heights, places, label_places(places, seeds.shape, corners=corners), mask)
