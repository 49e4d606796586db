from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.movies import Life, movie_of, permuted, same

from redis_consumer.tracking import Crops, Rules, track
from redis_consumer.tracking.features import adjacency, features_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from redis_consumer.arrays import Image, Tracks

    Floats = npt.NDArray[np.float32]

LAST = 7
CELLS = [Life(0, LAST), Life(0, LAST, divides=4), Life(2, LAST), Life(0, 5), Life(0, LAST, missed=(3,))]


def image_of(tracks: Tracks) -> Image:
    return (tracks.array[..., None] > 0).astype(np.float32)


def encode(inputs: Mapping[str, Floats]) -> Floats:
    """Describe a cell by its area."""
    return inputs["encoder_morph_input"][..., :1]


def compare(inputs: Mapping[str, Floats]) -> Floats:
    """Say "same" of what is near and as large, "parent" of what is near and larger."""
    here, there = inputs["current_centroids"][0, -1], inputs["future_centroids"][0, 0]
    near = np.linalg.norm(here[:, None] - there[None], axis=-1) < 14
    ratio = inputs["future_embeddings"][0, 0, :, 0][None] / inputs["current_embeddings"][0, -1, :, 0][:, None]
    alike = near & (ratio > 0.75)
    halved = near & (ratio <= 0.75)
    return np.stack([alike, ~near, halved], axis=-1).astype(np.float32)[None, None]


def nobody(_: Mapping[str, Floats]) -> Floats:
    raise AssertionError("no model is asked")


def test_cells_are_followed_through_divisions_and_gaps() -> None:
    truth = movie_of(CELLS, LAST + 1)
    assert same(track(image_of(truth), permuted(truth.array), encode, compare), truth)


def test_a_parent_that_was_carried_on_ends_before_its_daughters() -> None:
    truth = movie_of([Life(0, LAST, divides=4)], LAST + 1)

    def always(inputs: Mapping[str, Floats]) -> Floats:
        likely = compare(inputs)
        likely[..., 0] = np.maximum(likely[..., 0], 0.6 * likely[..., 2])
        return likely

    found = track(image_of(truth), truth.array, encode, always)
    assert same(found, truth)
    assert found.lineage[1].daughters == (2, 3)


def test_the_encoder_sees_a_few_frames_at_a_time_and_says_the_same() -> None:
    truth = movie_of(CELLS, LAST + 1)
    seen: list[int] = []

    def counting(inputs: Mapping[str, Floats]) -> Floats:
        seen.append(len(inputs["encoder_adj_input"]))
        return encode(inputs)

    found = track(image_of(truth), truth.array, counting, compare, Rules(encoder_frames=3))
    assert seen == [3, 3, 2]
    assert same(found, truth)


def test_the_model_sees_the_last_frames_of_a_track_padded_with_its_very_last() -> None:
    truth = movie_of([Life(0, LAST)], LAST + 1)
    windows: list[list[float]] = []

    def watching(inputs: Mapping[str, Floats]) -> Floats:
        windows.append(inputs["current_embeddings"][0, :, 0, 0].tolist())
        return compare(inputs)

    def by_frame(_: Mapping[str, Floats]) -> Floats:
        return np.arange(1.0, LAST + 2, dtype=np.float32)[:, None, None] + 10

    track(image_of(truth), truth.array, by_frame, watching, Rules(track_length=3))
    assert windows[:4] == [[11, 11, 11], [11, 12, 12], [11, 12, 13], [12, 13, 14]]


@pytest.mark.parametrize("empty", [[0], [3], [LAST], [0, 1, 2], [3, 4]])
def test_frames_without_cells_are_passed_over(empty: list[int]) -> None:
    truth = movie_of([Life(0, LAST)] * 4, LAST + 1)
    movie = truth.array.copy()
    movie[empty] = 0
    found = track(image_of(truth), movie, encode, compare)
    shown = tuple(t for t in range(LAST + 1) if t not in empty)
    assert [cell.frames for cell in found.lineage.values()] == [shown] * 4


def test_a_movie_without_cells_asks_no_model() -> None:
    assert track(np.zeros((3, 8, 8, 1), np.float32), np.zeros((3, 8, 8), np.int32), nobody, nobody).lineage == {}


def test_progress_is_told_after_each_frame() -> None:
    truth = movie_of(CELLS, LAST + 1)
    told: list[float] = []
    track(image_of(truth), truth.array, encode, compare, progress=told.append)
    assert told == [(t + 1) / (LAST + 1) for t in range(LAST + 1)]


def test_outputs_of_the_wrong_shape_are_named() -> None:
    truth = movie_of(CELLS, LAST + 1)
    with pytest.raises(ValueError, match=r"the encoder returned shape \(8, 6\), expected is \(8, 6, None\)"):
        track(image_of(truth), truth.array, lambda inputs: encode(inputs)[..., 0], compare)
    with pytest.raises(ValueError, match="the tracking model returned shape"):
        track(image_of(truth), truth.array, encode, lambda inputs: compare(inputs)[..., :2])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit labels"):
        track(np.zeros((3, 8, 8, 1), np.float32), np.zeros((3, 8, 9), np.int32), nobody, nobody)
    with pytest.raises(ValueError, match="at least two frames"):
        track(np.zeros((1, 8, 8, 1), np.float32), np.zeros((1, 8, 8), np.int32), nobody, nobody)
    with pytest.raises(ValueError, match="even side"):
        Crops(side=15, mode="fixed")


@pytest.mark.parametrize("crops", [Crops(8), Crops(8, "fixed"), Crops(8, "fixed", norm=False)])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_have_the_side_and_the_channels(crops: Crops, channels: int) -> None:
    labels = np.zeros((20, 24), np.int32)
    labels[3:4, 2:9], labels[10:19, 5:7], labels[0, 23] = 2, 9, 5
    image = np.random.default_rng(0).random((20, 24, channels)).astype(np.float32)
    features = features_of(image, labels, crops)
    assert features.ids.tolist() == [2, 5, 9]
    assert features.appearances.shape == (3, 8, 8, channels)
    assert features.morphologies[:, 0].tolist() == [7, 1, 18]


def test_a_frame_without_background_is_described() -> None:
    features = features_of(np.ones((6, 6, 1), np.float32), np.full((6, 6), 4), Crops(8))
    assert features.ids.tolist() == [4]
    assert features.centroids.tolist() == [[2.5, 2.5]]


def test_neighbours_are_nearer_than_the_distance() -> None:
    places: Any = np.array([[0, 0], [0, 5], [0, 30]], np.float32)
    np.testing.assert_allclose(adjacency(places, 5), np.eye(3), atol=1e-4)
    np.testing.assert_allclose(adjacency(places, 6)[:2, :2], np.full((2, 2), 0.5), atol=1e-4)
