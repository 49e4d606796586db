"""Array functions that only consumers written for the first Kiosk still call, through `redis_consumer.utils`."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from redis_consumer.arrays import AnyArray


def rescale_nearest(image: AnyArray, scale: float, channel_axis: int = -1) -> AnyArray:
    """Return `image`, (Y, X) or with channels on `channel_axis`, with rows and columns times `scale`, rounded.

    Each pixel is the nearest one at half-pixel centres, of two equally near the second (the original's choice
    was rounding noise); nothing is smoothed.  Floating types are kept, others become float64.  With `scale` 1,
    `image` itself is returned.
    """
    if scale == 1:
        return image
    if image.ndim not in (2, 3):
        raise ValueError(
            f"cannot rescale an array of shape {image.shape}: allowed are two axes, or three with channels"
        )
    channels = channel_axis % image.ndim if image.ndim == 3 else None  # noqa: PLR2004 - rows, columns, channels
    result = image if np.issubdtype(image.dtype, np.floating) else image.astype(np.float64)
    for axis in (axis for axis in range(image.ndim) if axis != channels):
        size = image.shape[axis]
        new = max(round(size * scale), 1)
        nearest = np.floor((np.arange(new) + 0.5) * (size / new)).astype(np.intp)
        result = result.take(np.minimum(nearest, size - 1), axis=axis)
    return result


def cut_square(array: AnyArray, size: int, *, channels_first: bool = False) -> AnyArray:
    """Return tiles of `size` rows and columns of `array`, (B, Y, X, C) or (B, C, Y, X), without overlap.

    The last tile of each axis ends with the image.  Tiles come row by row, image by image.  ValueError where the
    image is smaller than a tile.
    """
    first = 2 if channels_first else 1
    rows, columns = array.shape[first : first + 2]
    if min(rows, columns) < size:
        raise ValueError(f"cannot cut tiles of {size} pixels from an image of {rows} x {columns}")
    tiles = []
    for index, top, left in product(range(array.shape[0]), _starts(rows, size), _starts(columns, size)):
        window = (slice(top, top + size), slice(left, left + size))
        tiles.append(array[(index, slice(None), *window) if channels_first else (index, *window)])
    return np.stack(tiles)


def _starts(length: int, size: int) -> list[int]:
    return [min(start, length - size) for start in range(0, length, size)]


def pad_reflected(image: AnyArray, field: int) -> AnyArray:
    """Return `image`, (..., Y, X, C), mirrored outwards by half a receptive `field` on each side."""
    width = (field - 1) // 2
    return np.pad(
        image, [(width, width) if axis - image.ndim in (-3, -2) else (0, 0) for axis in range(image.ndim)], "reflect"
    )
