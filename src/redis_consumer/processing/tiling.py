"""Large images in pieces that a model takes, and the predictions put together again.

Two ways: overlapping tiles of the model's size, blended where they overlap (`tiles`, `Mosaic`; `tile` and `untile`
do all at once), and a few large blocks with a margin for models of any size (`cut`, `join`).  Each has a grid that
says where the pieces belong.  Knows no models: what happens to the pieces in between is the caller's business, as
long as rows and columns stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from redis_consumer.processing import kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray

    Indices = npt.NDArray[np.intp]
    PadMode = Literal["reflect", "constant"]
    Read = Callable[[int, slice], AnyArray]
    """Returns rows of one frame, (rows, X, C), all columns."""

_SMALLEST_BLENDED = 32
_LEAST_BLENDED_RATIO = 0.5
_WINDOWS = 32  # which are kept: all tiles of a size have one of nine
_BLENDED = {np.dtype(np.float32), np.dtype(np.float64)}  # as they come; whatever else a model gives becomes the latter


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

    def mode(self, pad_mode: PadMode) -> PadMode:
        """Return how this axis is padded: one shorter than a tile is always reflected."""
        return "reflect" if self.size < self.tile else pad_mode

    def sources(self, pad_mode: PadMode) -> Indices:
        """Return for each pixel that the tiles cover the one of the image that stands there, negative for zero."""
        own = np.arange(self.size)
        if self.mode(pad_mode) == "constant":
            return np.pad(own, self.padding, constant_values=-1)
        return np.pad(own, self.padding, mode="reflect")

    @property
    def image(self) -> slice:
        """Where the image lies within what the tiles cover."""
        return slice(self.before, self.before + self.size)

    def spans(self) -> Iterator[slice]:
        """Yield where each tile lies."""
        return (slice(start, start + self.tile) for start in range(0, self.stride * self.count, self.stride))

    def alone(self, index: int) -> int:
        """Return how many pixels of a tile, its first ones, no later tile overlaps."""
        return self.stride if index < self.count - 1 else self.tile

    def weights(self) -> Iterator[npt.NDArray[np.float64]]:
        """Yield the weights of each tile's pixels: less than 1 only where it overlaps a neighbour."""
        overlap = self.tile - self.stride
        last = self.count - 1
        return (window(self.tile, overlap if i else 0, overlap if i < last else 0) for i in range(self.count))


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Where tiles belong."""

    frames: int
    rows: Axis
    columns: Axis
    blended: bool
    """Whether overlapping tiles fade into each other; else the later one wins, and a seam may be seen."""

    @property
    def count(self) -> int:
        """The number of tiles."""
        return self.frames * self.rows.count * self.columns.count


def tile_grid(shape: Sequence[int], size: tuple[int, int], stride_ratio: float = 0.75) -> TileGrid:
    """Plan tiles of `size` for an image of `shape` (T, Y, X, C), `stride_ratio` of a tile apart.

    ValueError for an empty image or a ratio outside (0, 1].
    """
    if len(shape) != 4 or 0 in shape or min(size) < 1:  # noqa: PLR2004 - the four axes of the layout
        raise ValueError(f"cannot cut an image of shape {tuple(shape)} into tiles of {size} rows and columns")
    if not 0 < stride_ratio <= 1:
        raise ValueError(f"stride ratio {stride_ratio}: allowed is more than 0, at most 1")
    rows, columns = (Axis.of(n, t, stride_ratio) for n, t in zip(shape[1:3], size, strict=True))
    blended = (
        min(rows.count, columns.count) > 1 and min(size) >= _SMALLEST_BLENDED and stride_ratio >= _LEAST_BLENDED_RATIO
    )
    return TileGrid(shape[0], rows, columns, blended)


def tiles(read: Read, grid: TileGrid, pad_mode: PadMode = "reflect") -> Iterator[AnyArray]:
    """Yield the tiles of an image, (Y, X, C), by frame, row and column: no more than one row of them in memory.

    The image is padded as the tiles need it: reflected at its border or, with `constant`, by zeros.  An axis shorter
    than a tile is always reflected, as often as it takes.
    """
    sources = grid.rows.sources(pad_mode) if any(grid.rows.padding) else None
    for frame in range(grid.frames):
        for rows in grid.rows.spans():
            band = read(frame, rows) if sources is None else _rows(read, frame, sources[rows])
            band = _padded(band, grid.columns, pad_mode)
            yield from (band[:, columns] for columns in grid.columns.spans())


def tile(
    image: AnyArray, size: tuple[int, int], stride_ratio: float = 0.75, pad_mode: PadMode = "reflect"
) -> tuple[AnyArray, TileGrid]:
    """Return all `tiles` of `image` (T, Y, X, C) as an array (N, *size, C), dtype kept, and their grid."""
    grid = tile_grid(image.shape, size, stride_ratio)
    return np.stack(list(tiles(lambda frame, rows: image[frame, rows], grid, pad_mode))), grid


class Mosaic:
    """Puts tiles together as they come, padding cut off, and lets rows go as soon as no further tile reaches them.

    Blended with quadratic splines as weights, where the grid says so.
    """

    def __init__(self, grid: TileGrid) -> None:
        self._grid = grid
        axes = grid.rows, grid.columns
        self._row_weights, self._column_weights = (list(axis.weights()) if grid.blended else [] for axis in axes)
        self._placed = 0
        self._band: npt.NDArray[Any] = np.empty(0)
        # What the tiles so far give to pixels that later ones overlap: a sum is rounded once, when it is whole.
        self._left = self._above = np.empty((0, 0))

    def add(self, pieces: AnyArray) -> Iterator[tuple[int, slice, AnyArray]]:
        """Add the next tiles (n, Y, X, any channels); yield frame, rows and values (rows, X, channels) of what is done.

        Values have the dtype of the tiles, and are to be copied before more is asked for.
        ValueError where the tiles are not those of the grid.
        """
        rows, columns = self._grid.rows, self._grid.columns
        if pieces.ndim != 4 or pieces.shape[1:3] != (rows.tile, columns.tile):  # noqa: PLR2004 - as above
            raise ValueError(f"tiles have shape {pieces.shape}: expected are {rows.tile} x {columns.tile} pixels")
        if self._placed + len(pieces) > self._grid.count:
            raise ValueError(f"given are {self._placed + len(pieces)} tiles: expected are {self._grid.count}")
        for piece in pieces:
            upper, column = divmod(self._placed, columns.count)
            frame, row = divmod(upper, rows.count)
            self._placed += 1
            if rows.count == columns.count == 1:  # nothing to put together: the tile itself will do
                yield frame, slice(0, rows.size), piece[rows.image, columns.image]
                continue
            if not column:
                self._begin(piece, row)
            self._place(piece, row, column)
            if column == columns.count - 1:
                yield from ((frame, done, values.astype(piece.dtype, copy=False)) for done, values in self._done(row))

    def _begin(self, piece: npt.NDArray[Any], row: int) -> None:
        """Make room for what is done with a row of tiles, and for the sums that are not."""
        rows, columns, channels = self._grid.rows, self._grid.columns, piece.shape[-1]
        if len(self._band) != rows.alone(row):
            kind = _summed(piece.dtype) if self._grid.blended else piece.dtype
            self._band = np.empty((rows.alone(row), columns.padded, channels), kind)
        if self._grid.blended:
            if not row:
                self._above = np.zeros((rows.tile - rows.stride, columns.padded * channels))
            self._left = np.zeros((rows.tile, (columns.tile - columns.stride) * channels))
            self._left[: len(self._above)] = self._above[:, : self._left.shape[1]]

    def _place(self, piece: npt.NDArray[Any], row: int, column: int) -> None:
        rows, columns, channels = self._grid.rows, self._grid.columns, piece.shape[-1]
        start = column * columns.stride
        if not self._grid.blended:
            self._band[:, start : start + columns.tile] = piece[: len(self._band)]
            return
        out = self._band[:, start : start + columns.alone(column)].reshape(len(self._band), -1)
        above = self._above[:, start * channels : (start + columns.tile) * channels]
        # Native, and at their places in memory, whatever the model server gives.
        values = np.require(piece, out.dtype, ["C", "A"]).reshape(rows.tile, -1)
        weights = self._row_weights[row], np.repeat(self._column_weights[column], channels)
        kernels.fade_in(values, *weights, self._left, above, out)

    def _done(self, row: int) -> Iterator[tuple[slice, AnyArray]]:
        """Yield rows of the image that end with this row of tiles, and their values."""
        rows = self._grid.rows
        begin = row * rows.stride - rows.before
        done = slice(max(begin, 0), min(begin + rows.alone(row), rows.size))
        if done.start < done.stop:
            yield done, self._band[done.start - begin : done.stop - begin, self._grid.columns.image]


def untile(tiles: AnyArray, grid: TileGrid) -> AnyArray:
    """Put `tiles` (N, Y, X, any channels) together, as `Mosaic` does, to an image (T, Y, X, channels); dtype kept."""
    if len(tiles) != grid.count:
        raise ValueError(f"tiles have shape {tiles.shape}: expected are {grid.count} of them")
    result = np.empty((grid.frames, grid.rows.size, grid.columns.size, *tiles.shape[3:]), tiles.dtype)
    for frame, rows, values in Mosaic(grid).add(tiles):
        result[frame, rows] = values
    return result


def _summed(kind: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which tiles of a kind are taken and their sums given: native, and of floating point."""
    return kind if kind in _BLENDED else np.dtype(np.float64)


def _rows(read: Read, frame: int, sources: Indices) -> AnyArray:
    """Return the rows `sources` of an image, zeros for those that are negative."""
    inside = sources[sources >= 0]
    first, last = (int(inside.min()), int(inside.max())) if inside.size else (0, 0)
    band = read(frame, slice(first, last + 1))
    if not np.array_equal(sources, np.arange(first, first + len(band))):
        band = band[np.maximum(sources - first, 0)]
        band[sources < 0] = 0
    return band


def _padded(band: AnyArray, columns: Axis, pad_mode: PadMode) -> AnyArray:
    if not any(columns.padding):
        return band
    return np.pad(band, [(0, 0), columns.padding, (0, 0)], mode=columns.mode(pad_mode))


@lru_cache(maxsize=_WINDOWS)
def window(size: int, left: int, right: int) -> npt.NDArray[np.float64]:
    """Return the weights along one axis of a tile that overlaps its neighbours by `left` and `right` pixels."""
    weights = np.ones(size)
    weights[:left] = _ramp(left)
    weights[size - right :] = _ramp(right)[::-1]
    weights.flags.writeable = False  # it is kept
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
