from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.movies import Life, movie_of, permuted, same

from redis_consumer.processing import normalize
from redis_consumer.tracking import PAIR_INPUTS, PairRules, Sides, track_pairs
from redis_consumer.tracking.pair_features import surroundings
from redis_consumer.tracking.pairwise import near

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from redis_consumer.arrays import Image, Tracks
    from redis_consumer.tracking import Model

    Floats = npt.NDArray[np.float32]

LAST = 7
CELLS = [Life(0, LAST), Life(0, LAST, divides=4), Life(2, LAST), Life(0, 5), Life(0, LAST, missed=(3,))]
DIVISION = [Life(0, LAST, divides=4)]


def image_of(tracks: Tracks) -> Image:
    return np.asarray(tracks.array[..., None] > 0, np.float32) * 100


def one_cell(frames: int) -> Tracks:
    return movie_of([Life(0, frames - 1)], frames)


def compare(inputs: Mapping[str, Floats]) -> Floats:
    """Say "same" of what is near and as large, "daughter" of what is near and smaller."""
    close = np.linalg.norm(inputs["distance_input2"][:, 0], axis=-1) < 14
    ratio = inputs["regionprop_input2"][:, 0, 0] / inputs["regionprop_input1"][:, -1, 0]
    return np.stack([~close, close & (ratio > 0.75), close & (ratio <= 0.75)], axis=-1).astype(np.float32)


def nobody(_: Mapping[str, Floats]) -> Floats:
    raise AssertionError("no model is asked")


def watched(seen: list[dict[str, Floats]], model: Model = compare) -> Model:
    def watching(inputs: Mapping[str, Floats]) -> Floats:
        seen.append(dict(inputs))
        return model(inputs)

    return watching


def test_cells_are_followed_through_divisions_and_gaps() -> None:
    truth = movie_of(CELLS, LAST + 1)
    assert same(track_pairs(image_of(truth), permuted(truth.array), compare), truth)


def test_one_cell_is_followed() -> None:
    truth = one_cell(LAST + 1)
    found = track_pairs(image_of(truth), truth.array, compare)
    assert [cell.frames for cell in found.lineage.values()] == [tuple(range(LAST + 1))]


def test_a_parent_that_was_carried_on_ends_before_its_daughters() -> None:
    truth = movie_of(DIVISION, LAST + 1)

    def always(inputs: Mapping[str, Floats]) -> Floats:
        likely = compare(inputs)
        likely[:, 1] = np.maximum(likely[:, 1], 0.6 * likely[:, 2])
        return likely

    found = track_pairs(image_of(truth), truth.array, always)
    assert same(found, truth)
    assert found.lineage[1].daughters == (2, 3)


def test_false_divisions_are_undone() -> None:
    """A cell shrinks, as if it were a daughter, and divides three frames later."""
    labels = np.zeros((9, 40, 40), np.int32)
    labels[:3, 10:20, 10:20] = 1
    labels[3:6, 10:20, 10:16] = 1
    labels[6:, 10:20, 10:13], labels[6:, 10:20, 15:18] = 1, 2
    found = track_pairs(labels[..., None], labels, compare)
    assert {label: cell.frames for label, cell in found.lineage.items()} == {
        1: (0, 1, 2, 3, 4, 5),
        3: (6, 7, 8),
        4: (6, 7, 8),
    }
    assert found.parents == {3: 1, 4: 1}


@pytest.mark.parametrize("empty", [[0], [3], [LAST], [0, 1, 2], [3, 4]])
def test_frames_without_cells_are_passed_over(empty: list[int]) -> None:
    truth = movie_of([Life(0, LAST)] * 4, LAST + 1)
    movie = truth.array.copy()
    movie[empty] = 0
    found = track_pairs(image_of(truth), movie, compare)
    shown = tuple(t for t in range(LAST + 1) if t not in empty)
    assert [cell.frames for cell in found.lineage.values()] == [shown] * 4


def test_a_movie_without_cells_asks_no_model() -> None:
    assert track_pairs(np.zeros((3, 8, 8, 1), np.uint8), np.zeros((3, 8, 8), np.int32), nobody).lineage == {}


def test_the_model_sees_each_feature_of_a_track_and_of_a_cell() -> None:
    truth = one_cell(LAST + 1)
    movie = np.repeat(image_of(truth), 2, axis=-1)
    seen: list[dict[str, Floats]] = []
    track_pairs(movie, truth.array, watched(seen), PairRules(track_length=3, sides=Sides(8, 21)))
    assert [list(call) for call in seen] == [list(PAIR_INPUTS)] * LAST
    sizes = {"appearance": (8, 8, 2), "distance": (2,), "neighborhood": (21, 21, 2), "regionprop": (3,)}
    for feature, size in sizes.items():
        assert seen[0][f"{feature}_input1"].shape == (1, 3, *size)
        assert seen[0][f"{feature}_input2"].shape == (1, 1, *size)
    assert {array.dtype for call in seen for array in call.values()} == {np.dtype(np.float32)}


