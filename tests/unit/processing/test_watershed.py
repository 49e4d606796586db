from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy
import skimage as ski
from hypothesis import given, settings, strategies as st

from redis_consumer.processing import deep_watershed, mibi, pixelwise, watershed

if TYPE_CHECKING:
    import numpy.typing as npt

    Map = npt.NDArray[np.float32]


def discs(*centres: tuple[int, int], radius: int = 10, size: int = 96) -> tuple[Map, Map]:
    """Return inner distance and foreground of nuclei, (1, size, size, 1) each."""
    y, x = np.mgrid[:size, :size]
    distance = np.min([np.hypot(y - cy, x - cx) for cy, cx in centres], axis=0) / radius
    inner = np.clip(1 - distance, 0, 1).astype(np.float32)
    return inner[None, ..., None], (distance < 1).astype(np.float32)[None, ..., None]


def test_every_nucleus_gets_an_id_by_row_and_column() -> None:
    labels = deep_watershed(discs((20, 70), (30, 20), (70, 60)))
    assert labels.shape == (1, 96, 96, 1)
    assert labels.dtype == np.int32
    assert [labels[0, y, x, 0] for y, x in ((20, 70), (30, 20), (70, 60), (50, 90))] == [1, 2, 3, 0]


def test_touching_nuclei_are_parted_between_them() -> None:
    labels = deep_watershed(discs((40, 30), (40, 48)))[0, 40, :, 0]
    assert labels[38] == 1
    assert labels[41] == 2


def test_frames_are_labelled_alone() -> None:
    inner, foreground = (np.concatenate(maps) for maps in zip(discs((30, 30)), discs((60, 60), (20, 70)), strict=True))
    labels = deep_watershed([inner, foreground])
    assert labels.max(axis=(1, 2, 3)).tolist() == [1, 2]
    np.testing.assert_array_equal(labels[:1], deep_watershed([inner[:1], foreground[:1]]))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_blank_map_has_no_nuclei(value: float) -> None:
    blank = np.full((1, 32, 32, 1), value, np.float32)
    assert not deep_watershed([blank, blank]).any()


def test_parameters_shape_the_objects() -> None:
    maps = discs((30, 30), (70, 70), radius=12)
    plain = deep_watershed(maps)
    assert np.count_nonzero(deep_watershed(maps, label_erosion=2)) < np.count_nonzero(plain)
    assert np.count_nonzero(deep_watershed(maps, pixel_expansion=2)) > np.count_nonzero(plain)
    assert not deep_watershed(maps, small_objects_threshold=1000).any()
    assert deep_watershed(maps, maxima_algorithm="peak_local_max").max() == 2


def test_a_hole_is_filled_in_planes_and_left_in_space(caplog: pytest.LogCaptureFixture) -> None:
    inner, foreground = discs((30, 30))
    foreground[0, 32:34, 32:34] = 0
    maps = [inner, foreground]
    assert deep_watershed(maps, interior_smooth=0)[0, 32, 32, 0] == 0
    assert deep_watershed(maps, interior_smooth=0, fill_holes_threshold=5)[0, 32, 32, 0] == 1
    space = [np.stack([m, m], axis=1) for m in maps]
    labels = deep_watershed(space, interior_smooth=0, fill_holes_threshold=5)
    assert labels.shape == (1, 2, 96, 96, 1)
    assert labels[0, 0, 32, 32, 0] == 0
    assert "fill_holes_threshold is ignored" in caplog.text


def test_old_names_of_parameters_win() -> None:
    maps = discs((30, 30), (30, 45), (70, 70))
    new = deep_watershed(maps, radius=3, maxima_threshold=0.4, interior_threshold=0.3)
    old = deep_watershed(maps, radius=9, min_distance=3, detection_threshold=0.4, distance_threshold=0.3)
    np.testing.assert_array_equal(old, new)


def test_half_precision_is_enough_for_a_map() -> None:
    maps = [m.astype(np.float16) for m in discs((30, 30), (70, 70))]
    assert deep_watershed(maps).max() == 2


