"""Outlines of a label image: polygons along the edges of pixels, which hold exactly the pixels of their object.

Pixel (row y, column x) is the square from (x, y) to (x + 1, y + 1), as QuPath, GeoJSON viewers and shapely have it.
Knows no jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.processing.planes import blocks, grown
from redis_consumer.results.label_images import last_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from redis_consumer.processing.planes import Plane, Rectangle

    Ring = npt.NDArray[np.int32]
    Polygon = list[Ring]
    Indexes = npt.NDArray[np.int64]

TOP, RIGHT, BOTTOM, LEFT = range(4)
"""Sides of a pixel, walked clockwise as one sees them: the pixel is always on the right hand."""


def outlines(labels: Plane) -> Iterator[tuple[int, list[Polygon]]]:
    """Yield the objects of `labels` (Y, X) and their polygons: by the block where they end, and there by label.

    A polygon is a piece of an object that hangs together by edges of pixels: its outer ring, then its holes.  A ring
    is int32 (n, 2), columns x and y, the first point repeated at the end, corners only: neighbours share their
    border to the pixel.  Outer rings have a positive signed area in (x, y), holes a negative one (RFC 7946).  No ring
    meets a point twice, and rings of an object touch in single points at most: the polygons are valid in the sense of
    OGC Simple Features, and so in QuPath, PostGIS and shapely.

    In memory are one block, and the edges of the objects that do not end in it.
    """
    ids, last = last_blocks(labels)
    open_ends = np.empty((3, 0), np.int64)
    for number, place in enumerate(blocks(labels.shape)):
        edges = np.concatenate([open_ends, _edges(labels, place)], axis=1)
        ended = last[np.searchsorted(ids, edges[0])] == number
        if ended.any():
            yield from _polygons(edges[:, ended], labels.shape)
        open_ends = edges[:, ~ended]


def signed_area(ring: Ring) -> float:
    """Return the area within a closed ring in pixels, negative where it runs the other way (shoelace formula)."""
    x, y = ring.T.astype(np.int64)
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2


def _edges(labels: Plane, place: Rectangle) -> Indexes:
    """Return all edges between a pixel in `place` and one of another label, (3, n).

    They are the label, the edge's number, and that of the edge which comes next.  A number is that of the side times
    the pixels of the plane, plus that of the pixel.
    """
    padded = _padded(labels, place)
    flat, width = padded.ravel(), padded.shape[1]
    outward = np.array([-width, 1, width, -1])
    core = np.zeros(padded.shape, bool)
    core[1:-1, 1:-1] = padded[1:-1, 1:-1] != 0
    inside = np.flatnonzero(core)
    at_side = [inside[flat[inside + step] != flat[inside]] for step in outward]
    pixels = np.concatenate(at_side)
    sides = np.repeat(np.arange(4), [len(some) for some in at_side])

    def numbers(sides: Indexes, pixels: Indexes) -> Indexes:
        rows, columns = np.divmod(pixels, width)
        rows += place[0].start - 1
        columns += place[1].start - 1
        return (sides * labels.shape[0] + rows) * labels.shape[1] + columns

    following = numbers(*_following(flat, sides, pixels, outward))
    return np.stack([flat[pixels].astype(np.int64), numbers(sides, pixels), following])


def _following(
    flat: npt.NDArray[np.integer], sides: Indexes, pixels: Indexes, outward: Indexes
) -> tuple[Indexes, Indexes]:
    """Return the side and pixel of the edge that comes next after each one.

    At a corner where two pixels of one label meet others diagonally, the walk stays at its own pixel.
    """
    ahead = pixels + np.roll(outward, -1)[sides]
    diagonal = ahead + outward[sides]
    goes_on = flat[ahead] == flat[pixels]
    turns_out = goes_on & (flat[diagonal] == flat[pixels])
    return (sides + 1 - goes_on - turns_out) % 4, np.where(turns_out, diagonal, np.where(goes_on, ahead, pixels))


def _padded(labels: Plane, place: Rectangle) -> npt.NDArray[np.integer]:
    """Return a part of a plane and one pixel around it, zero where the plane has ended."""
    around = grown(place, 1, labels.shape)
    ends = [
        (1 - (inner.start - outer.start), 1 - (outer.stop - inner.stop))
        for inner, outer in zip(place, around, strict=True)
    ]
    return np.pad(labels[around], ends)


def _polygons(edges: Indexes, shape: tuple[int, ...]) -> Iterator[tuple[int, list[Polygon]]]:
    """Yield the objects with these edges, and their polygons, by label."""
    labels, numbers, following = edges[:, np.argsort(edges[1])]
    sides, pixels = np.divmod(numbers, shape[0] * shape[1])
    order, starts = _in_order(np.searchsorted(numbers, following))
    outer = _outer_walks(sides, pixels, order, starts, shape)
    walks = _corners(sides[order], pixels[order], starts, shape[1])
    found: dict[int, dict[int, Polygon]] = {}
    for label, piece, walk in zip(labels[order[starts]].tolist(), outer.tolist(), walks, strict=True):
        found.setdefault(label, {}).setdefault(piece, []).extend(_simple_rings(walk))
    for label, pieces in sorted(found.items()):
        # One ring of a piece is positive: the outer one.
        yield label, [sorted(rings, key=signed_area, reverse=True) for rings in pieces.values()]


def _corners(sides: Indexes, pixels: Indexes, starts: Indexes, width: int) -> list[Ring]:
    """Return the corners of each closed walk; given are its edges, and where among them each walk starts."""
    before = np.roll(sides, 1)
    before[starts] = sides[np.append(starts[1:], len(sides)) - 1]
    turns = sides != before
    rows, columns = np.divmod(pixels[turns], width)
    x = columns + np.isin(sides[turns], (RIGHT, BOTTOM))
    y = rows + np.isin(sides[turns], (BOTTOM, LEFT))
    corners = np.stack([x, y], axis=1).astype(np.int32)
    return np.split(corners, np.cumsum(turns)[starts[1:] - 1])


def _outer_walks(sides: Indexes, pixels: Indexes, order: Indexes, starts: Indexes, shape: tuple[int, ...]) -> Indexes:
    """Return for each closed walk the one around the same piece: itself, or of a hole the one outside.

    The leftmost pixel at a hole lies in a row of pixels of its piece, which begins at the outside or at a hole further
    to the left.
    """
    walk_of = np.empty(len(order), np.int64)
    walk_of[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
    rows, columns = np.divmod(pixels[order], shape[1])
    columns, rows = np.divmod(np.minimum.reduceat(columns * shape[0] + rows, starts), shape[0])
    lefts = np.flatnonzero(sides == LEFT)
    outer = walk_of[lefts[np.searchsorted(pixels[lefts], rows * shape[1] + columns, side="right") - 1]]
    while not np.array_equal(outer, outer[outer]):
        outer = outer[outer]
    return outer


def _in_order(following: Indexes) -> tuple[Indexes, Indexes]:
    """Return the members of a permutation cycle by cycle, and where in that order each cycle starts."""
    step, seen = following.data, bytearray(len(following))
    order = np.empty(len(following), np.int64)
    place, starts, done = order.data, [], 0
    first = seen.find(0)
    while first >= 0:
        starts.append(done)
        member = first
        while not seen[member]:
            seen[member] = 1
            place[done] = member
            done += 1
            member = step[member]
        first = seen.find(0, first)
    return order, np.array(starts, np.int64)


def _simple_rings(walk: Ring) -> Iterator[Ring]:
    """Yield the rings of a closed walk, each closed: cut off wherever the walk comes to a point again.

    It turns at such a point whichever way it is cut, so that corners stay corners.
    """
    points = list(map(tuple, walk.tolist()))
    if len(set(points)) == len(points):
        yield np.append(walk, walk[:1], axis=0)
        return
    place: dict[tuple[int, ...], int] = {}
    path: list[tuple[int, ...]] = []
    for point in [*points, points[0]]:
        if point in place:
            ring = path[place[point] :]
            yield np.array([*ring, point], np.int32)
            del path[place[point] :]
            for passed in ring:
                del place[passed]
        place[point] = len(path)
        path.append(point)
