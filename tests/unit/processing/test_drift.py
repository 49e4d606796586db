from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from redis_consumer.processing import correct_drift


def scene(seed: int, rows: int = 33, columns: int = 40) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return a picture with an empty margin of a third."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((rows, columns), np.float32)
    inner = picture[rows // 3 : -rows // 3, columns // 3 : -columns // 3]
    inner[...] = rng.random(inner.shape)
    return picture


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    moves=st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=4),
    channels=st.integers(0, 2),
)
def test_moved_frames_come_back(seed: int, moves: list[tuple[int, int]], channels: int) -> None:
    still = scene(seed)
    still = np.stack([still * (c + 1) for c in range(channels)], axis=-1) if channels else still
    movie = np.stack([still, *(np.roll(still, move, axis=(0, 1)) for move in moves)])
    labels = (movie > 0.5).astype(np.uint16) * 12
    before = movie.copy()
    corrected, moved = correct_drift(movie, labels)
    np.testing.assert_array_equal(corrected, np.broadcast_to(still, movie.shape))
    np.testing.assert_array_equal(moved, np.broadcast_to(labels[0], labels.shape))
    np.testing.assert_array_equal(movie, before)
    assert moved is not None
    assert moved.dtype == np.uint16


def test_what_moves_in_is_zero_and_what_moves_out_is_lost() -> None:
    movie = np.stack([scene(1), np.roll(scene(1), (2, -3), axis=(0, 1))])
    movie[1] += 1
    corrected, _ = correct_drift(movie)
    assert not corrected[1, -2:].any()
    assert not corrected[1, :, :3].any()
    assert corrected[1, :-2, 3:].all()


@pytest.mark.parametrize("value", [0, 7])
def test_a_frame_without_contrast_stays(value: int) -> None:
    movie = np.stack([scene(1), np.full((33, 40), value, np.float32), scene(1)])
    corrected, labels = correct_drift(movie)
    assert labels is None
    np.testing.assert_array_equal(corrected[1], movie[1])


@pytest.mark.parametrize("shape", [(0, 4, 5), (1, 4, 5), (3, 1, 1), (2, 0, 5), (2, 1, 6, 1)])
def test_a_movie_without_room_stays_as_it_is(shape: tuple[int, ...]) -> None:
    movie = np.ones(shape, np.uint8)
    np.testing.assert_array_equal(correct_drift(movie)[0], movie)


def test_what_is_no_movie_is_refused() -> None:
    with pytest.raises(ValueError, match="drift: arrays have shape"):
        correct_drift(np.zeros((4, 5)))
    with pytest.raises(ValueError, match="expected are"):
        correct_drift(np.zeros((2, 4, 5)), np.zeros((2, 4, 6), int))
    with pytest.raises(ValueError, match="not finite"):
        correct_drift(np.full((2, 4, 5), np.nan))
