"""The basins are scikit-image's, whatever is flooded alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy
import skimage as ski
from hypothesis import given, settings, strategies as st

from redis_consumer.processing import flooding
from redis_consumer.processing.flooding import flood

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


def at_once(heights: Array, markers: Array, mask: Array) -> Array:
    return np.asarray(ski.segmentation.watershed(-heights, markers, mask=mask))


def random_case(seed: int) -> tuple[Array, Array, Array]:
    """Return heights, markers and a mask: smooth or rough, with plateaus and ties, one id here and there or not."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2) if rng.random() < 0.8 else rng.integers(1, 12, 3))
    sigma, steps = rng.choice([0, 0.5, 1, 2], 2), rng.choice([0, 3, 10, 50, 1000, 100_000])
    heights = scipy.ndimage.gaussian_filter(rng.random(shape), sigma[0])
    heights = (heights - heights.min()) / max(np.ptp(heights), 1e-9)
    heights = np.round(heights * steps) / steps if steps else heights
    types = [np.float32, np.float32, np.float64, np.int64]
    heights = (heights * 100).astype(types[rng.integers(4)])
    mask = scipy.ndimage.gaussian_filter(rng.random(shape), sigma[1])
    mask = mask > np.quantile(mask, rng.choice([0.1, 0.3, 0.5, 0.7]))
    seeds = rng.random(shape) < rng.choice([0.002, 0.01, 0.03, 0.1])
    seeds = scipy.ndimage.binary_dilation(seeds) if rng.random() < 0.5 else seeds
    markers, count = scipy.ndimage.label(seeds, np.ones((3,) * len(shape)))
    if rng.random() < 0.3:
        markers = np.append(0, rng.integers(0, 4, count)).astype(np.int32)[markers]
    return heights, markers, mask


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_basins_are_those_of_the_whole_image(seed: int) -> None:
    heights, markers, mask = random_case(seed)
    np.testing.assert_array_equal(flood(heights, markers, mask), at_once(heights, markers, mask))


def two_pieces() -> tuple[Array, Array, Array]:
    """Return a map of two pieces, the left one with one seed, the right one with two."""
    heights = np.random.default_rng(5).random((20, 41)).astype(np.float32)
    mask = np.ones(heights.shape, bool)
    mask[:, 20] = False
    markers = np.zeros(heights.shape, np.int32)
    markers[10, 10], markers[4, 30], markers[15, 35] = 3, 1, 2
    return heights, markers, mask


def test_only_the_piece_with_two_seeds_is_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    heights, markers, mask = two_pieces()
    expected = at_once(heights, markers, mask)
    shapes = []

    def spy(levels: Array, *rest: Array) -> Array:
        shapes.append(levels.shape)
        return np.asarray(ski.segmentation.watershed(levels, rest[0], mask=rest[1]))

    monkeypatch.setattr(flooding, "_at_once", spy)
    np.testing.assert_array_equal(flood(heights, markers, mask), expected)
    assert shapes == [(20, 20)]


def test_a_tie_that_makes_no_difference_is_flooded_in_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    heights, markers, mask = two_pieces()
    heights[4, 30] = heights[15, 35] = 0.5
    calls: list[Array] = []

    def spy(levels: Array, markers: Array, _: Array) -> Array:
        calls.append(levels.copy())
        return markers

    monkeypatch.setattr(flooding, "_at_once", spy)
    flood(heights, markers, mask)
    first, second = calls
    assert first[4, 9] < -0.5 == first[15, 14]
    assert second[15, 14] < -0.5 == second[4, 9]


@pytest.mark.parametrize("kind", ["plateau", "three seeds", "float64"])
def test_a_tie_that_may_make_a_difference_is_flooded_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heights, markers, mask = two_pieces()
    heights[4, 30] = heights[15, 35] = 0.5
    if kind == "plateau":
        heights[:] = 0.5
    elif kind == "three seeds":
        markers[0, 40], heights[0, 40] = 4, 0.5
    else:
        heights = heights.astype(np.float64)
    expected, shapes = at_once(heights, markers, mask), []

    def spy(levels: Array, markers: Array, mask: Array) -> Array:
        shapes.append(levels.shape)
        return np.asarray(ski.segmentation.watershed(levels, markers, mask=mask))

    monkeypatch.setattr(flooding, "_at_once", spy)
    np.testing.assert_array_equal(flood(heights, markers, mask), expected)
    assert shapes[-1] == heights.shape


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (4, 5), (2, 3, 4)])
def test_without_seeds_or_mask_there_is_nothing(shape: tuple[int, ...]) -> None:
    ones = np.ones(shape, np.int32)
    assert not flood(ones, np.zeros_like(ones), ones > 0).any()
    assert not flood(ones, ones, ones < 0).any()
