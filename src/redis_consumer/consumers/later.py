"""What consumers written from 2020 on ask their base class for: the rules behind its later methods.

Arrays and signatures only; nothing else in this package uses them.  The channel axis of an image that does not say
is guessed as those consumers know it: the first of the shortest axes behind the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.processing import resize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis_consumer.arrays import AnyArray
    from redis_consumer.models.base import TensorSpec

SPATIAL = "ZYX"


def batched(image: AnyArray, rank: int) -> AnyArray:
    """Return `image` with the model's `rank`: the batch axis is added where it is missing; ValueError for others."""
    if image.ndim not in (rank - 1, rank):
        raise ValueError(f"The image has shape {image.shape}: expected are {rank} axes, or {rank - 1} without a batch")
    return image if image.ndim == rank else image[np.newaxis]


def dimension_order(image: AnyArray, spec: TensorSpec) -> str:
    """Return the axes of `image` behind the batch, e.g. ``YXC`` or ``CYX``."""
    shape = batched(image, _rank(spec)).shape[1:]
    axes = SPATIAL[-(len(shape) - 1) :]
    return f"{axes}C" if _channel_axis(shape) == len(shape) - 1 else f"C{axes}"


def valid_input(image: AnyArray, spec: TensorSpec, channels: Sequence[int] | None, most: tuple[int, int]) -> AnyArray:
    """Return `image` as the model takes it: channels last, those of `channels` alone and in this order.

    It keeps its batch axis, or has none.  ValueError for another rank, another number of channels, a channel that is
    not there, or more rows and columns than `most`.
    """
    batch = batched(image, _rank(spec))
    moved = np.moveaxis(batch, 1 + _channel_axis(batch.shape[1:]), -1)
    available, expected = moved.shape[-1], (spec.shape or (None,))[-1]
    if channels is not None:
        if not all(0 <= channel < available for channel in channels):
            raise ValueError(f"The channels are {list(channels)}: allowed are 0 to {available - 1}")
        moved = moved[..., list(channels)]
    if expected is not None and moved.shape[-1] != expected:
        raise ValueError(f"The image has {moved.shape[-1]} channels, the model takes {expected}")
    height, width = moved.shape[-3:-1]
    if height > most[0] or width > most[1]:
        raise ValueError(f"The image has {height} x {width} pixels: allowed are {most[0]} x {most[1]}")
    return moved if image.ndim == batch.ndim else moved[0]


def resized(array: AnyArray, wanted: Sequence[int] | float | None) -> AnyArray:
    """Return an image (Y, X, C) or (B, Y, X, C) in another size; labels stay labels.

    `wanted` are rows and columns, or a shape with channels, and a batch, around them; or the scale that is undone.
    """
    if wanted is None:
        return array
    batch = batched(array, 4)
    rows, columns = batch.shape[1:3]
    if isinstance(wanted, int | float):
        size = (round(rows / wanted), round(columns / wanted))
    else:
        size = (int(wanted[-3]), int(wanted[-2])) if len(wanted) > 2 else (int(wanted[0]), int(wanted[1]))  # noqa: PLR2004 - rows and columns alone
    made = resize(batch, size, labels=np.issubdtype(array.dtype, np.integer))
    return made if array.ndim == batch.ndim else made[0]


def _rank(spec: TensorSpec) -> int:
    return len(spec.shape or (None, None, None, None))


def _channel_axis(shape: tuple[int, ...]) -> int:
    return int(np.argmin(shape))
