"""Peaks of a map: the seeds of a watershed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import skimage as ski  # loads its parts at their first use

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating]
    Mask = npt.NDArray[np.bool_]


def h_maxima(values: Floats, h: float, radius: int) -> Mask:
    """Return where `values` (any rank) has a maximum that stands at least `h` above its surroundings.

    Pixels up to `radius` apart count as neighbours, so a peak must rise by `h` above every path of such
    steps to a higher one.  A map that spans less than `h` has none.
    """
    footprint = ski.morphology.disk(radius) if values.ndim == 2 else ski.morphology.ball(radius)  # noqa: PLR2004 - axes
    mask: Mask = ski.morphology.h_maxima(values, float(h), footprint=footprint).astype(bool)
    return mask


def peaks(
    values: Floats, threshold: float, radius: int, *, exclude_border: bool = False, mask: Mask | None = None
) -> Mask:
    """Return the single pixels that are the highest within `radius` rows and columns, above `threshold`.

    Of two peaks closer than `radius` the higher one stays.  A constant map has none.  With `exclude_border`,
    peaks within `radius` of the border do not count; with `mask`, nothing outside it does.
    """
    labels = None if mask is None else mask.astype(np.uint8)
    places = ski.feature.peak_local_max(
        values, min_distance=radius, threshold_abs=threshold, exclude_border=exclude_border, labels=labels
    )
    found = np.zeros(values.shape, bool)
    found[tuple(places.T)] = True
    return found
