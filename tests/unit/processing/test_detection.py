from __future__ import annotations

import numpy as np
import pytest

from redis_consumer.processing import detected_label, detected_scale, detection_tiles, sampled_tiles


def test_tiles_overlap_and_zeros_fill_them_up() -> None:
    image = np.ones((2, 100, 70, 1), np.float32)
    tiles = detection_tiles(image, (64, 64))
    assert tiles.shape == (2 * 2 * 2, 64, 64, 1)
    assert 0 < tiles.mean() < 1


def test_a_small_image_is_reflected() -> None:
    assert detection_tiles(np.ones((1, 20, 30, 1), np.float32), (64, 64)).all()


def test_every_third_tile_is_looked_at() -> None:
    image = np.arange(2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4, 1)
    tiles = sampled_tiles(image, size=2)
    np.testing.assert_array_equal(tiles[:, 0, 0, 0], [0, 10, 24])


@pytest.mark.parametrize("shape", [(1, 215, 300, 1), (1, 300, 215, 2), (2, 1, 1, 1)])
def test_an_image_smaller_than_a_tile_is_looked_at_as_a_whole(shape: tuple[int, ...]) -> None:
    image = np.ones(shape, np.float32)
    assert sampled_tiles(image) is image


def test_the_scale_is_the_mean_and_near_one_it_is_one() -> None:
    assert detected_scale(np.array([[0.5], [1.0]], np.float32)) == 0.75
    assert detected_scale(np.array([[0.992], [1.0]], np.float32)) == 1
    assert detected_scale(np.array([[1.02], [1.01]], np.float32)) == pytest.approx(1.015)


def test_the_label_has_the_most_votes_and_the_first_wins() -> None:
    assert detected_label(np.array([[0.4, 0.6, 0], [0.9, 0.1, 0]])) == 0
    assert detected_label(np.array([[0.0, 0.5, 0.5], [0.0, 0.5, 0.5]])) == 1


@pytest.mark.parametrize("predictions", [np.empty((0, 1)), np.array([[np.nan]]), np.array([[1.0, np.inf]])])
def test_no_answer_is_refused(predictions: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    for function in (detected_scale, detected_label):
        with pytest.raises(ValueError, match="a detection model predicted"):
            function(predictions)
