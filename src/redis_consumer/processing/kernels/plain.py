"""The kernels in numpy: what they do, and what is used where they are not compiled.

Arrays of one image, no longer a stack.  `compiled` has the same functions, with the same results to the last bit.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy  # both load their parts at their first use

from redis_consumer.scikit import ski

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Counts = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.floating]
    Ids = npt.NDArray[np.integer]
    Indices = npt.NDArray[np.intp]
    LabelImage = npt.NDArray[np.int32]
    Mask = npt.NDArray[np.bool_]
    Pair = tuple[Array, Array]

BINS = 256
_STRIP = 2**15
"""Pixels worked on at a time: the temporary arrays stay in the processor's cache."""
_TABLES = 512
"""Regions worked on at a time, for the same reason."""
_SPARE = 16


class Grey(NamedTuple):
    """How a grey value becomes one of 256 bins: (value - low) / span, in 65,536 steps, times `scale`, plus `offset`."""

    low: np.float32
    span: np.float32
    scale: np.float32
    offset: np.float32


# Contrast-limited adaptive histogram equalization


def count(
    values: Array,
    grey: Grey,
    row_places: Indices,
    row_regions: Indices,
    column_places: Indices,
    column_regions: Indices,
    counts: npt.NDArray[np.int32],
) -> None:
    """Count grey values (Y, X) in `counts` (regions down, regions across, bins).

    For each pixel that counts, its row and column, and the region of either: as arrays along the axes.
    """
    first, many = int(column_regions.min()), int(np.ptp(column_regions)) + 1
    offset = (column_regions - first) * BINS
    for start, stop in _runs(row_regions, width=column_regions.size):
        bins = _bins(values[_span(row_places[start:stop])], grey)[:, _span(column_places)] + offset
        found = np.bincount(bins.ravel(), minlength=many * BINS).reshape(many, BINS)
        counts[row_regions[start], first : first + many] += found.astype(np.int32)


