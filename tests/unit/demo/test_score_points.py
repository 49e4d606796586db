"""Scores of points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from redis_consumer.demo.score_points import partners, score_assigned, score_points

SEEDS = st.integers(0, 2**32 - 1)
NONE = np.empty((0, 2))


@given(seed=SEEDS, count=st.integers(1, 30))
def test_the_truth_itself_is_found_whatever_its_order(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 100, (count, 2))
    score = score_points(rng.permutation(truth), truth)
    assert (score.matched, score.precision, score.recall, score.f1, score.error) == (count, 1, 1, 1, 0)


@given(seed=SEEDS, found=st.integers(0, 15), true=st.integers(0, 15))
def test_partners_are_near_and_no_pair_is_left(seed: int, found: int, true: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.uniform(0, 10, (found, 2)), rng.uniform(0, 10, (true, 2))
    pairs = partners(one, other, 2)
    away = np.linalg.norm(one[:, None] - other[None], axis=-1)
    assert all(away[a, b] <= 2 for a, b in pairs)
    assert all(len(set(side)) == len(pairs) for side in pairs.T)
    left = [a for a in range(found) if a not in pairs[:, 0]], [b for b in range(true) if b not in pairs[:, 1]]
    assert not (away[np.ix_(*left)] <= 2).any()


def test_as_many_as_can_be_come_before_the_nearest() -> None:
    found, truth = np.array([[0, 0], [0, 2.0]]), np.array([[0, 1.9], [0, 3.9]])
    assert score_points(found, truth).matched == 2


def test_missed_and_false_points_count() -> None:
    score = score_points(np.array([[0, 0], [9, 9]]), np.array([[0, 1], [5, 5], [0, 30]]))
    assert (score.matched, score.precision, score.recall) == (1, 1 / 2, 1 / 3)
    assert score.f1 == pytest.approx(2 / 5)
    assert score.error == 1


def test_nothing_to_find() -> None:
    assert score_points(NONE, NONE).f1 == 1
    assert score_points(np.array([[1, 1]]), NONE).f1 == 0
    assert score_points(NONE, np.array([[1, 1]])).f1 == 0


def test_a_point_in_the_wrong_cell_is_wrong() -> None:
    points = np.array([[0, 0], [9, 9], [20, 20.0]])
    score = score_assigned(points, np.array([1, 2, 0]), points, np.array([1, 3, 0]))
    assert (score.matched, score.found, score.true) == (2, 3, 3)
