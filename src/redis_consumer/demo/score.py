"""How well a label image finds the true objects.  Arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    LabelPlane = npt.NDArray[np.integer]

HALF = 0.5


@dataclass(frozen=True, slots=True)
class Score:
    """What was found of the true objects."""

    matched: int
    """Pairs of a found and a true object whose intersection over union is high enough."""
    found: int
    true: int

    @property
    def f1(self) -> float:
        """2 matched / (found + true), from 0 to 1; 1 where there is nothing to find and nothing was found."""
        total = self.found + self.true
        return 2 * self.matched / total if total else 1.0


def score(found: LabelPlane, truth: LabelPlane, least: float = HALF) -> Score:
    """Compare two label images of one shape (0 is background); ValueError if the shapes differ.

    Pairs count from an intersection over union above ``least``.  From 0.5 on they are unique, so that no assignment has to be solved
    (Kirillov et al. 2019, Panoptic Segmentation, https://arxiv.org/abs/1801.00868).
    """
    if found.shape != truth.shape:
        raise ValueError(f"label images of different shapes: {found.shape} and {truth.shape}")
    counts = contingency(found, truth)
    areas = counts.sum(axis=1, keepdims=True), counts.sum(axis=0, keepdims=True)
    overlap = counts[1:, 1:]
    union = areas[0][1:] + areas[1][:, 1:] - overlap
    return Score(int(np.count_nonzero(overlap > least * union)), overlap.shape[0], overlap.shape[1])


def contingency(found: LabelPlane, truth: LabelPlane) -> npt.NDArray[np.int64]:
    """Return how many pixels each pair of labels shares, int64 (1 + found objects, 1 + true objects).

    Row and column 0 are background, the others the labels in use in ascending order.
    """
    rows, row_of = _numbered(found)
    columns, column_of = _numbered(truth)
    pairs = np.bincount(row_of * columns + column_of, minlength=rows * columns)
    return pairs.reshape(rows, columns)


def _numbered(labels: LabelPlane) -> tuple[int, npt.NDArray[np.intp]]:
    """Return 1 + the number of objects, and each pixel's place among them, flat; background comes first."""
    values, places = np.unique(np.append(labels.ravel(), 0), return_inverse=True)
    if values[0] < 0:
        raise ValueError(f"a label image has the value {values[0]}: allowed are whole numbers from 0")
    return len(values), places.ravel()[:-1]