def blend(
    values: Array,
    grey: Grey,
    rows: tuple[Indices, Indices],
    columns: tuple[Indices, Indices],
    row_weights: Pair,
    column_weights: Pair,
    tables: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Return the level of each grey value (Y, X), cut down to a whole number, float32.

    `tables` (regions down, regions across, bins) has the levels.  For each row, and each column, two regions to
    interpolate between, and what each counts; in the precision of the weights, the sum in float32.
    """
    result = np.empty(values.shape, np.float32)
    kind = row_weights[0].dtype
    first, last = int(columns[0].min()), int(columns[1].max())
    offsets = [(column - first) * BINS for column in columns]
    for start, stop in _runs(*rows, width=values.shape[1]):
        bins = _bins(values[start:stop], grey)
        places = [bins + offset for offset in offsets]
        strip, part = result[start:stop], np.empty(bins.shape, kind)
        strip[...] = 0
        for region, weight in zip((rows[0][start], rows[1][start]), row_weights, strict=True):
            table = tables[region, first : last + 1].ravel().astype(kind)
            for place, other in zip(places, column_weights, strict=True):
                np.take(table, place, out=part, mode="clip")  # nothing is to be clipped: it spares a check
                # Rounded step by step as in the definition, which cuts the sum down to a whole number.
                part *= weight[start:stop, None] * other
                strip += part.astype(np.float32, copy=False)
        np.trunc(strip, out=strip)
    return result


def levels(counts: npt.NDArray[np.int32], limit: int, pixels: int, highest: int) -> npt.NDArray[np.float32]:
    """Return for each bin the level that it becomes, a whole number up to `highest`, in the shape of `counts`.

    `counts` are histograms (..., bins) of so many `pixels` each.  In none may a bin have more than `limit`: what is
    above counts in the others, which together have room for it.  ValueError for a limit, or pixels, below 1.
    """
    if limit < 1 or pixels < 1:
        raise ValueError("a limit and pixels of at least 1")
    tables = np.empty(counts.shape, np.float32)
    flat, out = counts.reshape(-1, BINS), tables.reshape(-1, BINS)
    for some in (slice(first, first + _TABLES) for first in range(0, len(flat), _TABLES)):
        sums = np.cumsum(_clipped(flat[some].astype(np.int64), limit), axis=1) * np.float64(highest / pixels)
        out[some] = np.trunc(np.minimum(sums, highest, out=sums), out=sums)
    return tables


def _clipped(counts: Counts, limit: int) -> Counts:
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


def _spread(counts: Counts, excess: Counts, limit: int) -> Counts:
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


def _bins(values: Array, grey: Grey) -> Indices:
    """Return the bin of each value."""
    scaled = np.subtract(values, grey.low, dtype=np.float32)
    scaled /= grey.span
    scaled *= 2**16 - 1
    return (np.rint(scaled, out=scaled) * grey.scale + grey.offset).astype(np.intp)


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


# Maxima
#
# `allowance` times a value's size is what rounding may have cost it.  All comparisons are of differences with `h`,
# never of values with differences: so the rounding is that of the definition, which decides by
# `value - reconstruction >= h`.


def candidates(values: Floats, h: float, allowance: float, half: int) -> tuple[Mask, Indices]:
    """Return which pixels (Y, X) stand `h` above all others, and the flat places of those that may be maxima.

    The latter stand `h` above the lowest pixel, and nothing within `half` rows and columns is higher; pixels nearer to
    the border are none.
    """
    height = values.dtype.type(h)
    lowest, highest = (
        values.min(),
        max(lowered(values[rows], height, allowance).max() for rows in _strips(values.shape)),
    )
    found = np.zeros(values.shape, bool)
    marked = np.zeros(values.shape, bool)
    for rows in _strips(values.shape):
        strip = values[rows]
        # From the others all of the map is within reach: one comparison is enough.
        found[rows] = ~(strip - lowest >= height) & (strip - highest >= height)
    for rows in _strips(values.shape, start=half, stop=values.shape[0] - half):
        around = _running_max(lowered(values[rows.start - half : rows.stop + half], height, allowance), half)
        inner = values[rows, half : values.shape[1] - half]
        marked[rows, half : values.shape[1] - half] = (inner - lowest >= height) & (inner - around >= height)
    return found, np.flatnonzero(marked)


def lowered(values: Floats, h: Any, allowance: float) -> Floats:
    """Return `values` less `h` and what rounding may have cost."""
    less: Floats = values - h
    rounding = np.abs(values)
    rounding *= values.dtype.type(allowance)
    less -= rounding
    return less


def _strips(shape: tuple[int, ...], *, start: int = 0, stop: int | None = None) -> Iterator[slice]:
    """Give the rows of a map from `start` to `stop` few at a time: the arrays made of them stay in the cache."""
    stop = shape[0] if stop is None else stop
    rows = max(_STRIP // shape[1], 1)
    return (slice(first, min(first + rows, stop)) for first in range(start, stop, rows))


def _running_max(values: Floats, half: int) -> Floats:
    """Return the highest value within `half` rows and columns, of each pixel that is as far from the border."""
    for transposed in (True, False):  # along the rows comes last: it is the faster one, and has less to do then
        lines = values if transposed else values.T
        reach = 1
        while reach < 2 * half + 1:
            step = min(reach, 2 * half + 1 - reach)
            lines = np.maximum(lines[:-step], lines[step:])
            reach += step
        values = lines if transposed else lines.T
    return values


def without_higher(values: Floats, h: float, allowance: float, places: Indices, steps: Indices) -> Indices:
    """Return those of `places` in a flat map from which no one of `steps` leads to something higher."""
    height = values.dtype.type(h)
    for step in steps:
        places = places[values[places] - lowered(values[places + step], height, allowance) >= height]
    return places


def apart(
    values: Floats,
    h: float,
    allowance: float,
    radius: int,
    steps: Indices,
    distances: npt.NDArray[np.float64],
    ends: Indices,
    starts: Indices,
) -> tuple[Mask, int]:
    """Return which of `starts` in a flat map are seen to stand alone by a look around, and how many pixels that took.

    `steps` are rings of growing radius, 1, 2, ..., which end at `ends`, and `distances` their lengths.
    The top of a peak is what is less than `h` below it.  Where the top ends, and nothing else as high follows within
    another `radius`, the peak stands alone; where something higher is met first, it is not seen to.
    """
    height = values.dtype.type(h)
    alone = np.zeros(starts.size, bool)
    end = np.zeros(starts.size)  # how far the top reaches
    open_ = np.arange(starts.size)
    looked, first = 0, 0
    for outer, last in enumerate(ends.tolist(), start=1):
        peak = values[starts[open_], None]
        around = values[starts[open_, None] + steps[first:last]]
        looked += around.size
        top = peak - around < height
        end[open_] = np.maximum(end[open_], np.where(top, distances[first:last], 0).max(axis=1, initial=0))
        higher = (peak - lowered(around, height, allowance) < height).any(axis=1)
        done = ~higher & (end[open_] + radius <= outer)
        alone[open_[done]] = True
        open_ = open_[~done & ~higher]
        first = last
    return alone, looked


# Filters


def correlate(values: Floats, weights: npt.NDArray[np.float64]) -> Floats:
    """Return `values` (Y, X) weighted along the columns, then along the rows; their dtype, computed in float64.

    `weights` are an odd number, symmetric; beyond the border the image is mirrored, its outermost pixels twice.
    """
    if weights.size % 2 == 0:
        raise ValueError("weights without a centre")
    # Rows a little longer than the image: those of 512 or 2048 pixels would share the same few lines of the
    # processor's cache, and filtering along the columns took three to five times as long.
    spaced = np.empty((values.shape[0], values.shape[1] + _SPARE), values.dtype)[:, : values.shape[1]]
    for axis, given in ((0, values), (1, spaced)):
        scipy.ndimage.correlate1d(given, weights, axis, output=spaced)
    return spaced


# Tiles


def fade_in(
    tile: Floats,
    row_weights: npt.NDArray[np.float64],
    column_weights: npt.NDArray[np.float64],
    left: npt.NDArray[np.float64],
    above: npt.NDArray[np.float64],
    out: Floats,
) -> None:
    """Weight a tile (Y, X) by row and by column, add what earlier ones gave to its pixels, and write what is done.

    `left` (Y, overlap) has the sums of all earlier tiles for the first columns, `above` (overlap, X) those of the tiles
    above for the first rows of the other columns.  `out` is the tile without the rows and columns that the tiles below
    and to the right overlap: their sums are left in `above` and `left`, which keep what of them is not written.
    """
    height, width = out.shape
    sums = np.zeros(tile.shape)
    sums[: len(above)] = above
    sums[:, : left.shape[1]] = left
    sums += tile * row_weights[:, None] * column_weights
    out[...] = sums[:height, :width]
    left[:, : tile.shape[1] - width] = sums[:, width:]
    above[: len(tile) - height, :width] = sums[height:, :width]


# Labels


def sizes(labels: Ids, least: int = 1, others: LabelImage | None = None) -> npt.NDArray[np.int64]:
    """Return how many pixels of an image (Y, X) each label has, from 0 to the highest one: `least` of them at least.

    With `others` (Y, X) those pixels count where it is not 0.  ValueError for a negative label.
    """
    highest = int(labels.max(initial=0))
    chosen = labels.ravel() if others is None else labels[others != 0]
    return np.bincount(chosen, minlength=max(highest + 1, least)).astype(np.int64, copy=False)


def look_up(table: LabelImage, labels: Ids, out: LabelImage) -> None:
    """Write `table[labels]` into `out`, all flat.  IndexError for a label that the table does not have."""
    if labels.min(initial=0) < 0:
        raise IndexError("a label has no entry in the table")
    # numpy makes indices of eight bytes: of all labels they would be twice the label image.
    for start in range(0, labels.size, _STRIP):
        strip = slice(start, start + _STRIP)
        out[strip] = table.take(labels[strip])


def touch(places: Indices, steps: Indices) -> bool:
    """Return whether one of `steps` leads from one of `places`, which ascend, to another one."""
    for step in steps if places.size else ():
        others = places + step
        if (places.take(np.searchsorted(places, others), mode="clip") == others).any():
            return True
    return False


def places_of(chosen: Mask, labels: LabelImage) -> Indices:
    """Return where in an image (Y, X), as if it were flat, the pixels are whose label is chosen.

    IndexError for a label of which `chosen` does not tell.
    """
    return np.flatnonzero(chosen[_of(labels, chosen.size)])


def paste(table: LabelImage, labels: LabelImage, out: LabelImage) -> None:
    """Write `table[labels]` where that is not 0 and `out` is, all (Y, X).  IndexError as `look_up`."""
    found = table[_of(labels, table.size)]
    np.copyto(out, found, where=(found != 0) & (out == 0))


def _of(labels: LabelImage, count: int) -> LabelImage:
    if labels.size and not 0 <= labels.min() <= labels.max() < count:
        raise IndexError("a label has no entry in the table")
    return labels


# Watershed


def flood(heights: Array, pieces: Ids, seeds: Indices, basins: LabelImage) -> None:
    """Flood pieces of an image downhill from their seeds, over pixels whose basin is 0, from edge to edge.

    `seeds` are flat places, those of a piece one after the other in ascending order; `basins` has their ids.
    """
    boxes = scipy.ndimage.find_objects(pieces)
    for piece in np.unique(pieces.flat[seeds]).tolist():
        box = boxes[piece - 1]
        inside = pieces[box] == piece
        flooded = ski.segmentation.watershed(np.negative(heights[box]), np.where(inside, basins[box], 0), mask=inside)
        np.copyto(basins[box], flooded, where=inside)
