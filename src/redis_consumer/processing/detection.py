"""Scale and label of an image by a model: how it is cut, and what the model's answers come to.

The model sees pieces of the image and answers each with a scale, or with scores for the kinds of image.  Knows no
models: asking one is the caller's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from redis_consumer.processing.old import cut_square
from redis_consumer.processing.tiling import tile

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray

_AS_IT_IS = 0.01
"""A scale nearer to 1 than this is 1: the image need not be resized."""


def detection_tiles(image: AnyArray, size: tuple[int, int]) -> AnyArray:
    """Return tiles (N, *size, C) of `image` (T, Y, X, C) for a detection model of that input size; dtype kept.

    The image is neither normalized nor resized: the models do that.  Tiles overlap by a quarter; zeros fill up
    the last ones, and weigh in like other pixels.  An axis shorter than a tile is reflected.
    """
    tiles, _ = tile(image, size, stride_ratio=0.75, pad_mode="constant")
    return tiles


def sampled_tiles(image: AnyArray, size: int = 216, every: int = 3) -> AnyArray:
    """Return every third tile (N, size, size, C) of `image` (T, Y, X, C), as the first Kiosk did; dtype kept.

    Tiles do not overlap, but for the last of each axis, which ends with the image.  An image smaller than a tile on
    either axis is returned whole.
    """
    if min(image.shape[1:3]) < size:
        return image
    return cut_square(image, size)[::every]


def detected_scale(predictions: AnyArray) -> float:
    """Return the mean of the scales that a model predicts for tiles, any shape; one within 0.01 of 1 is 1.

    ValueError without predictions, or with one that is not finite.
    """
    mean = float(_checked(predictions).mean())
    return 1.0 if abs(mean - 1) < _AS_IT_IS else mean


def detected_label(predictions: AnyArray) -> int:
    """Return the class (last axis) with the largest sum of scores over all tiles, the first one of equals.

    ValueError as for a scale.
    """
    scores = _checked(predictions)
    return int(scores.reshape(-1, scores.shape[-1]).sum(axis=0).argmax())


def _checked(predictions: AnyArray) -> npt.NDArray[Any]:
    """Return the predictions; sums are in their own precision, as the original has them."""
    if predictions.size == 0 or not np.isfinite(predictions).all():
        raise ValueError(f"a detection model predicted values of shape {predictions.shape}: expected are finite ones")
    return predictions
