"""Scores of tracks."""

from __future__ import annotations

import numpy as np
import pytest
from tests.movies import Life, movie_of

from redis_consumer.demo.score import counterparts, matches
from redis_consumer.demo.score_tracks import links_of, score_tracks

CELLS = [Life(0, 9), Life(0, 9, divides=5), Life(0, 9, missed=(4,)), Life(2, 7)]


def test_the_truth_is_right_under_any_names() -> None:
    truth = movie_of(CELLS, 10, 1)
    names = 100 + np.random.default_rng(1).permutation(int(truth.array.max()) + 1)
    names[0] = 0 if names[0] == 0 else names[0]
    found = np.where(truth.array, names[truth.array], 0)
    parents = {int(names[one]): int(names[other]) for one, other in truth.parents.items()}
    score = score_tracks(found, parents, truth.array, truth.parents)
    assert score.f1 == 1
    assert score.matched == score.found == score.true
    assert score.divisions_matched == score.divisions_found == score.divisions_true == 2


def test_a_division_that_is_not_told_costs_its_two_links() -> None:
    truth = movie_of(CELLS, 10, 1)
    score = score_tracks(truth.array, {}, truth.array, truth.parents)
    assert score.true - score.matched == 2
    assert (score.divisions_matched, score.divisions_found, score.divisions_true) == (0, 0, 2)


def test_a_cell_that_is_mistaken_for_another_costs_a_link_of_each() -> None:
    truth = movie_of([Life(0, 9), Life(0, 9)], 10, 1).array
    found = truth.copy()
    found[5:] = np.where(truth[5:], 3 - truth[5:], 0)
    score = score_tracks(found, {}, truth, {})
    assert (score.found, score.true, score.matched) == (18, 18, 16)
    assert score.f1 == pytest.approx(16 / 18)


def test_a_link_leads_over_a_gap() -> None:
    labels = np.zeros((4, 3, 3), np.int32)
    labels[[0, 1, 3], 1, 1] = 7
    assert links_of(labels, {}) == {((0, 7), (1, 7)), ((1, 7), (3, 7))}


def test_nothing_is_right_where_nothing_is() -> None:
    empty = np.zeros((3, 4, 4), np.int32)
    assert score_tracks(empty, {}, empty, {}).f1 == 1


def test_partners_of_objects() -> None:
    truth = np.array([[5, 5, 5, 0, 8, 8]])
    found = np.array([[2, 2, 0, 0, 1, 3]])
    assert matches(found, truth) == {2: 5}
    assert counterparts(found, truth).tolist() == [0, 8, 5, 8]
    assert counterparts(np.zeros((1, 6), int), truth).tolist() == [0]
    assert counterparts(found, np.zeros((1, 6), int)).tolist() == [0, 0, 0, 0]
