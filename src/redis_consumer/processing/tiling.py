"""Large images in pieces that a model takes, and the predictions put together again.

Two ways: overlapping tiles of the model's size, blended where they overlap (`tile`, `untile`), and a few large
blocks with a margin for models of any size (`cut`, `join`).  Each returns the pieces and a grid that says where
they belong.  Knows no models: what happens to the pieces in between is the caller's business, as long as rows and
columns stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray

    PadMode = Literal["reflect", "constant"]

_SMALLEST_BLENDED = 32
_LEAST_BLENDED_RATIO = 0.5


@dataclass(frozen=True, slots=True)
class Axis:
    """How one axis of an image is tiled, in pixels."""

    size: int
    """Of the image."""
    tile: int
    stride: int
    count: int
    before: int
    """Padding in front of the image."""

    @classmethod
    def of(cls, size: int, tile: int, stride_ratio: float) -> Self:
        """Choose even strides of about `stride_ratio` tiles, and centre the image in what the tiles cover."""
        stride = min(tile, 2 * ceil(stride_ratio * tile / 2))
        count = max(ceil((size - tile) / stride) + 1, 1)
        excess = tile + stride * (count - 1) - size
        # The odd pixel goes in front, but behind on an axis shorter than one tile: as the models know it.
        return cls(size, tile, stride, count, excess // 2 if size < tile else (excess + 1) // 2)

    @property
    def padded(self) -> int:
        """The size that the tiles cover together."""
        return self.tile + self.stride * (self.count - 1)

    @property
    def padding(self) -> tuple[int, int]:
        """Before and after."""
        return self.before, self.padded - self.size - self.before

    @property
    def short(self) -> bool:
        """Whether the image is smaller than one tile."""
        return self.size < self.tile

    @property
    def image(self) -> slice:
        """Where the image lies within what the tiles cover."""
        return slice(self.before, self.before + self.size)

    def spans(self) -> Iterator[slice]:
        """Yield where each tile lies."""
        return (slice(start, start + self.tile) for start in range(0, self.stride * self.count, self.stride))

    def weights(self) -> Iterator[npt.NDArray[np.float64]]:
        """Yield the weights of each tile's pixels: less than 1 only where it overlaps a neighbour."""
        overlap = self.tile - self.stride
        last = self.count - 1
        return (window(self.tile, overlap if i else 0, overlap if i < last else 0) for i in range(self.count))


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Where the tiles of `tile` belong."""

    frames: int
    rows: Axis
    columns: Axis
    blended: bool
    """Whether overlapping tiles fade into each other; else the later one wins, and a seam may be seen."""

    @property
    def count(self) -> int:
        """The number of tiles."""
        return self.frames * self.rows.count * self.columns.count


def tile(
    image: AnyArray, size: tuple[int, int], stride_ratio: float = 0.75, pad_mode: PadMode = "reflect"
) -> tuple[AnyArray, TileGrid]:
    """Cut `image` (T, Y, X, C) into tiles (N, *size, C) and return them with their grid; dtype kept.

    Tiles are ordered by frame, row and column, and `stride_ratio` of a tile apart.  The image is padded as the
    tiles need it: reflected at its border or, with `constant`, by zeros.  An axis shorter than a tile is always
    reflected, as often as it takes.  ValueError for an empty image or a ratio outside (0, 1].
    """
    if image.ndim != 4 or 0 in image.shape or min(size) < 1:  # noqa: PLR2004 - the four axes of the layout
        raise ValueError(f"cannot cut an image of shape {image.shape} into tiles of {size} rows and columns")
    if not 0 < stride_ratio <= 1:
        raise ValueError(f"stride ratio {stride_ratio}: allowed is more than 0, at most 1")
    rows, columns = (Axis.of(n, t, stride_ratio) for n, t in zip(image.shape[1:3], size, strict=True))
    padded = image
    for axis, plan in enumerate((rows, columns), start=1):
        widths = [plan.padding if i == axis else (0, 0) for i in range(4)]
        padded = np.pad(padded, widths, mode="reflect" if plan.short else pad_mode)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows.tile, columns.tile), axis=(1, 2))
    tiles = windows[:, :: rows.stride, :: columns.stride].transpose(0, 1, 2, 4, 5, 3).copy()
    blended = (
        min(rows.count, columns.count) > 1 and min(size) >= _SMALLEST_BLENDED and stride_ratio >= _LEAST_BLENDED_RATIO
    )
    return tiles.reshape(-1, *size, image.shape[-1]), TileGrid(image.shape[0], rows, columns, blended)


def untile(tiles: AnyArray, grid: TileGrid) -> AnyArray:
    """Put `tiles` (N, Y, X, any channels) together as `grid` says, padding cut off; dtype kept.

    Blended in float64, one frame at a time, with quadratic splines as weights.  ValueError where the tiles are
    not those of the grid.
    """
    rows, columns = grid.rows, grid.columns
    if tiles.ndim != 4 or tiles.shape[:3] != (grid.count, rows.tile, columns.tile):  # noqa: PLR2004 - as above
        raise ValueError(f"tiles have shape {tiles.shape}: expected is {(grid.count, rows.tile, columns.tile)} first")
    result = np.empty((grid.frames, rows.size, columns.size, tiles.shape[-1]), tiles.dtype)
    canvas = np.empty((rows.padded, columns.padded, tiles.shape[-1]), np.float64 if grid.blended else tiles.dtype)
    for frame, part in zip(result, tiles.reshape(grid.frames, -1, *tiles.shape[1:]), strict=True):
        if grid.blended:
            _blend(canvas, part, grid)
        else:
            for (y, x), piece in zip(product(rows.spans(), columns.spans()), part, strict=True):
                canvas[y, x] = piece
        frame[...] = canvas[rows.image, columns.image]
    return result


def _blend(canvas: npt.NDArray[np.float64], tiles: AnyArray, grid: TileGrid) -> None:
    """Fill `canvas` with the weighted sum of one frame's tiles."""
    canvas[...] = 0
    places = product(grid.rows.spans(), grid.columns.spans())
    weights = product(grid.rows.weights(), grid.columns.weights())
    for (y, x), (wy, wx), piece in zip(places, weights, tiles, strict=True):
        canvas[y, x] += piece * wy[:, None, None] * wx[:, None]


