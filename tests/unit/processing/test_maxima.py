from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy
import skimage as ski
from hypothesis import given, settings, strategies as st

from redis_consumer.processing import maxima
from redis_consumer.processing.maxima import h_maxima, peaks

if TYPE_CHECKING:
    import numpy.typing as npt

    Map = npt.NDArray[Any]


def by_definition(values: Map, h: float, radius: int) -> Map:
    footprint = ski.morphology.disk(radius) if values.ndim == 2 else ski.morphology.ball(radius)
    return np.asarray(ski.morphology.h_maxima(values, h, footprint=footprint).astype(bool))


def random_map(seed: int) -> Map:
    """Return a map of one of the kinds that models make, and of some that they should not."""
    rng = np.random.default_rng(seed)
    values = rng.random(rng.integers(1, 60, 2))
    sigma = rng.choice([0, 0.5, 1, 2, 4])
    values = scipy.ndimage.gaussian_filter(values, sigma) if sigma else values
    values = (values - values.min()) / max(np.ptp(values), 1e-9)
    steps = rng.choice([3, 10, 30, 255])
    kinds = {
        "as it is": values,
        "quantised": np.round(values * steps) / steps,
        "zero in half": np.where(values < 0.5, 0, values),
        "saturated": np.minimum(values, 0.7),
        "negative": values - 0.5,
        "large": values * 1000,
        "nearly flat": np.where(rng.random(values.shape) < 0.1, -1, values * 1e-6),
    }
    chosen: Map = kinds[rng.choice(list(kinds))]
    return chosen.astype(np.float32 if rng.random() < 0.7 else np.float64)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    h=st.sampled_from([0.01, 0.05, 0.1, 0.3, 1e-3, 1e-6]),
    radius=st.integers(1, 10),
    patient=st.booleans(),
)
def test_h_maxima_are_those_of_the_definition(seed: int, h: float, radius: int, patient: bool) -> None:  # noqa: FBT001 - drawn by Hypothesis
    values = random_map(seed)
    with pytest.MonkeyPatch.context() as patch:
        if patient:  # never give way to reconstruction, whatever it costs
            patch.setattr(maxima, "_FLOOD", -(10**9))
            patch.setattr(maxima, "_CHUNK", 7)
        actual = h_maxima(values, h, radius)
    np.testing.assert_array_equal(actual, by_definition(values, h, radius))


def test_no_reconstruction_where_cells_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.zeros((200, 200), np.float32)
    values[20::40, 20::40] = 1
    values = scipy.ndimage.gaussian_filter(values, 4) * 100
    expected = by_definition(values, 0.1, 10)
    monkeypatch.setattr(maxima, "_by_reconstruction", None)
    actual = h_maxima(values, 0.1, 10)
    assert actual.sum() == 25
    np.testing.assert_array_equal(actual, expected)


def test_a_map_of_noise_gives_way_to_reconstruction(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    values = np.random.default_rng(0).random((80, 80)).astype(np.float32)
    monkeypatch.setattr(maxima, "_by_reconstruction", lambda *args: called.append(args))
    h_maxima(values, 0.01, 2)
    assert len(called) == 1


def test_a_large_plateau_is_flooded_once() -> None:
    values = np.zeros((300, 300), np.float32)
    values[50:250, 50:250] = 1
    np.testing.assert_array_equal(h_maxima(values, 0.1, 10), values > 0)


def test_peaks_on_both_sides_of_a_narrow_valley_are_compared() -> None:
    values = np.zeros((11, 30), np.float32)
    values[5, 10], values[5, 18] = 1, 0.9
    assert np.argwhere(h_maxima(values, 0.05, 8)).tolist() == [[5, 10]]
    assert np.argwhere(h_maxima(values, 0.05, 7)).tolist() == [[5, 10], [5, 18]]


@pytest.mark.parametrize("shape", [(0, 5), (5, 5), (1, 1), (3, 4, 5)])
def test_a_flat_map_has_no_maxima(shape: tuple[int, ...]) -> None:
    assert not h_maxima(np.full(shape, 0.5, np.float32), 0.1, 3).any()


@pytest.mark.parametrize("h", [0, -0.1, np.nan])
def test_a_maximum_without_height_is_refused(h: float) -> None:
    with pytest.raises(ValueError, match="height of a maximum"):
        h_maxima(np.ones((3, 3), np.float32), h, 2)


def test_maxima_in_space_have_a_ball_around_them() -> None:
    values = np.random.default_rng(4).random((6, 12, 12)).astype(np.float32)
    np.testing.assert_array_equal(h_maxima(values, 0.2, 2), by_definition(values, 0.2, 2))


def test_of_two_close_peaks_the_higher_one_stays() -> None:
    values = np.zeros((9, 20), np.float32)
    values[4, 5], values[4, 8], values[4, 15] = 0.8, 0.9, 0.3
    assert np.argwhere(peaks(values, 0.1, 4)).tolist() == [[4, 8], [4, 15]]
    assert np.argwhere(peaks(values, 0.5, 4)).tolist() == [[4, 8]]


def test_peaks_at_the_border_or_outside_the_mask_do_not_count() -> None:
    values = np.zeros((20, 20), np.float32)
    values[1, 10], values[10, 10] = 1, 0.5
    assert np.argwhere(peaks(values, 0.1, 3, exclude_border=True)).tolist() == [[10, 10]]
    mask = np.zeros(values.shape, bool)
    mask[8:13, 8:13] = True
    assert np.argwhere(peaks(values, 0.1, 3, mask=mask)).tolist() == [[10, 10]]
