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
    if rng.random() < 0.5 and markers.any():
        some = rng.choice(np.flatnonzero(markers), rng.integers(1, 5))
        heights.flat[some] = heights.flat[some[0]]
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


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that fills with what is flooded."""
    flooded: list[str] = []
    pieces_of, at_once_of = flooding._flood_pieces, flooding._at_once

    def spy_on_pieces(heights: Array, pieces: Array, seeds: Array, basins: Array) -> None:
        flooded.append("pieces " + ", ".join(map(str, np.unique(pieces.flat[seeds]))))
        pieces_of(heights, pieces, seeds, basins)

    def spy(levels: Array, markers: Array, mask: Array) -> Array:
        flooded.append("all")
        return at_once_of(levels, markers, mask)

    monkeypatch.setattr(flooding, "_flood_pieces", spy_on_pieces)
    monkeypatch.setattr(flooding, "_at_once", spy)
    return flooded


def test_only_the_piece_with_two_seeds_is_flooded(calls: list[str]) -> None:
    heights, markers, mask = two_pieces()
    np.testing.assert_array_equal(flood(heights, markers, mask), at_once(heights, markers, mask))
    assert calls == ["pieces 2"]


def test_a_tie_that_height_decides_changes_nothing(calls: list[str]) -> None:
    heights, markers, mask = two_pieces()
    heights[4, 30] = heights[15, 35] = 0.5
    np.testing.assert_array_equal(flood(heights, markers, mask), at_once(heights, markers, mask))
    assert calls == ["pieces 2"]


def test_a_tie_of_basins_that_do_not_touch_changes_nothing(calls: list[str]) -> None:
    heights, mask = np.ones((5, 31), np.float32), np.ones((5, 31), bool)
    markers = np.zeros(heights.shape, np.int32)
    markers[2, [5, 15, 25]] = 1, 2, 3
    heights[2, 15] = 2
    heights[:, 10], heights[:, 20] = 0.3, 0.4
    np.testing.assert_array_equal(flood(heights, markers, mask), at_once(heights, markers, mask))
    assert calls == ["pieces 1"]


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.int64(3)])
def test_a_tie_on_a_plateau_is_flooded_at_once(value: Any, calls: list[str]) -> None:
    heights, markers, mask = two_pieces()
    heights = np.full(heights.shape, value)
    np.testing.assert_array_equal(flood(heights, markers, mask), at_once(heights, markers, mask))
    assert calls == ["pieces 2", "all"]


def test_many_ties_are_flooded_at_once(calls: list[str]) -> None:
    heights = np.ones((60, 60), np.int64)
    markers = np.zeros(heights.shape, np.int32)
    markers[::2, ::2] = np.arange(1, 901).reshape(30, 30)
    np.testing.assert_array_equal(flood(heights, markers, heights > 0), at_once(heights, markers, heights > 0))
    assert calls == ["all"]


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (4, 5), (2, 3, 4)])
def test_without_seeds_or_mask_there_is_nothing(shape: tuple[int, ...]) -> None:
    ones = np.ones(shape, np.int32)
    assert not flood(ones, np.zeros_like(ones), ones > 0).any()
    assert not flood(ones, ones, ones < 0).any()
