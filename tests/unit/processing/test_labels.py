from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy
import skimage as ski
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from redis_consumer.processing.labels import _euler_numbers, compact, erode, fill_holes, label_places, remove_small

LabelImage = npt.NDArray[np.int32]

small_labels = arrays(np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 4))


def few_points(seed: int, rank: int) -> npt.NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    points: npt.NDArray[np.bool_] = rng.random(rng.integers(1, 15, rank)) < rng.choice([0, 0.01, 0.05, 0.2, 0.9])
    return points


def picture(text: str) -> LabelImage:
    return np.array([[int(c) for c in line] for line in text.split()], np.int32)


def test_erosion_takes_the_outermost_pixels_but_not_at_the_border_of_the_image() -> None:
    labels = picture("11122 11122 11122 11122 00000")
    np.testing.assert_array_equal(erode(labels, 1), picture("11002 11002 11002 00000 00000"))
    np.testing.assert_array_equal(erode(labels, 0), labels)


@given(small_labels)
def test_erosion_is_that_of_the_inner_boundaries(labels: LabelImage) -> None:
    boundaries = ski.segmentation.find_boundaries(labels, connectivity=1, mode="inner")
    np.testing.assert_array_equal(erode(labels, 1), np.where(boundaries, 0, labels))


def test_an_object_of_the_least_size_stays() -> None:
    labels = picture("1102 1003 0303")
    np.testing.assert_array_equal(remove_small(labels, 3), picture("1100 1003 0303"))


@pytest.mark.parametrize("corners", [True, False])
@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 3))
def test_points_are_labelled_as_any_mask_is(corners: bool, seed: int, rank: int) -> None:  # noqa: FBT001 - a parameter
    points = few_points(seed, rank)
    structure = scipy.ndimage.generate_binary_structure(rank, rank if corners else 1)
    expected, _ = scipy.ndimage.label(points, structure)
    places = np.flatnonzero(points)
    np.testing.assert_array_equal(label_places(places, points.shape, corners=corners), expected.flat[places])


@given(small_labels)
def test_compact_ids_are_one_to_n_in_the_old_order(labels: LabelImage) -> None:
    result = compact(labels)
    old = np.unique(labels[labels > 0])
    assert np.unique(result[result > 0]).tolist() == list(range(1, len(old) + 1))
    np.testing.assert_array_equal(np.append(0, old)[result], labels)


@settings(deadline=None)
@given(small_labels)
def test_euler_numbers_are_pieces_less_holes(labels: LabelImage) -> None:
    actual = _euler_numbers(labels)
    for label in np.unique(labels[labels > 0]):
        assert actual[label] == ski.measure.euler_number(labels == label, connectivity=2)


def test_holes_below_the_size_are_filled() -> None:
    labels = picture("11111 10001 11111 00000 22222 20222 22222")
    np.testing.assert_array_equal(fill_holes(labels, 3), picture("11111 10001 11111 00000 22222 22222 22222"))
    np.testing.assert_array_equal(fill_holes(labels, 4), picture("11111 11111 11111 00000 22222 22222 22222"))


def test_a_notch_is_filled_only_in_an_object_with_a_hole() -> None:
    holed, whole = picture("1110 1011 1111"), picture("1110 1111 1111")
    np.testing.assert_array_equal(fill_holes(holed, 3), picture("1111 1111 1111"))
    np.testing.assert_array_equal(fill_holes(whole, 3), whole)


def test_nothing_becomes_nothing() -> None:
    blank = np.zeros((4, 5), np.int32)
    for result in (erode(blank, 2), remove_small(blank, 5), compact(blank), fill_holes(blank, 5)):
        np.testing.assert_array_equal(result, blank)
