from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies as st

from redis_consumer.processing import resize, scaled_size


def gradient(rows: int, columns: int, channels: int = 1) -> npt.NDArray[np.float32]:
    y, x = np.mgrid[:rows, :columns]
    return np.stack([(y + 2 * x + 1) * (c + 1) for c in range(channels)], axis=-1).astype(np.float32)


@pytest.mark.parametrize(("scale", "expected"), [(1, (7, 9)), (0.5, (3, 4)), (1.999, (13, 17)), (1e-9, (1, 1))])
def test_a_scaled_size_is_cut_down_to_whole_pixels(scale: float, expected: tuple[int, int]) -> None:
    assert scaled_size((7, 9), scale) == expected


@pytest.mark.parametrize("channels", [1, 2])
def test_the_same_size_is_the_same_array(channels: int) -> None:
    image = gradient(5, 6, channels)
    assert resize(image, (5, 6)) is image


@pytest.mark.parametrize("channels", [1, 2])
def test_each_frame_is_resized_alone(channels: int) -> None:
    frames = np.stack([gradient(12, 9, channels), gradient(12, 9, channels) ** 2])
    for together, frame in zip(resize(frames, (7, 20)), frames, strict=True):
        np.testing.assert_array_equal(together, resize(frame, (7, 20)))


def test_one_channel_repeats_its_edges() -> None:
    np.testing.assert_array_equal(resize(np.full((4, 4, 1), 3, np.float32), (9, 7)), np.full((9, 7, 1), 3))


def test_several_channels_fade_to_zero_at_the_border_but_not_below_what_the_image_has() -> None:
    bright = np.full((4, 4, 2), 8, np.float32)
    np.testing.assert_array_equal(resize(bright, (8, 8)), np.full((8, 8, 2), 8))
    dark = bright.copy()
    dark[2, 2] = 5  # in one place is enough
    result = resize(dark, (8, 8))
    np.testing.assert_array_equal(result[1:3, 1:3], np.full((2, 2, 2), 8))
    np.testing.assert_array_equal(result[0, 1:3], np.full((2, 2), 6))
    np.testing.assert_array_equal(result[0, 0], [5, 5])


def test_bilinear_interpolation_keeps_a_gradient() -> None:
    enlarged = resize(gradient(10, 10), (20, 20))
    np.testing.assert_allclose(enlarged[3, 4, 0], 1 + 1.25 + 2 * 1.75)
    shrunk = resize(gradient(10, 10), (5, 5))
    np.testing.assert_allclose(shrunk[1, 2, 0], 1 + 2.5 + 2 * 4.5)


def test_several_channels_are_smoothed_before_they_shrink() -> None:
    checks = np.indices((40, 40)).sum(axis=0)[..., None].repeat(2, axis=-1) % 2
    smooth = np.asarray(resize(checks.astype(np.float32), (10, 10)), np.float32)[2:-2, 2:-2]
    assert np.ptp(smooth) < 0.1


def test_integers_stay_integers() -> None:
    result = resize(gradient(10, 10).astype(np.uint16), (15, 15))
    assert result.dtype == np.uint16


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint32, np.int64])
@pytest.mark.parametrize("channels", [1, 2])
def test_labels_of_any_type_stay_labels(dtype: type[Any], channels: int) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (9, 8, channels)).astype(dtype)
    result = resize(labels, (20, 5), labels=True)
    assert result.dtype == dtype
    assert set(np.unique(result)) <= set(np.unique(labels))


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    factor=st.integers(1, 5),
    channels=st.sampled_from([1, 2]),
)
def test_labels_enlarged_by_a_whole_factor_and_back_are_the_same(
    rows: int, columns: int, factor: int, channels: int
) -> None:
    labels = np.arange(rows * columns * channels).reshape(rows, columns, channels)
    large = resize(labels, (rows * factor, columns * factor), labels=True)
    np.testing.assert_array_equal(large, labels.repeat(factor, axis=0).repeat(factor, axis=1))
    np.testing.assert_array_equal(resize(large, (rows, columns), labels=True), labels)


@pytest.mark.parametrize(("shape", "size"), [((4, 4), (2, 2)), ((1, 1, 4, 4, 1), (2, 2)), ((4, 4, 1), (0, 2))])
def test_what_cannot_be_resized_is_refused(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot resize"):
        resize(np.zeros(shape), size)
