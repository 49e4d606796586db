"""Contrast-limited adaptive histogram equalization (CLAHE) of a plane that may be larger than memory.

The method: Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994, with clip limit 0.01
and 256 bins.  The plane is divided into regions of `kernel_size`; each has a histogram, from which a table tells what
becomes of a grey value there; between the centres of regions the tables are interpolated.  The result is that of
scikit-image's `equalize_adapthist` to the last bit, whichever blocks the plane is fed in:

    histograms = Histograms(shape, low, high)
    for rows, columns, values in blocks:
        histograms.add(rows, columns, values)
    equalizer = histograms.equalizer()
    span = equalizer.span([(rows, columns) for rows, columns, _ in blocks], read)
    for rows, columns, values in blocks:
        result = equalizer.apply(rows, columns, values, span)

`rows` and `columns` are slices with both ends.  The result spans 0 to 1, so the lowest and the highest level of the
whole plane must be known before any of it can be given out; for that, most blocks need not be read again.  `equalized`
does all of it for a plane in memory.  Knows nothing of files or of who cuts the blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt

    Plane = npt.NDArray[Any]  # numbers, (Y, X)
    Floats = npt.NDArray[np.float32]
    Indices = npt.NDArray[np.intp]
    Block = tuple[slice, slice]  # rows and columns of a plane

CLIP_LIMIT = 0.01
BINS = 256
LEVELS = 2**14
"""Grey values are whole numbers below this before the result is stretched to 0..1."""

_DEPTH = 2**16 - 1
_PER_BIN = 1 + LEVELS // BINS
_SCALE, _OFFSET = np.float32((LEVELS - 1) / _DEPTH / _PER_BIN), np.float32(0.0077138)
"""From 16 bits to a bin.  The definition rounds to 14 bits in between, which the offset does for all 65,536 values."""
_STRIP = 2**15
"""Pixels worked on at a time: the temporary arrays stay in the processor's cache."""
_TABLES = 512
"""Regions worked on at a time, for the same reason."""


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
        self._grey = _Grey.between(low, high)
        self._counts = np.zeros((rows.regions, columns.regions, BINS), np.int32)

    def add(self, rows: slice, columns: slice, values: Plane) -> None:
        """Count the pixels of a block, `values`, at `rows` and `columns` of the plane; each pixel once in all."""
        down, across = self._rows.counted(rows), self._columns.counted(columns)
        first, count = int(across.region.min()), int(np.ptp(across.region)) + 1
        offset = (across.region - first) * BINS
        for start, stop in _runs(down.region, width=across.region.size):
            bins = self._grey.bins(values[_span(down.place[start:stop])])[:, _span(across.place)] + offset
            counts = np.bincount(bins.ravel(), minlength=count * BINS).reshape(count, BINS)
            self._counts[down.region[start], first : first + count] += counts.astype(np.int32)

    def equalizer(self) -> Equalizer:
        """Return what equalizes the plane; every pixel must have been counted."""
        pixels = self._rows.kernel * self._columns.kernel
        limit = max(int(CLIP_LIMIT * pixels), 1)
        tables = np.empty(self._counts.shape, np.float32)
        flat, out = self._counts.reshape(-1, BINS), tables.reshape(-1, BINS)
        for some in (slice(first, first + _TABLES) for first in range(0, len(flat), _TABLES)):
            out[some] = _levels(_clipped(flat[some].astype(np.int64), limit), pixels)
        seen = self._counts > 0
        darkest, brightest = seen.argmax(axis=-1), BINS - 1 - seen[..., ::-1].argmax(axis=-1)
        # Less 1: the weighted sum of equal levels may be rounded to less than these before it is cut down.
        bounds = _around(tables, darkest).min(axis=0) - 1, _around(tables, brightest).max(axis=0)
        return Equalizer(self._rows, self._columns, self._grey, tables, *bounds)


