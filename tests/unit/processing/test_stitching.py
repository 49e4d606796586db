from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy
from hypothesis import given, settings, strategies as st

from redis_consumer.processing import deep_watershed, pixelwise, stitching
from redis_consumer.processing.planes import blocks, grown
from redis_consumer.processing.stitching import Stitched, stitch
from redis_consumer.testing.labels import differing_objects

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.processing.planes import Rectangle


def blobs(shape: tuple[int, int], sigma: float, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return a mask of round things that cover `share` of the plane."""
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), sigma)
    return np.asarray(noise > np.quantile(noise, 1 - share))


def connected(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    labels, _ = scipy.ndimage.label(mask)
    return np.asarray(labels, np.int32)


@given(
    shape=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    sigma=st.sampled_from([0.5, 1, 3, 8]),
    share=st.floats(0, 1),
    side=st.integers(10, 90),
    halo=st.integers(1, 40),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_no_seam_is_seen_whatever_the_blocks(
    shape: tuple[int, int], sigma: float, share: float, side: int, halo: int, seed: int
) -> None:
    """The halo is widened until each object is seen whole: here up to the whole plane."""
    mask = blobs(shape, sigma, share, seed)
    expected, found = connected(mask), np.zeros(shape, np.int32)
    (stitched,) = stitch(lambda place: connected(mask[place])[..., None], [found], side=side, halo=halo)
    assert differing_objects(expected, found) == (0, 0)
    assert stitched == Stitched(count=int(expected.max(initial=0)), cut=0)
    if side < max(shape):
        assert set(np.unique(found)) - {0} == set(range(1, stitched.count + 1))


def simulated_maps(size: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return what a model predicts of crowded round cells: distances and foreground, with noise, (1, Y, X, 1)."""
    rng = np.random.default_rng(seed)
    places = rng.integers(0, size, (size * size // 400, 2))
    points = np.ones((size, size), bool)
    points[tuple(places.T)] = False
    distance = scipy.ndimage.distance_transform_edt(points)
    inner = np.clip(1 - distance / 11, 0, 1) + rng.normal(0, 0.01, points.shape)
    foreground = np.clip(12 - distance, 0, 1) + rng.uniform(0, 0.009, points.shape)
    return inner.astype(np.float32)[None, ..., None], foreground.astype(np.float32)[None, ..., None]


@pytest.mark.parametrize("side", [100, 128, 333])
def test_crowded_cells_are_those_of_the_whole_image(side: int) -> None:
    """Basins that touch all over the image: what is decided at a seam is decided as in one piece."""
    inner, foreground = simulated_maps(500, seed=side)
    expected = deep_watershed([inner, foreground])[0, ..., 0]
    found = np.zeros(expected.shape, np.int32)

    def label(place: Rectangle) -> npt.NDArray[Any]:
        return np.asarray(deep_watershed([inner[:, *place], foreground[:, *place]])[0])

    stitched = stitch(label, [found], side=side, halo=64)
    assert expected.max() > 300
    assert differing_objects(expected, found) == (0, 0)
    assert stitched == [Stitched(count=int(expected.max()), cut=0)]


def test_each_feature_is_stitched_alone() -> None:
    masks = [blobs((150, 130), 3, 0.4, seed) for seed in (1, 2)]
    found = [np.zeros((150, 130), np.int32) for _ in masks]
    stitch(lambda place: np.stack([connected(mask[place]) for mask in masks], axis=-1), found, side=50, halo=20)
    for mask, labels in zip(masks, found, strict=True):
        assert differing_objects(connected(mask), labels) == (0, 0)


def test_ids_may_have_gaps() -> None:
    prediction = np.where(blobs((120, 120), 2, 0.3, 5), 0.9, 0.1).astype(np.float32)[None, ..., None].repeat(2, axis=-1)
    expected, found = pixelwise(prediction)[0, ..., 0], np.zeros((120, 120), np.int32)
    (stitched,) = stitch(lambda place: pixelwise(prediction[:, *place])[0], [found], side=40, halo=20)
    assert differing_objects(expected, found) == (0, 0)
    assert found.max() == stitched.count < expected.max()


def test_what_is_one_block_keeps_its_ids() -> None:
    labels = np.zeros((40, 50, 2), np.int32)
    labels[3:6, 3:6, 0], labels[10:12, 30:40, 0], labels[:5, :5, 1] = 9, 4, 2
    found = [np.zeros((40, 50), np.int32) for _ in range(2)]
    assert stitch(lambda place: labels[place], found, side=50) == [Stitched(count=2), Stitched(count=1)]
    np.testing.assert_array_equal(np.stack(found, axis=-1), labels)


def test_an_object_beyond_the_widest_halo_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stitching, "WIDEST_HALO", 20)
    mask = np.zeros((50, 300), bool)
    mask[20:30, 5:295] = True
    found = np.zeros(mask.shape, np.int32)
    (stitched,) = stitch(lambda place: connected(mask[place])[..., None], [found], side=50, halo=10)
    assert stitched.cut >= 1


def test_objects_that_differ_are_counted_on_both_sides() -> None:
    first, second = np.zeros((2, 10, 10), np.int32)
    first[1:3, 1:3], first[5:7, 5:7], first[8:, 8:] = 1, 2, 3
    second[1:3, 1:3], second[5:7, 5:8] = 7, 4
    assert differing_objects(first, second) == (2, 1)
    assert differing_objects(first, first) == (0, 0)


@settings(deadline=None)
@given(shape=st.tuples(st.integers(1, 60), st.integers(1, 60)), side=st.integers(1, 70), margin=st.integers(0, 30))
def test_blocks_cover_a_plane_once(shape: tuple[int, int], side: int, margin: int) -> None:
    times: npt.NDArray[Any] = np.zeros(shape, int)
    for place in blocks(shape, side):
        times[place] += 1
        outer = grown(place, margin, shape)
        assert all(
            0 <= span.start <= inner.start < inner.stop <= span.stop <= size
            for span, inner, size in zip(outer, place, shape, strict=True)
        )
    assert (times == 1).all()
