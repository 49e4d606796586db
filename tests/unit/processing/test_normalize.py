from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from redis_consumer.processing import (
    histogram_normalization,
    mesmer_preprocess,
    min_max_normalize,
    normalize,
    percentile_threshold,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Function = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

EVERY = [normalize, histogram_normalization, min_max_normalize, percentile_threshold, mesmer_preprocess]


def noise(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(3).gamma(2, 100, shape).astype(np.float32)


@pytest.mark.parametrize("function", EVERY)
def test_every_plane_is_treated_alone(function: Function) -> None:
    image = noise(2, 40, 50, 3) * np.array([1, 10, 100], np.float32)
    together = function(image)
    for t in range(2):
        for c in range(3):
            alone = function(image[t : t + 1, ..., c : c + 1])
            np.testing.assert_array_equal(together[t, ..., c], alone[0, ..., 0])


@pytest.mark.parametrize("function", EVERY)
def test_the_input_stays_as_it_is(function: Function) -> None:
    image = noise(1, 20, 20, 1)
    before = image.copy()
    function(image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(function: Function, value: float) -> None:
    image = noise(2, 8, 9, 2)
    image[1, 3, 4, 0] = value
    with pytest.raises(ValueError, match="not finite"):
        function(image)


@pytest.mark.parametrize("function", [normalize, histogram_normalization, min_max_normalize])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e-9, 65535.0])
def test_a_constant_plane_becomes_zeros(function: Function, value: float) -> None:
    assert not function(np.full((1, 33, 57, 1), value, np.float32)).any()


def test_normalized_planes_have_mean_zero_and_deviation_one() -> None:
    result = normalize(noise(2, 64, 64, 2).astype(np.uint16))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(result.std((1, 2)), 1, atol=1e-5)


def test_an_array_without_frames_and_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="frames first and channels last"):
        normalize(np.zeros(5, np.float32))


def test_equalized_planes_span_zero_to_one_and_ignore_brightness() -> None:
    image = noise(1, 60, 70, 1)
    result = histogram_normalization(image)
    assert result.dtype == np.float32
    assert (result.min(), result.max()) == (0, 1)
    np.testing.assert_allclose(histogram_normalization(image * 4 + 256), result, atol=0.01)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_narrow_planes_are_no_colours(width: int) -> None:
    image = noise(1, 50, width, 1)
    across = histogram_normalization(image.transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(histogram_normalization(image), across.transpose(0, 2, 1, 3))


def test_the_percentile_is_that_of_the_pixels_that_are_not_zero() -> None:
    image = np.zeros((1, 10, 10, 1), np.float32)
    image[0, 0, :, 0] = np.arange(1, 11)
    result = percentile_threshold(image, 50)
    np.testing.assert_array_equal(result[0, 0, :, 0], [1, 2, 3, 4, 5, 5.5, 5.5, 5.5, 5.5, 5.5])
    assert not result[0, 1:].any()


def test_a_blank_plane_has_no_percentile_and_stays_blank() -> None:
    assert not percentile_threshold(np.zeros((1, 4, 4, 1), np.uint8)).any()


def test_clipping_limits_what_a_hot_pixel_does() -> None:
    image = noise(1, 50, 50, 1)
    image[0, 0, 0, 0] = 1e6
    assert np.median(min_max_normalize(image)) < 0.01
    assert np.median(min_max_normalize(image, clip=True)) > 0.001
    assert min_max_normalize(image, clip=True).max() == 1