@dataclass(frozen=True, eq=False)
class Equalizer:
    """Equalizes any block of one plane, as it would be amid all others.  Safe for several threads."""

    _rows: _Axis
    _columns: _Axis
    _grey: _Grey
    _tables: Floats
    """For each region the level of each bin."""
    _least: Floats
    _most: Floats
    """For each region what the levels of its pixels do not go below, or above."""

    def span(self, blocks: Iterable[Block], read: Callable[[slice, slice], Plane]) -> Span:
        """Return the span of the plane, of which `blocks` are all parts.

        `read` gives a block's values; it is asked only for those that may hold the lowest or the highest level.
        """
        bounds = [(self.bounds(*block), block) for block in blocks]
        span = _NOTHING
        for bound, block in sorted(bounds, key=lambda pair: pair[0].low):
            if bound.low < span.low:
                span = span.widened(self.levels(*block, read(*block)))
        for bound, block in sorted(bounds, key=lambda pair: -pair[0].high):
            if bound.high > span.high:
                span = span.widened(self.levels(*block, read(*block)))
        return span

    def bounds(self, rows: slice, columns: slice) -> Span:
        """Return between what the levels of a block are, as far as the tables tell."""
        part = self._rows.covered(rows), self._columns.covered(columns)
        return Span(float(self._least[part].min()), float(self._most[part].max()))

    def apply(self, rows: slice, columns: slice, values: Plane, span: Span) -> Floats:
        """Return a block equalized, float32; `span` is that of the whole plane."""
        return _stretched(self.levels(rows, columns, values), span)

    def levels(self, rows: slice, columns: slice, values: Plane) -> Floats:
        """Return the levels of a block before they are stretched: whole numbers from 0 to `LEVELS` - 1, float32."""
        result = np.empty(values.shape, np.float32)
        down, across = self._rows.between(rows), self._columns.between(columns)
        first, last = int(across.lower.min()), int(across.upper.max())
        beside = (across.lower - first) * BINS, (across.upper - first) * BINS
        kind = np.float32 if self._short_weights() else np.float64
        horizontal, vertical = across.weights(kind), down.weights(kind)
        for start, stop in _runs(down.lower, down.upper, width=values.shape[1]):
            bins = self._grey.bins(values[start:stop])
            places = [bins + offset for offset in beside]
            strip, part = result[start:stop], np.empty(bins.shape, kind)
            strip[...] = 0
            for region, weight in zip((down.lower[start], down.upper[start]), vertical, strict=True):
                table = self._tables[region, first : last + 1].ravel().astype(kind)
                for place, other in zip(places, horizontal, strict=True):
                    np.take(table, place, out=part, mode="clip")  # nothing is to be clipped: it spares a check
                    # Rounded step by step as in the definition, which cuts the sum down to a whole number.
                    part *= weight[start:stop, None] * other
                    strip += part.astype(np.float32, copy=False)
            np.trunc(strip, out=strip)
        return result

    def _short_weights(self) -> bool:
        """Return whether float32 holds the product of any two weights, so that it will do in place of float64."""
        kernels = self._rows.kernel, self._columns.kernel
        return all(kernel & (kernel - 1) == 0 for kernel in kernels) and math.prod(kernels) <= 2**24


class _Counted(NamedTuple):
    """The pixels of a block along one axis, as often as they count: their places in the block, and regions."""

    place: Indices
    region: Indices


class _Between(NamedTuple):
    """For each pixel of a block along one axis the two regions between whose centres it lies, and how far it is."""

    lower: Indices
    upper: Indices
    share: npt.NDArray[np.float64]

    def weights(self, kind: type[np.floating]) -> list[npt.NDArray[Any]]:
        """Return what each of both counts."""
        return [(1 - self.share).astype(kind), self.share.astype(kind)]


