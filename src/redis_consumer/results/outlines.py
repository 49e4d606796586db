"""Outlines of a label image: polygons along the edges of pixels, which hold exactly the pixels of their object.

Pixel (row y, column x) is the square from (x, y) to (x + 1, y + 1), as QuPath, GeoJSON viewers and shapely have it.
Knows no jobs; scikit-image is imported with the first image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Ring = npt.NDArray[np.int32]
    Polygon = list[Ring]
    LabelPlane = npt.NDArray[np.integer]
    Indexes = npt.NDArray[np.int64]

TOP, RIGHT, BOTTOM, LEFT = range(4)
"""Sides of a pixel, walked clockwise as one sees them: the pixel is always on the right hand."""


def outlines(labels: LabelPlane) -> dict[int, list[Polygon]]:
    """Return the polygons of every object of `labels` (Y, X), by label, ascending.

    A polygon is a piece of an object that hangs together by edges of pixels: its outer ring, then its holes.  A ring
    is int32 (n, 2), columns x and y, the first point repeated at the end, corners only: neighbours share their
    border to the pixel.  Outer rings have a positive signed area in (x, y), holes a negative one (RFC 7946).  No ring
    meets a point twice, and rings of an object touch in single points at most: the polygons are valid in the sense of
    OGC Simple Features, and so in QuPath, PostGIS and shapely.
    """
    if not labels.any():
        return {}
    import skimage as ski

    pieces = np.pad(ski.measure.label(labels, background=0, connectivity=1), 1)
    walks, pixels = _walks(pieces)
    polygons: dict[int, Polygon] = {}
    found: dict[int, list[Polygon]] = {}
    for walk, pixel in zip(walks, pixels, strict=True):
        piece = int(pieces.flat[pixel])
        if piece not in polygons:
            row, column = divmod(pixel, pieces.shape[1])
            polygons[piece] = []
            found.setdefault(int(labels[row - 1, column - 1]), []).append(polygons[piece])
        polygons[piece] += _simple_rings(walk)
    for polygon in polygons.values():
        polygon.sort(key=signed_area, reverse=True)  # one ring is positive: the outer one
    return dict(sorted(found.items()))


def signed_area(ring: Ring) -> float:
    """Return the area within a closed ring in pixels, negative where it runs the other way (shoelace formula)."""
    x, y = ring.T.astype(np.int64)
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2


def _walks(pieces: npt.NDArray[np.integer]) -> tuple[list[Ring], list[int]]:
    """Return the closed walks around the pieces, corners only, and for each a pixel of its piece.

    `pieces` has a margin of zeros; pixels are indexes into it, and corners are those of the image without it.
    """
    pixels, sides, following = _edges(pieces)
    order, starts = _in_order(following)
    pixels, sides = pixels[order], sides[order]
    before = np.roll(sides, 1)
    before[starts] = sides[np.append(starts[1:], len(sides)) - 1]
    turns = sides != before
    rows, columns = np.divmod(pixels[turns], pieces.shape[1])
    x = columns - 1 + np.isin(sides[turns], (RIGHT, BOTTOM))
    y = rows - 1 + np.isin(sides[turns], (BOTTOM, LEFT))
    corners = np.stack([x, y], axis=1).astype(np.int32)
    ends = np.cumsum(turns)[starts[1:] - 1]
    return np.split(corners, ends), pixels[starts].tolist()


def _edges(pieces: npt.NDArray[np.integer]) -> tuple[Indexes, Indexes, Indexes]:
    """Return all edges between a piece and anything else: their pixels, their sides, and which edge comes next.

    At a corner where two pixels of one piece meet others diagonally, the walk stays at its own pixel.
    """
    flat, width = pieces.ravel(), pieces.shape[1]
    outward = np.array([-width, 1, width, -1])
    ahead = np.roll(outward, -1)
    inside = np.flatnonzero(flat)
    at_side = [inside[flat[inside + step] != flat[inside]] for step in outward]
    pixels = np.concatenate(at_side)
    sides = np.repeat(np.arange(4), [len(some) for some in at_side])
    next_pixels = pixels + ahead[sides]
    diagonal = next_pixels + outward[sides]
    goes_on = flat[next_pixels] == flat[pixels]
    turns_out = goes_on & (flat[diagonal] == flat[pixels])
    to_pixels = np.where(turns_out, diagonal, np.where(goes_on, next_pixels, pixels))
    to_sides = (sides + 1 - goes_on - turns_out) % 4
    # Edges are sorted by side and pixel.
    following = np.searchsorted(sides * flat.size + pixels, to_sides * flat.size + to_pixels)
    return pixels, sides, following


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
