"""Who belongs to whom at the least cost in all: the assignment problem, for few candidates among many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy  # loads its parts at their first use

if TYPE_CHECKING:
    import numpy.typing as npt

    Indices = npt.NDArray[np.intp]
    Doubles = npt.NDArray[np.float64]


def pairs_within(first: Doubles, second: Doubles, distance: float) -> tuple[Indices, Indices, Doubles]:
    """Return which points of two sets, (n, 2) and (m, 2), are at most `distance` apart, and how far, pair by pair."""
    if not len(first) or not len(second):
        return np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0)
    trees = (scipy.spatial.cKDTree(points) for points in (first, second))
    near = next(trees).sparse_distance_matrix(next(trees), distance, output_type="ndarray")
    order = np.lexsort((near["j"], near["i"]))
    return near["i"][order], near["j"][order], near["v"][order]


def assign(rows: Indices, columns: Indices, costs: Doubles, unassigned: float, shape: tuple[int, int]) -> Indices:
    """Return for each of shape[0] rows its column, or -1: each column at most once, at the least cost in all.

    Possible are the pairs of `rows` and `columns`, at `costs` (not negative); a row without a column costs
    `unassigned`.
    """
    count, width = shape
    own = np.arange(count)
    # Every row has a column of its own that means "none".  Costs begin at 1: a zero would be no edge.
    weights = np.concatenate([costs, np.full(count, unassigned)]) + 1
    at = (np.concatenate([rows, own]), np.concatenate([columns, width + own]))
    graph = scipy.sparse.csr_array((weights, at), shape=(count, width + count))
    result = np.full(count, -1)
    if count:
        chosen, taken = scipy.sparse.csgraph.min_weight_full_bipartite_matching(graph)
        result[chosen] = np.where(taken < width, taken, -1)
    return result
