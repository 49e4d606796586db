from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from redis_consumer.arrays import Labels, Spots, as_image


@pytest.mark.parametrize(
    "axes", ["".join(p) for n in (2, 3, 4) for p in permutations("TYXC", n) if {"Y", "X"} <= set(p)]
)
def test_any_order_of_axes_comes_to_the_one_layout(axes: str) -> None:
    sizes = {"T": 2, "Y": 3, "X": 4, "C": 5}
    layout = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    kept = layout[tuple(slice(None) if a in axes else slice(0, 1) for a in "TYXC")]
    given = kept.squeeze(tuple(i for i, a in enumerate("TYXC") if a not in axes))
    present = [a for a in "TYXC" if a in axes]
    image = as_image(given.transpose([present.index(a) for a in axes]), axes)
    assert image.shape == tuple(sizes[a] if a in axes else 1 for a in "TYXC")
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("axes", ["YX", "YXCT", "YYX", "TZX", "YCS", "ABC"])
def test_axes_that_do_not_fit_are_refused(axes: str) -> None:
    with pytest.raises(ValueError, match="axes"):
        as_image(np.zeros((2, 2, 2)), axes)


@pytest.mark.parametrize("array", [np.zeros((2, 2), int), np.zeros((1, 2, 2, 1), np.float32)])
def test_labels_are_whole_numbers_of_four_axes(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="labels have"):
        Labels(array)


def test_objects_are_counted_in_each_frame_and_feature() -> None:
    array = np.zeros((2, 2, 2, 2), np.int32)
    array[0, 0, 0, 0], array[0, 0, 1, 0], array[1, 0, 0, 1] = 7, 9, 7
    assert Labels(array).count() == 3


def test_planes_come_frame_by_frame_and_carry_the_names_of_their_features() -> None:
    array = np.arange(2 * 3 * 4 * 2).reshape(2, 3, 4, 2)
    labels = Labels(array, ("nuclei", "whole-cell"))
    places = [(frame, labels.name_of(feature)) for frame, feature, _ in labels.planes()]
    assert places == [(0, "nuclei"), (0, "whole-cell"), (1, "nuclei"), (1, "whole-cell")]
    for frame, feature, plane in labels.planes():
        np.testing.assert_array_equal(plane, array[frame, :, :, feature])
    assert Labels(array).name_of(1) == "feature_1"


@pytest.mark.parametrize("names", [("one",), ("a", "a"), ("a", "b/c"), ("a", ""), ("a", "..")])
def test_names_are_one_different_word_for_each_feature(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="features"):
        Labels(np.zeros((1, 2, 2, 2), int), names)


def test_spots_are_counted_in_all_frames() -> None:
    image = np.zeros((3, 4, 5, 1), np.float32)
    assert Spots((np.zeros((2, 2)), np.zeros((0, 2)), np.zeros((1, 2))), image).count() == 3


@pytest.mark.parametrize(
    ("points", "shape"),
    [
        ((np.zeros((2, 2)),), (1, 4, 5, 2)),
        ((np.zeros((2, 2)),), (4, 5, 1)),
        ((np.zeros((2, 2)),), (2, 4, 5, 1)),
        ((np.zeros(2),), (1, 4, 5, 1)),
        ((np.zeros((2, 3)),), (1, 4, 5, 1)),
    ],
)
def test_spots_are_rows_and_columns_in_each_frame_of_one_channel(
    points: tuple[np.ndarray, ...], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="spots"):
        Spots(points, np.zeros(shape, np.float32))