def wrong(**changes: Any) -> tuple[list[npt.NDArray[Any]], dict[str, Any]]:
    maps = list(discs((30, 30)))
    return changes.pop("maps", maps), changes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (wrong(maps=[]), "0 outputs"),
        (wrong(maxima_index=2), "no output 2"),
        (wrong(maps=[np.zeros((1, 8, 8, 1)), np.zeros((1, 8, 9, 1))]), "shapes"),
        (wrong(maps=[np.zeros((8, 8, 1))]), "shapes"),
        (wrong(maps=[np.zeros((1, 8, 8, 1), np.int32)]), "dtype int32"),
        (wrong(maps=[np.full((1, 8, 8, 1), np.nan)]), "not finite"),
        (wrong(maxima_algorithm="best"), "allowed are 'h_maxima' and 'peak_local_max'"),
        (wrong(maxima_threshold=0), "height"),
    ],
)
def test_what_cannot_be_labelled_is_refused(call: tuple[Any, dict[str, Any]], message: str) -> None:
    maps, parameters = call
    with pytest.raises(ValueError, match=message):
        deep_watershed(maps, **parameters)


def test_an_unknown_parameter_is_refused() -> None:
    parameters: dict[str, Any] = {"radios": 3}
    with pytest.raises(TypeError, match="radios"):
        deep_watershed(discs((30, 30)), **parameters)


def test_classes_of_depth_are_flooded_from_the_deepest() -> None:
    inner, _ = discs((20, 20), (60, 30), (60, 48), radius=14)
    steps = np.digitize(inner[..., 0], [0.01, 0.4, 0.7])
    prediction = scipy.ndimage.gaussian_filter(np.eye(4, dtype=np.float32)[steps], (0, 1, 1, 0))
    labels = watershed(prediction)
    assert labels.shape == (1, 96, 96, 1)
    assert len({labels[0, y, x, 0] for y, x in ((20, 20), (60, 30), (60, 48))} - {0}) == 3
    assert not watershed(prediction, min_size=2000).any()
    with pytest.raises(ValueError, match="watershed: the prediction has shape"):
        watershed(prediction[0])


def test_regions_of_interior_are_objects_unless_they_are_small() -> None:
    prediction = np.zeros((2, 20, 20, 3), np.float32)
    prediction[0, 2:5, 2:4, 1] = 0.9
    prediction[:, 8:18, 8:18, 1] = 0.9
    prediction[0, 8:18, 2:4, 1] = 0.8
    labels = pixelwise(prediction, min_size=20)
    assert labels.shape == (2, 20, 20, 1)
    assert np.unique(labels[0]).tolist() == [0, 2]
    assert np.unique(labels[1]).tolist() == [0, 1]
    assert np.count_nonzero(labels) == 200


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 8, 8, 1)])
def test_a_prediction_without_interior_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="pixelwise: the prediction has shape"):
        pixelwise(np.zeros(shape, np.float32))


def plain_recipe(maps: list[Map], **given: Any) -> npt.NDArray[Any]:
    """Return the labels of one frame as scikit-image makes them, step by step."""
    peak_map, interior = (m[0, ..., 0] for m in maps)
    if given["maxima_smooth"]:
        peak_map = scipy.ndimage.gaussian_filter(peak_map, given["maxima_smooth"])
    if given["interior_smooth"]:
        interior = scipy.ndimage.gaussian_filter(interior, given["interior_smooth"])
    if given["pixel_expansion"]:
        interior = ski.morphology.dilation(interior, np.ones((2 * given["pixel_expansion"] + 1,) * 2))
    if given["maxima_algorithm"] == "h_maxima":
        footprint = ski.morphology.disk(given["radius"])
        seeds = ski.morphology.h_maxima(peak_map, given["maxima_threshold"], footprint=footprint)
    else:
        seeds = np.zeros(peak_map.shape, bool)
        places = ski.feature.peak_local_max(
            peak_map,
            min_distance=given["radius"],
            threshold_abs=given["maxima_threshold"],
            exclude_border=given["exclude_border"],
        )
        seeds[tuple(places.T)] = True
    labels = ski.segmentation.watershed(
        -interior, ski.measure.label(seeds, connectivity=2), mask=interior > given["interior_threshold"]
    )
    for _ in range(given["label_erosion"]):
        labels[ski.segmentation.find_boundaries(labels, connectivity=1, mode="inner")] = 0
    for label in np.unique(labels[labels > 0]):
        if np.count_nonzero(labels == label) < given["small_objects_threshold"]:
            labels[labels == label] = 0
    if given["fill_holes_threshold"]:
        fill_holes(labels, given["fill_holes_threshold"])
    relabelled, _, _ = ski.segmentation.relabel_sequential(labels)
    return np.asarray(relabelled)


