"""The picture with outlines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from redis_consumer.demo.pictures.outlines import LARGE, PALETTE, PEAK, colours, outlines, overlay, stretched, touching

if TYPE_CHECKING:
    import numpy.typing as npt

    LabelPlane = npt.NDArray[np.integer]


def blobs(seed: int = 1, side: int = 40) -> LabelPlane:
    """Return a crowd of touching objects with some background."""
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, side, (25, 2))
    grid = np.moveaxis(np.mgrid[:side, :side], 0, -1)[:, :, None]
    nearest = np.argmin(((grid - seeds) ** 2).sum(axis=-1), axis=-1) + 1
    return np.where(nearest % 4 == 0, 0, nearest)


def has_other_neighbour(labels: LabelPlane, y: int, x: int) -> bool:
    steps = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
    rows, columns = labels.shape
    return any(labels[a, b] != labels[y, x] for a, b in steps if 0 <= a < rows and 0 <= b < columns)


def test_outlines_are_exactly_the_border_pixels_of_objects() -> None:
    labels = blobs()
    expected = [[bool(labels[y, x]) and has_other_neighbour(labels, y, x) for x in range(40)] for y in range(40)]
    np.testing.assert_array_equal(outlines(labels), expected)


def test_the_edge_of_the_image_is_no_border() -> None:
    assert not outlines(np.ones((5, 5), np.int32)).any()


def test_background_is_never_drawn_on() -> None:
    labels = blobs()
    assert not outlines(labels, 3)[labels == 0].any()


def test_a_thicker_line_grows_inwards() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[5:15, 5:15] = 1
    inner = np.zeros((20, 20), bool)
    inner[7:13, 7:13] = True
    np.testing.assert_array_equal(outlines(labels, 2), (labels == 1) & ~inner)


def test_colour_is_on_the_outlines_alone() -> None:
    labels = blobs(side=400)
    image = np.random.default_rng(2).normal(100, 20, labels.shape)
    picture = overlay(image, labels)
    lines = outlines(labels)
    grey = np.repeat(stretched(image)[..., None], 3, axis=-1)
    np.testing.assert_array_equal(picture[~lines], grey[~lines])
    assert {tuple(colour) for colour in picture[lines].tolist()} <= {tuple(colour) for colour in PALETTE.tolist()}


def test_objects_that_touch_have_different_colours() -> None:
    labels = blobs(seed=3)
    chosen = colours(labels)
    pairs = [(one, other) for one, others in touching(labels).items() for other in others]
    assert pairs
    assert all(chosen[one] != chosen[other] for one, other in pairs)


def test_objects_that_meet_at_a_corner_touch() -> None:
    labels = np.array([[1, 0], [0, 2]])
    assert touching(labels) == {1: {2}, 2: {1}}


def test_objects_apart_do_not_touch() -> None:
    assert touching(np.array([[1, 0, 2]])) == {}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 1), (4, 4)),
        ((100, 200), (300, 600)),
        ((512, 512), (512, 512)),
        ((2048, 1000), (2048, 1000)),
        ((LARGE + 1, 100), (1025, 50)),
    ],
)
def test_the_picture_has_a_size_to_look_at(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = overlay(np.zeros(shape, np.uint16), np.zeros(shape, np.uint16))
    assert picture.shape == (*expected, 3)
    assert picture.dtype == np.uint8


def test_enlarged_outlines_stay_on_the_objects_border() -> None:
    labels = np.zeros((100, 100), np.uint16)
    labels[20:30, 40:60] = 1
    picture = overlay(np.zeros(labels.shape), labels)
    zoom = picture.shape[0] // 100
    coloured = (picture != picture[..., :1]).any(axis=-1)
    rows, columns = np.nonzero(coloured)
    assert (rows.min(), rows.max()) == (20 * zoom, 30 * zoom - 1)
    assert (columns.min(), columns.max()) == (40 * zoom, 60 * zoom - 1)
    assert not coloured[20 * zoom + 1 : 30 * zoom - 1, 40 * zoom + 1 : 60 * zoom - 1].any()


def test_contrast_uses_the_whole_range_in_order() -> None:
    ramp = np.linspace(1000, 1300, 10000).reshape(100, 100)
    grey = stretched(ramp)
    assert (grey.min(), grey.max()) == (0, PEAK)
    assert (np.diff(grey.ravel().astype(int)) >= 0).all()


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
def test_an_image_of_one_value_is_black(value: float) -> None:
    assert not stretched(np.full((8, 8), value)).any()


def test_what_is_not_finite_is_black_and_spoils_nothing() -> None:
    image = np.linspace(0, 1, 100).reshape(10, 10)
    image[0, :2] = np.nan, np.inf
    grey = stretched(image)
    assert not grey[0, :2].any()
    assert grey.max() == PEAK


def test_labels_of_any_integer_type_are_drawn() -> None:
    for dtype in (np.uint8, np.uint16, np.int32, np.uint32):
        labels = np.zeros((900, 900), dtype)
        labels[10:20, 10:20] = 200
        assert (overlay(np.zeros((900, 900)), labels)[10, 10] == PALETTE[colours(labels)[200]]).all()