def test_a_short_track_is_padded_with_its_last_cell_and_steps_are_those_of_the_centroid() -> None:
    labels = np.zeros((4, 40, 60), np.int32)
    for t, column in enumerate([5, 8, 12, 17]):
        labels[t, 10:20, column : column + 10] = 1
    seen: list[dict[str, Floats]] = []
    track_pairs(labels[..., None], labels, watched(seen), PairRules(track_length=3))
    tracks = [call["distance_input1"][0, :, 1].tolist() for call in seen]
    cells = [call["distance_input2"][0, :, 1].tolist() for call in seen]
    assert tracks == [[0, 0, 0], [0, 3, 0], [0, 3, 4]]
    assert cells == [[3], [4], [5]]


def test_a_cell_is_seen_with_what_is_now_around_the_place_where_the_track_was() -> None:
    truth = one_cell(4)
    movie = np.random.default_rng(0).random((4, *truth.array.shape[1:], 1)).astype(np.float32)
    missed = truth.array.copy()
    missed[1] = 0
    for labels, calls in ((truth.array, 3), (missed, 2)):
        seen: list[dict[str, Floats]] = []
        track_pairs(movie, labels, watched(seen), PairRules(normalized=False))
        assert len(seen) == calls
        place = [np.argwhere(frame).mean(axis=0, keepdims=True).astype(np.float32) for frame in truth.array]
        at, frame = (place[0], 1) if calls == 3 else (place[2], 2)  # own surroundings after a gap
        np.testing.assert_allclose(seen[0]["neighborhood_input2"][0], surroundings(movie[frame], at, 61), atol=1e-6)


def test_frames_are_normalized_one_by_one_where_it_is_asked_for() -> None:
    truth = one_cell(3)
    movie = (np.random.default_rng(0).random((3, *truth.array.shape[1:], 1)) * 900).astype(np.uint16)
    looks = []
    for given, normalized in ((movie, True), (normalize(movie), False), (movie, False)):
        seen: list[dict[str, Floats]] = []
        track_pairs(given, truth.array, watched(seen), PairRules(normalized=normalized))
        looks.append(seen[-1]["appearance_input2"])
    np.testing.assert_allclose(looks[0], looks[1], atol=1e-5)
    assert looks[2].max() > 100


def test_only_what_is_near_is_compared() -> None:
    track = np.array([[[0, 0], [0, 30]]], np.float32)
    cells = np.array([[0, 70], [0, 71], [50, 30], [51, 30], [50, 70]], np.float32)
    assert near(track, cells, 50).tolist() == [[True, False, True, False, True]]  # each axis alone: root of 30, 40


def test_a_pair_that_is_too_far_is_no_link_whatever_the_model_would_say() -> None:
    labels = np.zeros((2, 20, 90), np.int32)
    labels[0, 5:15, 5:15] = labels[1, 5:15, 70:80] = 1
    found = track_pairs(labels[..., None], labels, nobody)
    assert [cell.frames for cell in found.lineage.values()] == [(0,), (1,)]


def test_many_pairs_are_asked_in_parts_and_say_the_same() -> None:
    truth = movie_of(CELLS, LAST + 1)
    seen: list[dict[str, Floats]] = []
    found = track_pairs(image_of(truth), permuted(truth.array), watched(seen), PairRules(pairs=3))
    assert same(found, truth)
    assert {len(call["distance_input1"]) for call in seen} == {1, 2, 3}


def test_progress_is_told_after_each_frame() -> None:
    truth = one_cell(4)
    told: list[float] = []
    track_pairs(image_of(truth), truth.array, compare, progress=told.append)
    assert told == [0.25, 0.5, 0.75, 1]


def test_what_does_not_fit_is_refused() -> None:
    truth = one_cell(3)
    with pytest.raises(ValueError, match=r"the tracking model returned shape \(1, 2\), expected is \(1, 3\)"):
        track_pairs(image_of(truth), truth.array, lambda inputs: compare(inputs)[:, :2])
    with pytest.raises(ValueError, match="does not fit labels"):
        track_pairs(np.zeros((3, 8, 8, 1), np.float32), np.zeros((3, 8, 9), np.int32), nobody)
    with pytest.raises(ValueError, match="at least two frames"):
        track_pairs(np.zeros((1, 8, 8, 1), np.float32), np.zeros((1, 8, 8), np.int32), nobody)
    with pytest.raises(ValueError, match="finite"):
        track_pairs(np.full((3, 8, 8, 1), np.nan, np.float32), np.zeros((3, 8, 8), np.int32), nobody)
