"""One plane of a TIFF without the others: which bytes of the file hold it, and how they become blocks.

What lies flat in the file is read row by row; of anything else the strips or tiles that hold the plane are read and
decoded, as few at a time as make a block.  Knows no metadata: the series of tifffile says where its pages are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from redis_consumer.errors import JobRejected
from redis_consumer.images.blocks import check_together, flat_blocks, tiled_blocks
from redis_consumer.images.embedded import DECLARED_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis_consumer.arrays import AnyArray
    from redis_consumer.images.blocks import Block, Plane, Steps
    from redis_consumer.images.source import Content

JPEGS = (6, 7, 33007, 34892)
"""Compressions whose tables stand in a tag of the page."""
MOST_SPARE = 2**24
"""Values that a tile, or a picture inside a strip or tile, may declare beyond what the image has."""
READ_BYTES = 2**22
"""Of compressed data, read at once; one strip or tile may have more."""
GAP_BYTES = 2**14
"""Between two strips or tiles: reading what is not wanted is cheaper there than a second read."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the values of a plane stand: one value of each pixel of a page."""

    page: Any
    separate: int
    """Which of the planes of samples that the page has one behind another."""
    sample: int
    """Which of the samples that stand together in each pixel."""


def plane_blocks(content: Content, series: Any, plane: Plane) -> Iterator[Block] | None:
    """Return the blocks of a plane of a series, by the axes of tifffile; None where it is no plane of one page."""
    steps = plane.steps(series.shape)
    if series.transform or series.keyframe.jpegheader is not None or not steps.is_by_rows:
        return None
    dtype = np.dtype(series.dtype).newbyteorder(series.keyframe.parent.byteorder)
    if series.dataoffset is not None:
        return flat_blocks(content.file, series.dataoffset, dtype, steps)
    place = _place(series, steps)
    if place is None:
        return None
    if series.keyframe.is_final:
        within_page = replace(steps, first=steps.first % series.keyframe.size)
        return flat_blocks(content.file, place.page.dataoffsets[0], dtype, within_page)
    return _segment_blocks(content, place)


def _place(series: Any, steps: Steps) -> _Place | None:
    """Return where a plane stands in the pages of the series, which stand one behind another in its array."""
    page = series.keyframe
    _, depth, length, width, together = page.shaped
    if depth != 1 or (steps.height, steps.width) != (length, width) or series.size != len(series) * page.size:
        return None
    if (steps.row_step, steps.column_step) != (width * together, together):
        return None
    number, inside = divmod(steps.first, page.size)
    if not series[number].dataoffsets:
        raise ValueError("nothing says where the pixels are")
    separate, sample = divmod(inside, length * width * together)
    return _Place(series[number], separate, sample) if sample < together else None


def _segment_blocks(content: Content, place: _Place) -> Iterator[Block]:
    """Yield the blocks of a plane that is stored in strips or tiles."""
    _, _, length, width, together = place.page.shaped
    sides = _segment_sides(place.page.keyframe)
    check_together(content.name, math.prod(sides) * together)
    return tiled_blocks((length, width), sides, together, lambda *part: _decoded(content, place, *part))


def _segment_sides(page: Any) -> tuple[int, int]:
    """Return the rows and columns of a strip or tile."""
    return page.tile[-2:] if page.is_tiled else (page.rowsperstrip, page.imagewidth)


def _decoded(content: Content, place: _Place, rows: slice, columns: slice) -> AnyArray:
    """Return the values of a part of a plane, which begins where a strip or tile does."""
    values = np.empty((rows.stop - rows.start, columns.stop - columns.start), place.page.dtype)
    for number, data in _segments(content, place.page, _numbers(place, rows, columns)):
        if data is not None:
            check_embedded(content.name, place.page.keyframe, data)
        _fill(values, rows.start, columns.start, place, number, data)
    return values


def _fill(values: AnyArray, top: int, left: int, place: _Place, number: int, data: bytes | None) -> None:
    """Decode one strip or tile into the part of the plane that begins at row `top` and column `left`."""
    page = place.page.keyframe
    tables = {"jpegtables": place.page.jpegtables, "jpegheader": page.jpegheader} if page.compression in JPEGS else {}
    decoded, (_, _, y, x, _), (_, height, width, _) = page.decode(data, number, **tables)
    target = values[y - top : y - top + height, x - left : x - left + width]
    if decoded is None:
        target[:] = page.nodata
    else:
        target[:] = decoded[0, : target.shape[0], : target.shape[1], place.sample]


def _numbers(place: _Place, rows: slice, columns: slice) -> list[int]:
    """Return the numbers, in the page, of the strips or tiles that hold a part of the plane."""
    _, _, length, width, _ = place.page.shaped
    height_of, width_of = _segment_sides(place.page.keyframe)
    down, across = math.ceil(length / height_of), math.ceil(width / width_of)
    numbers = np.arange(down * across).reshape(down, across) + place.separate * down * across
    wanted = numbers[
        rows.start // height_of : -(-rows.stop // height_of), columns.start // width_of : -(-columns.stop // width_of)
    ]
    return [int(number) for number in wanted.flat]


def _segments(content: Content, page: Any, wanted: Sequence[int]) -> Iterator[tuple[int, bytes | None]]:
    """Yield the numbers and bytes of strips or tiles, in the order of the file; None for one that was left out."""
    known = min(len(page.dataoffsets), len(page.databytecounts))
    places = {n: (page.dataoffsets[n], page.databytecounts[n]) if n < known else (0, 0) for n in wanted}
    yield from ((number, None) for number, place in places.items() if not all(place))
    stored = sorted((offset, offset + count, number) for number, (offset, count) in places.items() if offset and count)
    for run in _runs(stored):
        start, end = run[0][0], max(end for _, end, _ in run)
        content.file.seek(start)
        data = content.file.read(end - start)
        yield from ((number, data[first - start : last - start]) for first, last, number in run)


def _runs(stored: Sequence[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Yield what is read at once: neighbours, up to `READ_BYTES`; given and yielded are (start, end, number)."""
    run: list[tuple[int, int, int]] = []
    for place in stored:
        if run and (place[0] > run[-1][1] + GAP_BYTES or place[1] > run[0][0] + READ_BYTES):
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def check_embedded(name: str, page: Any, data: bytes) -> None:
    """Refuse a strip or tile that holds a picture of far more pixels than the image.

    Other codecs are told by tifffile how much they may write.
    """
    if page.compression in DECLARED_PIXELS:
        check_values(name, page, DECLARED_PIXELS[page.compression](data))


def check_values(name: str, page: Any, values: int) -> None:
    """Refuse a strip or tile that would be far larger than the image when it is decoded."""
    allowed = max(page.size, MOST_SPARE)
    if values > allowed:
        raise JobRejected(f"The image {name!r} has a tile of {values} values: allowed are {allowed}")