def window(size: int, left: int, right: int) -> npt.NDArray[np.float64]:
    """Return the weights along one axis of a tile that overlaps its neighbours by `left` and `right` pixels."""
    weights = np.ones(size)
    weights[:left] = _ramp(left)
    weights[size - right :] = _ramp(right)[::-1]
    return weights


def _ramp(overlap: int) -> npt.NDArray[np.float64]:
    """Return rising weights: a quadratic spline, scaled to end at exactly 1.

    The scaling lets two neighbours add up to slightly more than 1 (1.00003 for 128 pixels).  It is kept: the
    thresholds of the published models were chosen with it.
    """
    u = (2 * np.arange(overlap) + 1) / (2 * max(overlap, 1))
    spline = np.where(np.arange(overlap) < overlap // 2, 2 * u**2, 1 - 2 * (u - 1) ** 2)
    return spline / spline.max(initial=0.0) if overlap else spline


@dataclass(frozen=True, slots=True)
class CutGrid:
    """Where the blocks of `cut` belong."""

    frames: int
    shape: tuple[int, int]
    """Rows and columns of the image."""
    block: tuple[int, int]
    """Rows and columns of a block without its margin."""
    margin: int
    cuts: int

    def places(self) -> Iterator[tuple[slice, slice]]:
        """Yield rows and columns of each block in the image.  The last ones end with the image."""
        starts = ([min(i * b, n - b) for i in range(self.cuts)] for n, b in zip(self.shape, self.block, strict=True))
        height, width = self.block
        return ((slice(y, y + height), slice(x, x + width)) for y, x in product(*starts))


def cut(image: AnyArray, cuts: int, field_size: int) -> tuple[AnyArray, CutGrid]:
    """Cut `image` (T, Y, X, C) into `cuts` by `cuts` blocks of equal size, each with a margin for the model's field.

    Returns the blocks (T * cuts * cuts, rows, columns, C) by frame, row and column, and their grid.  `field_size` is
    the side of the square that decides about one pixel; half of it is the margin, reflected at the border.
    """
    shape = (image.shape[1], image.shape[2])
    if not 1 <= cuts <= min(shape) or field_size < 1:
        raise ValueError(f"cannot cut an image of {shape} pixels {cuts} times for a field of {field_size} pixels")
    margin = (field_size - 1) // 2
    grid = CutGrid(image.shape[0], shape, (ceil(shape[0] / cuts), ceil(shape[1] / cuts)), margin, cuts)
    padded = np.pad(image, [(0, 0), (margin, margin), (margin, margin), (0, 0)], mode="reflect")
    blocks = [
        frame[y.start : y.stop + 2 * margin, x.start : x.stop + 2 * margin]
        for frame in padded
        for y, x in grid.places()
    ]
    return np.stack(blocks), grid


def join(blocks: AnyArray, grid: CutGrid) -> AnyArray:
    """Put `blocks` (with their margins, any channels) together as `grid` says; dtype kept."""
    inner = slice(grid.margin, -grid.margin or None)
    height, width = (b + 2 * grid.margin for b in grid.block)
    if blocks.shape[:-1] != (grid.frames * grid.cuts**2, height, width):
        raise ValueError(
            f"blocks have shape {blocks.shape}: expected are {grid.frames * grid.cuts**2} of {height, width}"
        )
    result = np.empty((grid.frames, *grid.shape, blocks.shape[-1]), blocks.dtype)
    for frame, part in zip(result, blocks.reshape(grid.frames, -1, *blocks.shape[1:]), strict=True):
        for (y, x), block in zip(grid.places(), part, strict=True):
            frame[y, x] = block[inner, inner]
    return result