@dataclass(frozen=True)
class _Axis:
    """Rows or columns of a plane, and the regions that they fall into."""

    size: int
    kernel: int

    @property
    def regions(self) -> int:
        return -(-self.size // self.kernel)

    def covered(self, span: slice) -> slice:
        """Return the regions that `span` has pixels of."""
        return slice(span.start // self.kernel, (span.stop - 1) // self.kernel + 1)

    def counted(self, span: slice) -> _Counted:
        """Return which pixels of `span` count where: the last region is filled up by mirroring the plane."""
        place = np.arange(self.regions * self.kernel)
        period = max(2 * (self.size - 1), 1)
        mirrored = np.minimum(place % period, period - place % period) if self.size > 1 else 0 * place
        inside = (mirrored >= span.start) & (mirrored < span.stop)
        return _Counted(mirrored[inside] - span.start, place[inside] // self.kernel)

    def between(self, span: slice) -> _Between:
        """Return the regions to interpolate between; beyond the outermost centres both are the same."""
        cell, rest = np.divmod(np.arange(span.start, span.stop) + self.kernel // 2, self.kernel)
        return _Between(np.maximum(cell - 1, 0), np.minimum(cell, self.regions - 1), rest / self.kernel)


@dataclass(frozen=True)
class _Grey:
    """The grey values of a plane."""

    low: np.float32
    range: np.float32

    @classmethod
    def between(cls, low: float, high: float) -> _Grey:
        difference = float(high) - float(low)
        if not 0 < difference <= float(np.finfo(np.float32).max):
            raise ValueError(f"grey values from {low} to {high} cannot be equalized")
        return cls(np.float32(low), np.float32(difference))

    def bins(self, values: Plane) -> Indices:
        """Return the bin of each value."""
        scaled = np.subtract(values, self.low, dtype=np.float32)
        scaled /= self.range
        scaled *= _DEPTH
        return _bins(np.rint(scaled, out=scaled))


def _bins(depth: Floats) -> Indices:
    """Return the bin of each grey value of 16 bits."""
    return (depth * _SCALE + _OFFSET).astype(np.intp)


def _stretched(levels: Floats, span: Span) -> Floats:
    """Return `levels` stretched to 0..1, in place; where all are one, they become 1 (or stay 0)."""
    if span.low == span.high:
        np.minimum(levels, 1, out=levels)
        return levels
    levels -= np.float32(span.low)
    levels /= np.float32(span.high - span.low)
    return levels


def _span(places: Indices) -> slice | Indices:
    """Return places that follow each other as a slice, which copies nothing."""
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if (np.diff(places) == 1).all() else places


def _runs(*regions: Indices, width: int) -> Iterator[tuple[int, int]]:
    """Give the first and the end of rows that lie in the same regions, few at a time; `width` is their length."""
    changes = np.flatnonzero(np.any([np.diff(region) for region in regions], axis=0)) + 1
    bounds = [0, *changes.tolist(), regions[0].size]
    most = max(_STRIP // max(width, 1), 1)
    for start, stop in pairwise(bounds):
        for first in range(start, stop, most):
            yield first, min(first + most, stop)


def _around(tables: Floats, bins: Indices) -> Floats:
    """Return the levels of one bin for each region, by its own table and those of its neighbours: (9, Y, X)."""
    near = np.pad(tables, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows, columns = np.ogrid[: bins.shape[0], : bins.shape[1]]
    return np.stack([near[rows + y, columns + x, bins] for y in range(3) for x in range(3)])


def _clipped(counts: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """Return histograms (regions, bins) in which no bin exceeds `limit`; what was above is spread over the others."""
    excess = np.maximum(counts - limit, 0).sum(axis=1)
    counts = np.minimum(counts, limit)
    share = excess // BINS
    low = counts < (limit - share)[:, None]
    counts += low * share[:, None]
    excess -= low.sum(axis=1) * share
    nearly = (counts >= (limit - share)[:, None]) & (counts < limit)
    excess -= np.where(nearly, limit - counts, 0).sum(axis=1)
    counts[nearly] = limit
    return _spread(counts, excess, limit)


def _spread(counts: npt.NDArray[np.int64], excess: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """Add `excess` to bins below `limit`, one to each, at equal distances, from a first bin that moves up.

    There is always room: BINS times `limit` is more than the pixels of a region.
    """
    first = 0
    bins = np.arange(BINS)
    while (open_ := np.flatnonzero(excess > 0)).size:
        below = counts[open_] < limit
        step = np.maximum(below.sum(axis=1) // excess[open_], 1)[:, None]
        chosen = below & (bins >= first) & ((bins - first) % step == 0)
        counts[open_] += chosen
        excess[open_] -= chosen.sum(axis=1)
        first = (first + 1) % BINS
    return counts


def _levels(counts: npt.NDArray[np.int64], pixels: int) -> npt.NDArray[np.float64]:
    """Return for each bin the level that it becomes, from histograms (regions, bins) of so many pixels each."""
    levels = np.cumsum(counts, axis=1) * np.float64((LEVELS - 1) / pixels)
    np.minimum(levels, LEVELS - 1, out=levels)
    np.trunc(levels, out=levels)
    return levels
