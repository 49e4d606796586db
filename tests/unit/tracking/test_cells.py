from __future__ import annotations

import numpy as np
import pytest

from redis_consumer.tracking import unique_labels


def test_no_two_frames_share_an_id() -> None:
    """Three cells in all: the first new id is 4."""
    movie = np.array([[[7, 0, 2]], [[0, 0, 0]], [[2, 2, 0]]], np.uint8)
    found = unique_labels(movie)
    assert found.dtype == np.int32
    assert found.tolist() == [[[5, 0, 4]], [[0, 0, 0]], [[6, 6, 0]]]


@pytest.mark.parametrize("shape", [(0, 4, 4, 1), (2, 0, 4, 1), (2, 3, 4, 1)])
def test_a_movie_without_cells_stays_one(shape: tuple[int, ...]) -> None:
    assert not unique_labels(np.zeros(shape, np.int64)).any()
