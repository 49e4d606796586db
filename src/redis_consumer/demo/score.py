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

    Pairs count from an intersection over union above ``least``, 0.5 at least: such pairs are unique, so that no
    assignment has to be solved (Kirillov et al. 2019, Panoptic Segmentation, https://arxiv.org/abs/1801.00868).
    """
    counts = contingency(found, truth)
    return Score(int(np.count_nonzero(_overlap(counts) > least)), counts.shape[0] - 1, counts.shape[1] - 1)


def matches(found: LabelPlane, truth: LabelPlane) -> dict[int, int]:
    """Return the true partner of each found object that has one: an intersection over union above 0.5."""
    rows, columns = np.nonzero(_overlap(contingency(found, truth)) > HALF)
    one, other = np.unique(found[found != 0]), np.unique(truth[truth != 0])
    return dict(zip(one[rows].tolist(), other[columns].tolist(), strict=True))


def counterparts(found: LabelPlane, truth: LabelPlane) -> npt.NDArray[np.int64]:
    """Return for each label of ``found``, from 0, the true object that shares most pixels with it, 0 if none does."""
    counts = contingency(found, truth)
    labels, true_labels = (np.append(0, np.unique(one[one != 0])) for one in (found, truth))
    largest = counts[:, 1:].argmax(axis=1) + 1 if counts.shape[1] > 1 else np.zeros(len(counts), np.intp)
    partners = np.zeros(int(labels[-1]) + 1, np.int64)
    partners[labels] = np.where(counts[:, 1:].any(axis=1), true_labels[largest], 0)
    partners[0] = 0
    return partners


def _overlap(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the intersection over union of each pair of objects."""
    areas = counts.sum(axis=1, keepdims=True), counts.sum(axis=0, keepdims=True)
    shared = counts[1:, 1:]
    union = areas[0][1:] + areas[1][:, 1:] - shared
    return np.asarray(shared / union)


def contingency(found: LabelPlane, truth: LabelPlane) -> npt.NDArray[np.int64]:
    """Return how many pixels each pair of labels shares, int64 (1 + found objects, 1 + true objects).

    Row and column 0 are background, the others the labels in use in ascending order.  ValueError if the shapes differ.
    """
    if found.shape != truth.shape:
        raise ValueError(f"label images of different shapes: {found.shape} and {truth.shape}")
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
