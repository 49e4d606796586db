"""Labels from edges and interiors: cores of cells that grow until they touch (the `mibi` post-processing)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy  # loads its parts at their first use

from redis_consumer.processing.checks import require_finite
from redis_consumer.processing.labels import remove_small

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray

    LabelImage = npt.NDArray[np.int32]
    Mask = npt.NDArray[np.bool_]

_SMALLEST_CORE = 50  # pixels


def mibi(prediction: AnyArray, edge_threshold: float = 0.25, interior_threshold: float = 0.25) -> LabelImage:
    """Return labels (T, Y, X, 1) of `prediction` (T, Y, X, classes): class 0 is edge, class 1 interior.

    A core is interior and no edge (both from their threshold on), connected, of 50 pixels at least.  Cores grow over
    the interior, their outlines smoothed on the way, and at last a little beyond it.  Sizes are not looked at again
    and ids may have gaps: an outline may lose a whole object.

    The original kept ids in 16 bits, so that those above 65,535 began again at 0; here they do not.  ValueError for
    a prediction without these classes, or with values that are not finite.
    """
    if prediction.ndim != 4 or prediction.shape[-1] < 2:  # noqa: PLR2004 - the layout; edge and interior
        raise ValueError(
            f"mibi: the prediction has shape {prediction.shape}: expected are (T, Y, X, edge and interior)"
        )
    require_finite(prediction, "mibi: the prediction")
    result = np.empty((*prediction.shape[:3], 1), np.int32)
    for frame, out in zip(prediction, result[..., 0], strict=True):
        interior = np.greater_equal(frame[..., 1], interior_threshold)
        edge = np.greater_equal(frame[..., 0], edge_threshold)
        out[...] = _grown(_cores(interior & ~edge), interior)
    return result


def _cores(foreground: Mask) -> LabelImage:
    regions, _ = scipy.ndimage.label(foreground)
    large = remove_small(regions, _SMALLEST_CORE) > 0
    cores, _ = scipy.ndimage.label(large, np.ones((3, 3)))
    return cores.astype(np.int32, copy=False)


def _grown(labels: LabelImage, interior: Mask) -> LabelImage:
    """Grow and smooth `labels`; the numbers of turns are those that the published results were made with."""
    for _ in range(8):
        labels = _shrink(_grow(_grow(labels, interior), interior))
    labels = _grow(_grow(labels, interior), interior)
    for _ in range(2):
        labels = _shrink(_shrink(_grow(labels)))
    return labels


def _grow(labels: LabelImage, within: Mask | None = None) -> LabelImage:
    """Give background pixels the largest id beside them, by their edges."""
    free = labels == 0 if within is None else (labels == 0) & within
    return np.where(free, _around(labels, np.maximum), labels)


def _shrink(labels: LabelImage) -> LabelImage:
    """Take from each object the pixels beside a smaller id, which the background is too."""
    return np.where(_around(labels, np.minimum) == labels, labels, 0)


def _around(labels: LabelImage, extreme: np.ufunc) -> LabelImage:
    """Return the `extreme` of every pixel and its four neighbours; the border has fewer."""
    result = labels.copy()
    for axis in range(labels.ndim):
        pixels, out = np.moveaxis(labels, axis, 0), np.moveaxis(result, axis, 0)
        extreme(out[1:], pixels[:-1], out=out[1:])
        extreme(out[:-1], pixels[1:], out=out[:-1])
    return result
