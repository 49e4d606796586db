from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy
import skimage as ski
from hypothesis import given, settings, strategies as st

from redis_consumer.processing import mibi

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

PLUS = scipy.ndimage.generate_binary_structure(2, 1)


def plain_recipe(edge: Array, interior: Array) -> Array:
    """Return the labels by scipy's grey morphology, step by step."""
    regions = ski.measure.label((interior >= 0.25) & (edge < 0.25), connectivity=1)
    sizes = np.bincount(regions.ravel())
    labels = ski.measure.label((regions > 0) & (sizes[regions] >= 50), connectivity=2)

    def grow(labels: Array, within: Array) -> Array:
        grown = scipy.ndimage.grey_dilation(labels, footprint=PLUS)
        return np.where((labels == 0) & within, grown, labels)

    def shrink(labels: Array) -> Array:
        return np.where(scipy.ndimage.grey_erosion(labels, footprint=PLUS) == labels, labels, 0)

    everywhere = np.ones(labels.shape, bool)
    for _ in range(8):
        labels = shrink(grow(grow(labels, interior >= 0.25), interior >= 0.25))
    labels = grow(grow(labels, interior >= 0.25), interior >= 0.25)
    for _ in range(2):
        labels = shrink(shrink(grow(labels, everywhere)))
    return labels


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_cores_grow_as_grey_morphology_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 70, 2)
    edge, interior = (scipy.ndimage.gaussian_filter(rng.random(shape), rng.choice([2, 4])) for _ in range(2))
    edge, interior = (2 * (m - m.min()) / max(np.ptp(m), 1e-9) - rng.choice([0.3, 0.6]) for m in (edge, interior))
    prediction = np.stack([edge, interior], axis=-1)[None].astype(np.float32)
    np.testing.assert_array_equal(mibi(prediction)[0, ..., 0], plain_recipe(*prediction[0].transpose(2, 0, 1)))


def test_frames_are_labelled_alone_and_ids_are_not_short() -> None:
    prediction = np.zeros((2, 40, 40, 2), np.float32)
    prediction[0, 5:15, 5:15, 1] = prediction[:, 20:35, 20:35, 1] = 1
    labels = mibi(prediction)
    assert labels.dtype == np.int32
    assert labels.shape == (2, 40, 40, 1)
    assert [np.unique(frame).tolist() for frame in labels] == [[0, 1, 2], [0, 1]]


def test_cores_below_fifty_pixels_are_none() -> None:
    prediction = np.zeros((1, 30, 30, 2), np.float32)
    prediction[0, 5:12, 5:12, 1] = 1
    assert not mibi(prediction).any()


def test_thresholds_belong_to_the_classes_themselves() -> None:
    prediction = np.zeros((1, 30, 30, 3), np.float32)
    prediction[0, 5:25, 5:25] = [0.25, 0.25, 1]
    assert not mibi(prediction).any()
    assert mibi(prediction, edge_threshold=0.26).any()
    assert not mibi(prediction, edge_threshold=0.26, interior_threshold=0.26).any()


@pytest.mark.parametrize("shape", [(8, 8, 2), (1, 8, 8, 1)])
def test_a_prediction_without_edges_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="mibi: the prediction has shape"):
        mibi(np.zeros(shape, np.float32))


def test_an_empty_image_has_no_cells() -> None:
    assert mibi(np.zeros((1, 0, 5, 2), np.float32)).shape == (1, 0, 5, 1)
    assert not mibi(np.ones((1, 1, 1, 2), np.float32)).any()
