"""How well points find the true ones.  Arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.spots import Points

RADIUS: Final = 2.0
"""Points that are this near, in pixels, may be partners."""


@dataclass(frozen=True, slots=True)
class PointScore:
    """What was found of the true points."""

    matched: int
    """Pairs of a found and a true point."""
    found: int
    true: int
    error: float
    """Root mean square distance of the pairs, pixels; 0 where there is none."""

    @property
    def precision(self) -> float:
        """Part of the found points that are true; 1 where none was found."""
        return self.matched / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Part of the true points that were found; 1 where there is none."""
        return self.matched / self.true if self.true else 1.0

    @property
    def f1(self) -> float:
        """2 matched / (found + true), from 0 to 1; 1 where there is nothing to find and nothing was found."""
        total = self.found + self.true
        return 2 * self.matched / total if total else 1.0


def score_points(found: Points, truth: Points, radius: float = RADIUS) -> PointScore:
    """Compare two sets of points (N, 2); partners lie at most ``radius`` apart."""
    pairs = partners(found, truth, radius)
    away = np.linalg.norm(found[pairs[:, 0]] - truth[pairs[:, 1]], axis=1)
    error = float(np.sqrt(np.mean(away**2))) if len(pairs) else 0.0
    return PointScore(len(pairs), len(found), len(truth), error)


def score_assigned(
    found: Points, cells: npt.NDArray[np.integer], truth: Points, true_cells: npt.NDArray[np.integer]
) -> PointScore:
    """Compare points (N, 2) with their cells (N,), whose ids are those of the true ones.

    A pair counts only in the same cell; the error is that of all pairs.
    """
    pairs = partners(found, truth)
    right = int(np.count_nonzero(cells[pairs[:, 0]] == true_cells[pairs[:, 1]]))
    return replace(score_points(found, truth), matched=right)


def partners(found: Points, truth: Points, radius: float = RADIUS) -> npt.NDArray[np.intp]:
    """Return pairs (N, 2), the number of a found point and of a true one: as many as can be, then the nearest.

    No point is in two pairs.
    """
    distance = cdist(found.reshape(-1, 2), truth.reshape(-1, 2))
    # A pair beyond the radius costs more than all others together, so that it only fills up.
    beyond = (1 + radius) * (1 + min(distance.shape))
    rows, columns = linear_sum_assignment(np.where(distance <= radius, distance, beyond))
    near = distance[rows, columns] <= radius
    return np.stack([rows[near], columns[near]], axis=1)
