"""A plane in pieces: rows, columns and the values there.

Together the blocks of a plane cover it, each pixel once, in the order of their first rows and then of their first
columns.  A block has at most `BLOCK_VALUES` values or, if that is more, one row of the plane or one of its tiles.
Knows no format.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.errors import JobRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_consumer.arrays import AnyArray
    from redis_consumer.images.source import BinaryFile

Block = tuple[slice, slice, "AnyArray"]
"""Rows, columns, and the values there, (rows, columns)."""
BLOCK_VALUES = 2**22
MOST_TOGETHER = 2**26
"""Values that are decoded at once for a block, where the file allows no less: those of 8192 x 8192 pixels."""


def check_together(name: str, values: int) -> None:
    """JobRejected where so many values of an image are to be had only together: it would not go by blocks at all."""
    if values > MOST_TOGETHER:
        raise JobRejected(
            f"The image {name!r} has {values} values that are decoded only together: allowed are {MOST_TOGETHER}; "
            "save it as a TIFF with tiles, or as OME-Zarr"
        )


def cut(values: AnyArray, top: int = 0, left: int = 0) -> Iterator[Block]:
    """Yield a part of a plane, whose first pixel is at row `top` and column `left`, as blocks: views of `values`."""
    height, width = values.shape
    step = max(1, BLOCK_VALUES // width)
    for first in range(0, height, step):
        piece = values[first : first + step]
        yield slice(top + first, top + first + len(piece)), slice(left, left + width), piece


@dataclass(frozen=True, slots=True)
class Plane:
    """One frame of one channel, as rows and columns of an array of more axes."""

    at: tuple[int, ...]
    """The index along each axis of the array; 0 along those of rows and columns."""
    rows: int
    """The axis of the rows."""
    columns: int
    """The axis of the columns."""

    def within(self, at: tuple[int, ...]) -> tuple[int | slice, ...]:
        """Return what an array with the same axes is indexed with for the plane of it at `at`."""
        return tuple(slice(None) if axis in (self.rows, self.columns) else i for axis, i in enumerate(at))

    def steps(self, shape: tuple[int, ...]) -> Steps:
        """Return where the values of the plane stand in an array of `shape`, its last axis the fastest."""
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        first = sum(index * stride for index, stride in zip(self.at, strides, strict=True))
        return Steps(first, shape[self.rows], shape[self.columns], strides[self.rows], strides[self.columns])


@dataclass(frozen=True, slots=True)
class Steps:
    """Where the values of a plane stand among those of an array; all in values, not in bytes."""

    first: int
    height: int
    width: int
    row_step: int
    """From one row to the next."""
    column_step: int
    """From one column to the next."""

    @property
    def is_by_rows(self) -> bool:
        """Whether a row stands together, more or less; if not, a column does."""
        return self.row_step >= self.column_step


def flat_blocks(file: BinaryFile, offset: int, dtype: np.dtype[np.generic], plane: Steps) -> Iterator[Block]:
    """Yield the blocks of a plane, by rows, of an array that stands in the file as it is, from `offset` on.

    `dtype` is that of the file, byte order included.  What stands between the values of the plane is read with them.
    """
    step = max(1, BLOCK_VALUES // plane.row_step)
    for top in range(0, plane.height, step):
        rows = min(step, plane.height - top)
        span = (rows - 1) * plane.row_step + (plane.width - 1) * plane.column_step + 1
        values = read_values(file, offset + (plane.first + top * plane.row_step) * dtype.itemsize, dtype, span)
        steps = (plane.row_step * dtype.itemsize, plane.column_step * dtype.itemsize)
        piece = np.lib.stride_tricks.as_strided(values, (rows, plane.width), steps)
        yield slice(top, top + rows), slice(0, plane.width), np.ascontiguousarray(piece)


def tiled_blocks(
    sizes: tuple[int, int], tile: tuple[int, int], depth: int, decoded: Callable[[slice, slice], AnyArray]
) -> Iterator[Block]:
    """Yield the blocks of a plane of tiles: as many of them each as make a good size.

    `sizes` and `tile` are rows and columns; `depth` is how many values of a tile there are to one that is wanted.
    `decoded` returns the values of a part of the plane that begins where a tile does and ends where one does, or
    with the plane.
    """
    (height, width), (rows, columns) = sizes, tile
    across = math.ceil(width / columns)
    most = max(1, BLOCK_VALUES // (rows * columns * depth))
    rows, columns = rows * max(1, most // across), columns * min(most, across)
    for top, left in product(range(0, height, rows), range(0, width, columns)):
        part = slice(top, min(top + rows, height)), slice(left, min(left + columns, width))
        if columns >= width:
            yield from cut(decoded(*part), top)
        else:
            yield *part, decoded(*part)


def read_values(file: BinaryFile, offset: int, dtype: np.dtype[np.generic], count: int) -> AnyArray:
    """Return so many values, 1-D, in the byte order of the machine; ValueError where the file ends before them."""
    values = np.empty(count, dtype)
    file.seek(offset)
    room, filled = values.view(np.uint8).data, 0
    while filled < len(room):
        read = file.readinto(room[filled:])
        if not read:
            raise ValueError("the file ends too early")
        filled += read
    return values if dtype.isnative else values.byteswap(inplace=True).view(dtype.newbyteorder("="))
