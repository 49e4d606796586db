"""Contrast-limited adaptive histogram equalization (CLAHE) of a plane that may be larger than memory.

The method: Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994, with clip limit 0.01
and 256 bins.  The plane is divided into regions of `kernel_size`; each has a histogram, from which a table tells what
becomes of a grey value there; between the centres of regions the tables are interpolated.  The result is that of
scikit-image's `equalize_adapthist` to the last bit, whichever blocks the plane is fed in:

    histograms = Histograms(shape, low, high)
    for rows, columns, values in blocks:
        histograms.add(rows, columns, values)
    equalizer = histograms.equalizer()
    span = equalizer.span(read)
    for rows, columns, values in blocks:
        result = equalizer.apply(rows, columns, values, span)

`rows` and `columns` are slices with both ends.  The result spans 0 to 1, so the lowest and the highest level of the
whole plane must be known before any of it can be given out; for that, most of the plane need not be read again.
`equalized` does all of it for a plane in memory.  Knows nothing of files or of who cuts the blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from redis_consumer.processing import kernels
from redis_consumer.processing.kernels import BINS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Plane = npt.NDArray[Any]  # numbers, (Y, X)
    Floats = npt.NDArray[np.float32]
    Indices = npt.NDArray[np.intp]

CLIP_LIMIT = 0.01
LEVELS = 2**14
"""Grey values are whole numbers below this before the result is stretched to 0..1."""

_PER_BIN = 1 + LEVELS // BINS
_SCALE, _OFFSET = np.float32((LEVELS - 1) / (2**16 - 1) / _PER_BIN), np.float32(0.0077138)
"""From 16 bits to a bin.  The definition rounds to 14 bits in between, which the offset does for all 65,536 values."""
PART, _LARGEST_PART = 256, 2048
"""Pixels, along an axis, of what is read at once to find the span: less than the first is more calls than work."""
_ROUNDING = 0.125
"""More than what a sum of four weighted levels may be off."""
_SPANS = 64  # of an axis, whose places are kept: making them is a dozen short calls


class Span(NamedTuple):
    """The lowest and the highest level of an equalized plane, or of a part of it."""

    low: float
    high: float

    def widened(self, levels: Floats) -> Span:
        """Return the span of this and of `levels`."""
        return Span(min(self.low, float(levels.min())), max(self.high, float(levels.max())))


_NOTHING = Span(math.inf, -math.inf)


def equalized(plane: Plane, kernel_size: int | None = None) -> Floats:
    """Return `plane` equalized: float32 from 0 to 1.  Arguments and errors as for `Histograms`."""
    histograms = Histograms(plane.shape, plane.min(), plane.max(), kernel_size)
    everything = (slice(0, plane.shape[0]), slice(0, plane.shape[1]))
    histograms.add(*everything, plane)
    equalizer = histograms.equalizer()
    levels = equalizer.levels(*everything, plane)
    return _stretched(levels, _NOTHING.widened(levels))


class Histograms:
    """The histograms of the regions of one plane, counted block by block in any order.

    `shape` is that of the whole plane, `low` and `high` its lowest and highest value (of float32).  `kernel_size` is
    the side of a region in pixels; None is an eighth of the plane on either axis.  ValueError where the plane is
    constant, or so wide in its values that float32 cannot hold the difference, and for a `kernel_size` below 1.
    """

    def __init__(self, shape: tuple[int, ...], low: float, high: float, kernel_size: int | None = None) -> None:
        if kernel_size is not None and kernel_size < 1:
            raise ValueError(f"kernel_size {kernel_size}: allowed are whole numbers from 1")
        rows, columns = (_Axis(size, kernel_size or max(size // 8, 1)) for size in shape)
        self._rows, self._columns = rows, columns
        self._grey = _grey(low, high)
        self._counts = np.zeros((rows.regions, columns.regions, BINS), np.int32)

    def add(self, rows: slice, columns: slice, values: Plane) -> None:
        """Count the pixels of a block, `values`, at `rows` and `columns` of the plane; each pixel once in all."""
        down, across = _counted(self._rows, rows.start, rows.stop), _counted(self._columns, columns.start, columns.stop)
        kernels.count(_plain(values), self._grey, *down, *across, self._counts)

    def equalizer(self) -> Equalizer:
        """Return what equalizes the plane; every pixel must have been counted."""
        pixels = self._rows.kernel * self._columns.kernel
        tables = kernels.levels(self._counts, max(int(CLIP_LIMIT * pixels), 1), pixels, LEVELS - 1)
        return Equalizer(self._rows, self._columns, self._grey, tables, self._counts > 0)


@dataclass(frozen=True, eq=False)
class Equalizer:
    """Equalizes any block of one plane, as it would be amid all others.  Safe for several threads."""

    _rows: _Axis
    _columns: _Axis
    _grey: kernels.Grey
    _tables: Floats
    """For each region the level of each bin."""
    _seen: npt.NDArray[np.bool_]
    """For each region whether it has a pixel of each bin."""

    def span(self, read: Callable[[slice, slice], Plane], least: int = PART) -> Span:
        """Return the span of the plane.

        `read` gives the values of some rows and columns.  It is asked only for regions that may hold the lowest or the
        highest level: for several at once where they are smaller than `least` pixels, for parts of very large ones.
        """

        def widened(rows: slice, columns: slice) -> Span:
            return span.widened(self.levels(rows, columns, read(rows, columns)))

        parts = product(self._rows.parts(least), self._columns.parts(least))
        rest = sorted(((self.bounds(*part), part) for part in parts), key=lambda pair: -pair[0].low)
        span = _NOTHING
        while rest and rest[-1][0].low < span.low:
            span = widened(*rest.pop()[1])
        rest.sort(key=lambda pair: pair[0].high)
        while rest and rest[-1][0].high > span.high:
            span = widened(*rest.pop()[1])
        return span

    def bounds(self, rows: slice, columns: slice) -> Span:
        """Return between what the levels of a block are, as far as the tables tell."""
        part = self._rows.covered(rows), self._columns.covered(columns)
        least, most = self._bounds
        return Span(float(least[part].min()), float(most[part].max()))

    @cached_property
    def _bounds(self) -> tuple[Floats, Floats]:
        """For each region what the levels of its pixels do not go below, and not above."""
        darkest, brightest = self._seen.argmax(axis=-1), BINS - 1 - self._seen[..., ::-1].argmax(axis=-1)
        least, most = self._corners(darkest).min(axis=(0, 1)), self._corners(brightest).max(axis=(0, 1))
        # The weighted sum of equal levels may be rounded to a little less than these before it is cut down.
        return np.floor(least - _ROUNDING), np.floor(most + _ROUNDING)

    def _corners(self, bins: Indices) -> Floats:
        """Return the levels of one bin for each region where they are extreme: (3, 3, Y, X).

        That is in its centre, and as far from there as its pixels go, on all sides: halfway to the next centre.
        """
        levels = _around(self._tables, bins)
        down, across = (axis.least_share for axis in (self._rows, self._columns))
        levels[::2] = down * levels[1] + (1 - down) * levels[::2]
        levels[:, ::2] = across * levels[:, 1:2] + (1 - across) * levels[:, ::2]
        return levels

    def apply(self, rows: slice, columns: slice, values: Plane, span: Span) -> Floats:
        """Return a block equalized, float32; `span` is that of the whole plane."""
        return _stretched(self.levels(rows, columns, values), span)

    def levels(self, rows: slice, columns: slice, values: Plane) -> Floats:
        """Return the levels of a block before they are stretched: whole numbers from 0 to `LEVELS` - 1, float32."""
        kind = np.float32 if self._short_weights() else np.float64
        down = _between(self._rows, rows.start, rows.stop, kind)
        across = _between(self._columns, columns.start, columns.stop, kind)
        places = down.regions, across.regions, down.weights, across.weights
        return kernels.blend(_plain(values), self._grey, *places, self._tables)

    def _short_weights(self) -> bool:
        """Return whether float32 holds the product of any two weights, so that it will do in place of float64."""
        kernels = self._rows.kernel, self._columns.kernel
        return all(kernel & (kernel - 1) == 0 for kernel in kernels) and math.prod(kernels) <= 2**24


class _Counted(NamedTuple):
    """The pixels of a block along one axis, as often as they count: their places in the block, and regions."""

    place: Indices
    region: Indices


class _Between(NamedTuple):
    """For each pixel of a block along one axis the two regions between whose centres it lies."""

    regions: tuple[Indices, Indices]
    weights: tuple[npt.NDArray[Any], npt.NDArray[Any]]
    """What each of both counts."""


@dataclass(frozen=True)
class _Axis:
    """Rows or columns of a plane, and the regions that they fall into."""

    size: int
    kernel: int

    @property
    def regions(self) -> int:
        return -(-self.size // self.kernel)

    @property
    def least_share(self) -> float:
        """What the table of a pixel's own region counts at least."""
        return self.kernel // 2 / self.kernel

    def parts(self, least: int) -> Iterator[slice]:
        """Yield whole regions together, as many as `least` pixels hold, but one at least; a very large one in parts."""
        step = min(self.kernel * max(least // self.kernel, 1), _LARGEST_PART)
        return (slice(start, min(start + step, self.size)) for start in range(0, self.size, step))

    def covered(self, span: slice) -> slice:
        """Return the regions that `span` has pixels of."""
        return slice(span.start // self.kernel, (span.stop - 1) // self.kernel + 1)


@lru_cache(maxsize=_SPANS)
def _counted(axis: _Axis, start: int, stop: int) -> _Counted:
    """Return which pixels of a span count where: the last region is filled up by mirroring the plane."""
    place = np.arange(axis.regions * axis.kernel)
    period = max(2 * (axis.size - 1), 1)
    mirrored = np.minimum(place % period, period - place % period) if axis.size > 1 else 0 * place
    inside = (mirrored >= start) & (mirrored < stop)
    return _Counted(mirrored[inside] - start, place[inside] // axis.kernel)


@lru_cache(maxsize=_SPANS)
def _between(axis: _Axis, start: int, stop: int, kind: type[np.floating]) -> _Between:
    """Return the regions to interpolate between; beyond the outermost centres both are the same."""
    cell, rest = np.divmod(np.arange(start, stop) + axis.kernel // 2, axis.kernel)
    regions = np.maximum(cell - 1, 0), np.minimum(cell, axis.regions - 1)
    share = rest / axis.kernel
    return _Between(regions, ((1 - share).astype(kind), share.astype(kind)))


def _grey(low: float, high: float) -> kernels.Grey:
    """Return how grey values between these two, of float32, become bins."""
    difference = float(high) - float(low)
    if not 0 < difference <= float(np.finfo(np.float32).max):
        raise ValueError(f"grey values from {low} to {high} cannot be equalized")
    return kernels.Grey(np.float32(low), np.float32(difference), _SCALE, _OFFSET)


def _plain(values: Plane) -> Plane:
    """Return a block as the kernels take it: native numbers of one of three kinds, at their places in memory."""
    kind = values.dtype if values.dtype.name in {"uint8", "uint16", "float32"} else np.dtype(np.float32)
    return np.require(values, kind.newbyteorder("="), "A")


def _stretched(levels: Floats, span: Span) -> Floats:
    """Return `levels` stretched to 0..1, in place; where all are one, they become 1 (or stay 0)."""
    if span.low == span.high:
        np.minimum(levels, 1, out=levels)
        return levels
    levels -= np.float32(span.low)
    levels /= np.float32(span.high - span.low)
    return levels


def _around(tables: Floats, bins: Indices) -> Floats:
    """Return the levels of one bin for each region, by its own table and those of its neighbours: (3, 3, Y, X)."""
    near = np.pad(tables, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows, columns = np.ogrid[: bins.shape[0], : bins.shape[1]]
    return np.stack([[near[rows + y, columns + x, bins] for x in range(3)] for y in range(3)])
