from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st

from redis_consumer.processing import rescale, resize, scaled_size
from redis_consumer.processing.rescale import Resized, ResizedLabels, ResizedStain


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


spans = st.tuples(st.floats(0, 1), st.floats(0, 1))


def part_of(size: int, ends: tuple[float, float]) -> slice:
    start = min(int(min(ends) * size), size - 1)
    return slice(start, max(start + 1, int(max(ends) * size)))


class Watched:
    """A plane that counts how much of it is asked for, in all and at most at once."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array
        self.shape = array.shape
        self.read = self.most = 0

    def __getitem__(self, place: tuple[slice, slice]) -> npt.NDArray[Any]:
        assert all(0 <= span.start < span.stop <= size for span, size in zip(place, self.shape, strict=True))
        part = self.array[place]
        self.read += part.size
        self.most = max(self.most, part.size)
        return part


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    new=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    rows=spans,
    columns=spans,
)
def test_a_part_is_made_as_in_the_whole(
    size: tuple[int, int], new: tuple[int, int], rows: tuple[float, float], columns: tuple[float, float]
) -> None:
    place = part_of(new[0], rows), part_of(new[1], columns)
    image = np.random.default_rng(1).normal(size=(*size, 2)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 9, (*size, 2)).astype(np.int32)
    stain = ResizedStain(Watched(image[..., 0]), new, float(image.min()), float(image.max()))
    if size == new:
        return
    np.testing.assert_array_equal(
        Resized(Watched(image[..., 0]), new)[place], resize(image[..., :1], new)[..., 0][place]
    )
    np.testing.assert_array_equal(stain[place], resize(image, new)[..., 0][place])
    for channels in (1, 2):
        expected = resize(labels[..., :channels], new, labels=True)[..., 0][place]
        found = ResizedLabels(Watched(labels[..., 0]), new, single=channels == 1)[place]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("new", [(6, 9), (31, 45), (128, 77)])
def test_a_part_is_made_in_pieces_of_a_block(new: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    side = 16
    monkeypatch.setattr(rescale, "SIDE", side)
    image = np.random.default_rng(1).normal(size=(64, 90, 2)).astype(np.float32)
    grey, stain, labels = (Watched(image[..., 0]) for _ in range(3))
    place = slice(0, new[0]), slice(0, new[1])
    lowest, highest = float(image.min()), float(image.max())
    made = Resized(grey, new)[place], ResizedStain(stain, new, lowest, highest)[place]
    np.testing.assert_array_equal(made[0], resize(image[..., :1], new)[..., 0])
    np.testing.assert_array_equal(made[1], resize(image, new)[..., 0])
    expected = resize(image[..., :1].astype(np.int32), new, labels=True)[..., 0]
    np.testing.assert_array_equal(ResizedLabels(labels, new, single=True)[place].astype(np.int32), expected)
    margin = 2 * (4 * 64 // new[0] + 2)
    assert max(grey.most, labels.most) <= (side + 2) ** 2
    assert stain.most <= (side + 2 + margin) ** 2  # what the Gaussian sees, too


def test_no_more_is_read_than_a_part_is_made_of() -> None:
    for new in ((200, 200), (50, 50)):
        plane = Watched(np.ones((100, 100), np.float32))
        Resized(plane, new)[slice(new[0] // 2, new[0] // 2 + 2), slice(0, new[1])]
        assert plane.read <= 5 * 100
