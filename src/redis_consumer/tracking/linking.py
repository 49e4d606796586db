"""Tracks without a tracking model: from a movie of label images alone, by the distance and the size of cells.

Three steps, each an assignment problem solved for all cells together, after Jaqaman et al. (Nature Methods 5, 2008):
links from frame to frame, links across frames in which a cell was not found, divisions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy  # loads its parts at their first use

from redis_consumer.tracking.assignment import assign, pairs_within
from redis_consumer.tracking.divisions import find_divisions
from redis_consumer.tracking.population import checked_movie, inverse, populate, tracks_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.arrays import Tracks
    from redis_consumer.tracking.population import Population

    Indices = npt.NDArray[np.intp]
    Integers = npt.NDArray[np.integer]
    Doubles = npt.NDArray[np.float64]

MAX_DISTANCE = 50.0
MOST_MISSED = 2
"""Frames in a row in which a cell may be missed without losing its track."""
USUAL_SHARE, USUAL_REACH = 0.9, 3.0
"""Of the cells in a movie move at most the usual distance; and how many times that a cell may move."""
MEDIAN_REACH = 6.0
"""How many times the median between two frames a cell may move."""
MOST_GROWTH = 2.0
"""Times as large, or as small, a cell may be after a gap."""


def link(labels: Integers, *, max_distance: float = MAX_DISTANCE) -> Tracks:
    """Return the tracks of the cells in `labels`, (T, Y, X), 0 for background; its ids hold within a frame only.

    A cell moves at most `max_distance` pixels from frame to frame, and never much farther than the cells of this
    movie usually do (`reaches`).  A cell that is missed in up to two frames keeps its track.  A division has one
    parent and two daughters, both new tracks.  Tracks are numbered as they begin, within a frame by the first pixel.
    ValueError for one frame, or another shape or dtype.
    """
    movie = checked_movie(labels)
    cells = populate(movie)
    reach = reaches(cells, len(movie), max_distance)
    after = _frame_to_frame(cells, reach)
    # Gaps first: a cell that was missed beside another must not be taken for its daughter.
    _close_gaps(cells, after, reach)
    mothers = _divide(cells, after, max_distance)
    return tracks_of(movie, cells, inverse(after), mothers)


def reaches(cells: Population, frames: int, max_distance: float) -> Doubles:
    """Return how far a cell may move from each frame to the next, (frames - 1,), at most `max_distance`.

    It may move thrice as far as cells of this movie usually do.  That is estimated from cells that are each other's
    nearest; where a stage jumps, all move, and the median between the two frames says how far.  A cell's diameter is
    always allowed.
    """
    moves = [_sure_moves(cells, t) for t in range(frames - 1)]
    pooled = np.concatenate(moves)
    if not pooled.size:
        return np.full(frames - 1, max_distance)
    usual = max(USUAL_REACH * np.quantile(pooled, USUAL_SHARE), np.median(cells.diameters))
    jumps = np.array([MEDIAN_REACH * np.median(move) if move.size else 0 for move in moves])
    allowed: Doubles = np.minimum(np.maximum(jumps, usual), max_distance)
    return allowed


def _sure_moves(cells: Population, t: int) -> Doubles:
    """Return the distances between cells of frame `t` and of the next that are each other's nearest."""
    here, there = (cells.centroids[cells.rows(i)] for i in (t, t + 1))
    if not len(here) or not len(there):
        return np.empty(0)
    distance, to = map(np.asarray, scipy.spatial.cKDTree(there).query(here))
    _, back = map(np.asarray, scipy.spatial.cKDTree(here).query(there))
    moves: Doubles = distance[back[to] == np.arange(len(here))]
    return moves


def _frame_to_frame(cells: Population, reach: Doubles) -> Indices:
    """Return each cell's next one; -1 for none."""
    after = np.full(len(cells), -1)
    for t, limit in enumerate(reach):
        here, there = cells.rows(t), cells.rows(t + 1)
        i, j, distance = pairs_within(cells.centroids[here], cells.centroids[there], limit)
        shape = (here.stop - here.start, there.stop - there.start)
        found = assign(i, j, distance**2, limit**2, shape)
        after[here] = np.where(found >= 0, found + there.start, -1)
    return after


def _divide(cells: Population, after: Indices, max_distance: float) -> Indices:
    """Return the parent of each daughter, -1 for others; where a cell divides, its link is cut in place."""
    daughters, parents = find_divisions(cells, after, max_distance)
    mothers = np.full(len(cells), -1)
    mothers[daughters] = parents
    mothers[after[parents]] = parents
    after[parents] = -1
    return mothers


def _close_gaps(cells: Population, after: Indices, reach: Doubles) -> None:
    """Link ends of tracks with beginnings a few frames later, in place."""
    last, first = np.flatnonzero(after < 0), np.flatnonzero(inverse(after) < 0)
    i, j, far = _across(cells, last, first, reach)
    growth = np.abs(np.log(cells.areas[first[j]] / cells.areas[last[i]]))
    likely = growth <= np.log(MOST_GROWTH)
    found = assign(i[likely], j[likely], far[likely] ** 2, 1.0, (len(last), len(first)))
    after[last[found >= 0]] = first[found[found >= 0]]


def _across(cells: Population, last: Indices, first: Indices, reach: Doubles) -> tuple[Indices, Indices, Doubles]:
    """Return pairs of an end and a beginning with missed frames between, and how far they are apart.

    Farthest is 1: `reach` times the root of the number of frames, as a random walk goes.
    """
    ends, beginnings = cells.frames[last], cells.frames[first]
    found = []
    for t in range(len(reach)):
        for gap in range(2, 2 + MOST_MISSED):
            here, there = np.flatnonzero(ends == t), np.flatnonzero(beginnings == t + gap)
            limit = reach[t] * np.sqrt(gap)
            i, j, distance = pairs_within(cells.centroids[last[here]], cells.centroids[first[there]], limit)
            found.append((here[i], there[j], distance / limit))
    i, j, far = (np.concatenate(part) for part in zip(*found, strict=True))
    return i, j, far
