"""Grey values on the scale that the models were trained on.

Arrays in, arrays out, shape (T, Y, X, C); every plane (one frame, one channel) is treated alone.  Knows nothing of
models: which function belongs to which model is the job's or the consumer's choice.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from redis_consumer.processing.checks import require_finite
from redis_consumer.processing.clahe import equalized
from redis_consumer.processing.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray, Image

    Plane = npt.NDArray[Any]  # numbers, (Y, X)

_log = logging.getLogger(__name__)


def normalize(image: AnyArray, epsilon: float = 1e-7) -> Image:
    """Return float32 planes of mean 0 and standard deviation 1; a constant plane becomes zeros.

    Any rank from 2, first axis the frames, last axis the channels.  ValueError for values that are not finite.
    """
    return _by_plane(image, lambda plane: Moments().joined(plane).standardized(plane, epsilon), np.float32)


def histogram_normalization(image: AnyArray, kernel_size: int | None = None) -> Image:
    """Return float32 planes whose grey values span 0 to 1, contrast equalized locally; a constant plane is zeros.

    The method is that of `redis_consumer.processing.clahe`.  `kernel_size` is the side of a region in pixels; None is
    an eighth of the plane on either axis, so that the result depends on the size of the whole image: call this before
    cutting tiles.  ValueError for values that are not finite.
    """

    def equalize(plane: Plane) -> Plane:
        if plane.min() == plane.max():
            _log.warning("A plane of the image is constant; it is normalized to zeros")
            return np.zeros_like(plane)
        return equalized(plane, kernel_size)

    return _by_plane(image, equalize, np.float32)


def percentile_threshold(image: AnyArray, percentile: float = 99.9) -> AnyArray:
    """Return a copy in which nothing exceeds the percentile of its plane's non-zero pixels; dtype kept.

    Pixels that are zero do not count: they are usually padding.  For integers the percentile is truncated.
    """

    def limit(plane: Plane) -> Plane:
        nonzero = plane[plane != 0]
        if not nonzero.size:
            return plane.copy()
        highest = np.percentile(nonzero, percentile)
        return np.where(plane > highest, highest, plane)

    return _by_plane(image, limit, image.dtype)


def min_max_normalize(image: AnyArray, *, clip: bool = False) -> Image:
    """Return float32 planes whose grey values span 0 to 1; a constant plane becomes zeros.

    With `clip` each plane is first limited to its percentiles 0.01 and 99.9.
    """

    def span(plane: Plane) -> Plane:
        if clip:
            plane = np.clip(plane, *np.percentile(plane, (0.01, 99.9)))
        low, high = plane.min(), plane.max()
        spanned: Plane = (plane - low) / ((high - low) or 1)
        return spanned

    return _by_plane(image, span, np.float32)


def mesmer_preprocess(
    image: AnyArray,
    *,
    threshold: bool = True,
    percentile: float = 99.9,
    normalize: bool = True,
    kernel_size: int | None = 128,
) -> AnyArray:
    """Return what the multiplex model expects: bright specks cut off, then contrast equalized."""
    if threshold:
        image = percentile_threshold(image, percentile)
    return histogram_normalization(image, kernel_size) if normalize else image


def _by_plane(image: npt.NDArray[Any], work: Callable[[Plane], Plane], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return what `work` makes of every plane (one entry of the first axis, one of the last), each given as `dtype`.

    `image` is not copied as a whole, and is not changed; `work` gets planes that it must not change.
    """
    if image.ndim < 2:  # noqa: PLR2004 - an axis of frames and one of channels
        raise ValueError(f"the image has shape {image.shape}: expected are frames first and channels last")

    def worked(plane: Plane) -> Plane:
        plane = plane.astype(dtype, copy=False)
        require_finite(plane, "the image")
        return work(plane).astype(dtype, copy=False) if plane.size else plane.copy()

    if image.shape[0] == image.shape[-1] == 1:
        return worked(image[0, ..., 0]).reshape(image.shape)
    result = np.empty(image.shape, dtype)
    for frame, out in zip(image, result, strict=True):
        for channel in range(image.shape[-1]):
            out[..., channel] = worked(frame[..., channel])
    return result