def fill_holes(labels: npt.NDArray[Any], size: int) -> None:
    for region in ski.measure.regionprops(labels.copy()):
        if region.euler_number < 1:
            patch = labels[region.slice]
            others = ski.measure.label(patch != region.label, connectivity=1)
            for other in ski.measure.regionprops(others):
                if other.area < size:
                    patch[others == other.label] = region.label


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    given_=st.fixed_dictionaries(
        {
            "radius": st.integers(1, 6),
            "maxima_threshold": st.sampled_from([0.02, 0.1, 0.3]),
            "interior_threshold": st.sampled_from([0.01, 0.3, 0.5]),
            "maxima_smooth": st.sampled_from([0, 1]),
            "interior_smooth": st.sampled_from([0, 1, 2]),
            "pixel_expansion": st.sampled_from([None, 0, 1, 2]),
            "label_erosion": st.integers(0, 2),
            "small_objects_threshold": st.sampled_from([0, 5, 15]),
            "fill_holes_threshold": st.sampled_from([0, 5, 15]),
            "maxima_algorithm": st.sampled_from(["h_maxima", "peak_local_max"]),
            "exclude_border": st.booleans(),
        }
    ),
)
def test_labels_are_those_of_the_plain_recipe(seed: int, given_: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    shape, sigma, steps = rng.integers(1, 70, 2), rng.choice([0, 1, 2, 3]), rng.choice([0, 4, 20, 255])
    maps = []
    for _ in range(2):
        values = scipy.ndimage.gaussian_filter(rng.random(shape), sigma)
        values = (values - values.min()) / max(np.ptp(values), 1e-9)
        values = np.minimum(np.round(values * steps) / steps if steps else values, rng.choice([0.6, 1]))
        maps.append(values.astype(rng.choice(["f4", "f8"]))[None, ..., None])
    np.testing.assert_array_equal(deep_watershed(maps, **given_)[0, ..., 0], plain_recipe(maps, **given_))


@pytest.mark.parametrize("algorithm", ["h_maxima", "peak_local_max"])
@pytest.mark.parametrize("shape", [(0, 5, 6, 1), (2, 0, 6, 1), (2, 1, 1, 1), (1, 1, 9, 2), (1, 1, 5, 5, 1)])
def test_small_images_are_labelled_too(shape: tuple[int, ...], algorithm: Any) -> None:
    maps = [np.zeros(shape, np.float32), np.ones(shape, np.float32)]
    labels = deep_watershed(
        maps,
        maxima_algorithm=algorithm,
        label_erosion=1,
        small_objects_threshold=1,
        fill_holes_threshold=1,
        pixel_expansion=1,
    )
    assert labels.shape == (*shape[:-1], 1)
    assert not labels.any()
    if shape[-1] == 1 and len(shape) == 4:
        classes = np.concatenate([*maps, maps[1]], axis=-1)
        for function in (watershed, pixelwise):
            assert function(classes).shape == shape


@pytest.mark.parametrize("function", [watershed, pixelwise, mibi])
def test_predictions_that_are_not_finite_are_refused(function: Any) -> None:
    prediction = np.zeros((1, 9, 9, 3), np.float32)
    prediction[0, 4, 4, 0] = np.nan
    with pytest.raises(ValueError, match=f"{function.__name__}: the prediction holds values that are not finite"):
        function(prediction)


@pytest.mark.parametrize("function", [watershed, pixelwise, mibi])
def test_classes_may_have_half_precision(function: Any) -> None:
    prediction = np.zeros((1, 20, 20, 3), np.float16)
    prediction[..., 0] = 0.2
    prediction[0, 5:15, 5:15, 1:] = [0.9, 1.0]
    assert function(prediction).max() == 1
