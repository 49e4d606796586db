"""Divisions: a new cell beside one that shrank, with the parent's place in the middle between the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.tracking.assignment import assign, pairs_within
from redis_consumer.tracking.population import inverse

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.tracking.population import Population

    Indices = npt.NDArray[np.intp]
    Doubles = npt.NDArray[np.float64]

MOST_SHRUNK = 0.75
"""A daughter has at most this share of its parent's area before it rounded up."""
LEAST_KEPT = 0.5
"""Both daughters together have at least this share of the area that the parent had last."""
MOST_UNEQUAL = 2.5
"""Times as large as the other is a daughter at most."""
OFF_CENTRE = 0.6
"""Of the parent's diameter lies the middle between the daughters at most away from its place."""
MOST_COST = 10.0
"""More than any candidate costs: what can be a division is one."""
APART = 3.0
"""Diameters of the parent are the daughters at most apart."""
FRAMES = 3
"""Whose median is a cell's size: one outline too large or small makes no division."""
FRAMES_BEFORE, QUARTILE = 10, 0.75
"""A cell is small while its chromosomes are condensed; before, it had the upper quartile of these frames' areas."""


def find_divisions(cells: Population, after: Indices, max_distance: float) -> tuple[Indices, Indices]:
    """Return the cells that begin a track as a daughter, and the parent of each.

    `after` links cells to their next ones (-1: none), a parent to its other daughter.  Daughters lie within
    `max_distance` of the parent.
    """
    before = inverse(after)
    begins = np.flatnonzero((before < 0) & (cells.frames > 0))
    second = np.flatnonzero(before >= 0)
    pairs = [_candidates(cells, begins, second, before, t, max_distance) for t in np.unique(cells.frames[begins])]
    if not pairs:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    daughters, sisters = (np.concatenate(part) for part in zip(*pairs, strict=True))
    parents = before[sisters]
    costs = _costs(cells, daughters, sisters, parents, after, before)
    likely = np.isfinite(costs)
    daughters, parents, costs = daughters[likely], parents[likely], costs[likely]
    (new, i), (old, j) = (np.unique(side, return_inverse=True) for side in (daughters, parents))
    found = assign(i, j, costs, MOST_COST, (len(new), len(old)))
    return new[found >= 0], old[found[found >= 0]]


def _candidates(
    cells: Population, begins: Indices, second: Indices, before: Indices, t: int, max_distance: float
) -> tuple[Indices, Indices]:
    """Return pairs of a beginning and a continued cell in frame `t`, whose earlier place is near the beginning."""
    new, old = (rows[cells.frames[rows] == t] for rows in (begins, second))
    i, j, _ = pairs_within(cells.centroids[new], cells.centroids[before[old]], max_distance)
    return new[i], old[j]


def _costs(
    cells: Population, daughters: Indices, sisters: Indices, parents: Indices, after: Indices, before: Indices
) -> Doubles:
    """Return how unlike a division each candidate is; infinite for what cannot be one."""
    full = _sizes(cells, parents, before, FRAMES_BEFORE, QUARTILE)
    size, diameter = _sizes(cells, parents, before), cells.diameters[parents]
    sizes = np.stack([_sizes(cells, daughters, after), _sizes(cells, sisters, after)])
    places = np.stack([cells.centroids[daughters], cells.centroids[sisters]])
    off_centre = np.linalg.norm(places.mean(axis=0) - cells.centroids[parents], axis=-1) / diameter
    unequal = np.abs(np.log(sizes[0] / sizes[1]))
    likely = (
        (sizes.max(axis=0) <= MOST_SHRUNK * full)
        & (sizes.sum(axis=0) >= LEAST_KEPT * size)
        & (np.linalg.norm(places[0] - places[1], axis=-1) <= APART * diameter)
        & (off_centre <= OFF_CENTRE)
        & (unequal <= np.log(MOST_UNEQUAL))
    )
    kept = np.abs(np.log(sizes.sum(axis=0) / size))
    return np.where(likely, off_centre + unequal + kept, np.inf)


def _sizes(cells: Population, rows: Indices, links: Indices, frames: int = FRAMES, quantile: float = 0.5) -> Doubles:
    """Return a quantile of the areas that each cell has in so many frames along `links`."""
    areas = np.full((frames, len(rows)), np.nan)
    for area in areas:
        known = rows >= 0
        area[known] = cells.areas[rows[known]]
        rows = np.where(known, links[rows], -1)
    sizes: Doubles = np.nanquantile(areas, quantile, axis=0)
    return sizes
