from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from redis_consumer.spots import (
    detect_spots,
    spots_at_maxima,
    spots_at_pixels,
    spots_at_regions,
    spots_within_pixels,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from redis_consumer.spots import Points

    Array = npt.NDArray[Any]
    Finder = Callable[..., list[Points]]

EVERY: list[Finder] = [detect_spots, spots_at_maxima, spots_at_pixels, spots_within_pixels, spots_at_regions]


def heads(*images: dict[tuple[int, int], float], size: int = 20) -> tuple[Array, Array]:
    """Return a classification of single likely pixels, and offsets of nothing."""
    probability = np.zeros((len(images), size, size), np.float32)
    for image, pixels in zip(probability, images, strict=True):
        for place, value in pixels.items():
            image[place] = value
    return np.stack([1 - probability, probability], axis=-1), np.zeros((len(images), size, size, 2), np.float32)


def plain_maxima(probability: Array, threshold: float, distance: int) -> list[tuple[int, int]]:
    """Return the maxima by their definition, pixel by pixel."""
    rows, columns = probability.shape
    if np.ptp(probability) == 0 and probability.size > 1:
        return []
    found = []
    for y in range(distance, rows - distance):
        for x in range(distance, columns - distance):
            around = probability[max(y - distance, 0) : y + distance + 1, max(x - distance, 0) : x + distance + 1]
            if probability[y, x] > threshold and probability[y, x] == around.max():
                found.append((y, x))
    kept: list[tuple[int, int]] = []
    for y, x in sorted(found, key=lambda place: -probability[place]):  # stable: equals stay by row and column
        if all(max(abs(y - a), abs(x - b)) >= distance for a, b in kept):
            kept.append((y, x))
    return kept


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([0, 0.3, 0.8]))
def test_maxima_are_those_of_the_definition(seed: int, distance: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    probability = np.round(rng.random((1, *rng.integers(1, 25, 2))), rng.integers(1, 4)).astype(np.float32)
    classification, offsets = np.stack([1 - probability, probability], axis=-1), rng.random((*probability.shape, 2))
    (points,) = spots_at_maxima(classification, offsets, threshold=threshold, min_distance=distance)
    places = plain_maxima(probability[0], threshold, distance)
    expected = [np.array(place) + offsets[0][place] for place in places]
    np.testing.assert_allclose(points, np.reshape(expected, (-1, 2)))


def test_images_may_have_different_numbers_of_spots() -> None:
    several = spots_at_maxima(*heads({(5, 5): 0.97, (10, 12): 0.99}, {}, {(3, 4): 1.0}))
    assert [points.tolist() for points in several] == [[[10, 12], [5, 5]], [], [[3, 4]]]
    assert [points.shape for points in several] == [(2, 2), (0, 2), (1, 2)]


def test_offsets_are_rows_and_columns_and_may_lead_out_of_the_image() -> None:
    classification, offsets = heads({(1, 18): 1.0})
    offsets[0, 1, 18] = [-1.5, 2.25]
    (points,) = detect_spots(classification, offsets)
    assert points.tolist() == [[-0.5, 20.25]]


def test_pixels_at_the_border_are_no_maxima() -> None:
    maps = heads({(0, 10): 1.0, (1, 15): 1.0, (2, 5): 1.0, (18, 10): 1.0})
    assert [len(points) for points in detect_spots(*maps)] == [3]
    assert [len(points) for points in spots_at_maxima(*maps)] == [1]
    assert [len(points) for points in spots_at_pixels(*maps)] == [4]


@pytest.mark.parametrize("value", [0.0, 0.99])
def test_a_flat_map_has_no_maxima(value: float) -> None:
    classification = np.full((1, 9, 9, 2), value, np.float32)
    (points,) = detect_spots(classification, np.zeros_like(classification))
    assert points.shape == (0, 2)


def test_pixels_are_left_out_where_the_spot_is_not_in_them() -> None:
    classification, offsets = heads({(5, 5): 1.0, (7, 7): 1.0, (9, 9): 1.0})
    offsets[0, 5, 5], offsets[0, 7, 7] = [0.5, -0.5], [0, 0.51]
    (points,) = spots_within_pixels(classification, offsets)
    assert points.tolist() == [[5.5, 4.5], [9, 9]]


def test_a_region_is_one_spot_in_its_middle() -> None:
    classification, offsets = heads({(5, 5): 1.0, (6, 6): 1.0, (12, 3): 1.0})
    offsets[0, 5, 5] = [1, 0]
    (points,) = spots_at_regions(classification, offsets)
    assert points.tolist() == [[6, 5.5], [12, 3]]


@pytest.mark.parametrize("find", EVERY)
def test_no_pixels_are_no_spots(find: Finder) -> None:
    blank = np.zeros((2, 6, 7, 2), np.float32)
    assert [points.shape for points in find(blank, blank)] == [(0, 2), (0, 2)]
    assert [points.shape for points in find(blank[:, :0], blank[:, :0])] == [(0, 2), (0, 2)]
    assert find(blank[:0], blank[:0]) == []
    assert [points.shape for points in find(blank[:1, :1, :1], blank[:1, :1, :1])] == [(0, 2)]


@pytest.mark.parametrize("find", EVERY)
def test_half_precision_is_enough_for_a_map(find: Finder) -> None:
    classification, offsets = heads({(5, 5): 1.0})
    (points,) = find(classification.astype(np.float16), offsets.astype(np.float16))
    assert points.dtype == np.float64
    assert points.tolist() == [[5, 5]]


@pytest.mark.parametrize("find", EVERY)
def test_other_maps_are_refused(find: Finder) -> None:
    classification, offsets = heads({(5, 5): 1.0})
    for wrong in (classification[0], classification[..., :1], classification[:, 1:]):
        with pytest.raises(ValueError, match=r"spots: the .* has shape"):
            find(wrong, offsets)
        with pytest.raises(ValueError, match=r"spots: the .* has shape"):
            find(classification, wrong)
    with pytest.raises(ValueError, match="not finite"):
        find(classification, np.full_like(offsets, np.nan))
    for threshold in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="threshold"):
            find(classification, offsets, threshold=threshold)
