"""Tracking with models against what the original packages computed, vector by vector.

The vectors lie in `shared/parity` beside the checkout.  The models are the fake ones of their manifest, in closed form.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy

from redis_consumer.results.tracks import lineage
from redis_consumer.results.trk import load_trk
from redis_consumer.tracking import PAIR_INPUTS, PairRules, Sides, track_pairs, unique_labels
from redis_consumer.tracking.features import Crops, features_of, normalized
from redis_consumer.tracking.history import costs
from redis_consumer.tracking.learned import Rules, track
from redis_consumer.tracking.pair_features import show, surroundings

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from redis_consumer.arrays import Tracks

    Array = npt.NDArray[Any]

PARITY = Path(__file__).resolve().parents[2] / "../shared/parity"
MANIFEST: dict[str, Any] = json.loads((PARITY / "manifest.json").read_text()) if PARITY.is_dir() else {"cases": []}
CASES = {case["id"]: case for case in MANIFEST["cases"] if case["file"] == "tracker.npz" or case["id"] == "seed_track"}
FEATURES = [name for name, case in CASES.items() if case["function"].endswith("get_image_features")]
MOVIES = [name for name, case in CASES.items() if case["function"] == "CellTracker"]
COMPARED = ("current_embeddings", "current_centroids", "future_embeddings", "future_centroids")

pytestmark = pytest.mark.skipif(not CASES, reason="no reference data in ../shared/parity beside the checkout")


def arrays_of(case: Mapping[str, Any], side: str) -> dict[str, Array]:
    with np.load(PARITY / case["file"]) as arrays:
        return {name: arrays[spec["array"]] for name, spec in case[side].items()}


def encoder(seen: list[Mapping[str, Array]]) -> Any:
    def encode(inputs: Mapping[str, Array]) -> Array:
        seen.append(inputs)
        area, perimeter, eccentricity = np.moveaxis(inputs["encoder_morph_input"], -1, 0)
        looks = inputs["encoder_app_input"].mean((2, 3, 4))
        return np.stack([area / 100, perimeter / 30, eccentricity, looks / 500], axis=-1).astype(np.float32)

    return encode


def comparer(seen: list[Mapping[str, Array]]) -> Any:
    def compare(inputs: Mapping[str, Array]) -> Array:
        seen.append(inputs)
        here, there = inputs["current_centroids"][0, -1], inputs["future_centroids"][0, 0]
        was, becomes = inputs["current_embeddings"][0, -1, :, 0], inputs["future_embeddings"][0, 0, :, 0]
        d = np.linalg.norm(here[:, None] - there[None], axis=-1)
        r = np.log(becomes[None] / was[:, None])
        logits = np.stack([4 - d / 3 - 3 * abs(r), np.zeros_like(d), 3 - d / 8 - 3 * abs(r - np.log(0.55))], axis=-1)
        likely = scipy.special.softmax(logits.astype(np.float64), axis=-1)
        return np.asarray(likely[None, None], np.float32)

    return compare


def crops_of(params: Mapping[str, Any]) -> Crops:
    return Crops(params.get("appearance_dim", 32), params.get("crop_mode", "resize"), params.get("norm", True))


def rules_of(params: Mapping[str, Any]) -> Rules:
    given = {name: params[name] for name in ("birth", "death", "division") if name in params}
    return Rules(
        params["distance_threshold"], params["track_length"], crops=crops_of(params), encoder_frames=32, **given
    )


def as_json(tracks: Tracks) -> Any:
    return json.loads(json.dumps(lineage(tracks)))


@pytest.mark.parametrize("name", FEATURES)
def test_the_features_of_a_frame_are_those_of_the_original(name: str) -> None:
    case = CASES[name]
    inputs, expected = arrays_of(case, "inputs"), arrays_of(case, "outputs")
    actual = features_of(inputs["X"].astype(np.float32), inputs["y"][..., 0], crops_of(case["params"]))
    assert actual.ids.tolist() == expected["labels"].tolist()
    np.testing.assert_allclose(actual.centroids, expected["centroids"], atol=1e-4)
    np.testing.assert_allclose(actual.morphologies, expected["morphologies"], atol=1e-4, rtol=1e-6)
    np.testing.assert_allclose(actual.appearances, expected["appearances"], atol=1e-3, rtol=1e-5)


def test_adjacency_is_normalized_as_in_the_original() -> None:
    case = CASES["norm_adj"]
    actual = normalized(arrays_of(case, "inputs")["adj"])
    np.testing.assert_allclose(actual, arrays_of(case, "outputs")["out"], atol=1e-4, rtol=1e-5)


def test_labels_are_made_unique_as_in_the_original() -> None:
    case = CASES["clean_up"]
    np.testing.assert_array_equal(unique_labels(arrays_of(case, "inputs")["y"]), arrays_of(case, "outputs")["y"])


@pytest.mark.parametrize("name", MOVIES)
def test_the_tracks_of_a_movie_are_those_of_the_original(name: str) -> None:
    case = CASES[name]
    inputs, expected = arrays_of(case, "inputs"), arrays_of(case, "outputs")
    rules = rules_of(case["params"]["tracker"])
    encoded: list[Mapping[str, Array]] = []
    compared: list[Mapping[str, Array]] = []
    tracks = track(inputs["X"].astype(np.float32), inputs["y"][..., 0], encoder(encoded), comparer(compared), rules)
    np.testing.assert_array_equal(tracks.array[..., None], expected["y_tracked"])
    assert as_json(tracks) == json.loads(str(expected["tracks_json"]))
    shapes = [[list(call[name].shape) for name in COMPARED] for call in (compared[0], compared[-1])]
    assert shapes == json.loads(str(expected["inference_shapes_first_last"]))
    (first,) = encoded
    for key in ("adj", "centroid", "morph"):
        np.testing.assert_allclose(first[f"encoder_{key}_input"], expected[f"encoder_{key}"], atol=1e-4)
    assert first["encoder_app_input"].shape == tuple(expected["encoder_app_shape"])
    same = comparer([])(compared[0])[0, 0, ..., 0]
    np.testing.assert_allclose(costs(same, rules.birth, rules.death), expected["cost_matrix_frame1"], atol=1e-5)


def test_the_track_file_of_the_original_is_read_and_says_the_same() -> None:
    expected = arrays_of(CASES["track_mov5"], "outputs")
    ((movie, tracks),) = load_trk(PARITY / "tracked.trk")
    np.testing.assert_array_equal(movie, arrays_of(CASES["track_mov5"], "inputs")["X"])
    np.testing.assert_array_equal(tracks.array[..., None], expected["y_tracked"])
    assert as_json(tracks) == json.loads(str(expected["tracks_json"]))


def test_the_track_file_with_two_movies_is_read() -> None:
    movies = load_trk(PARITY / "two.trks")
    assert len(movies) == 2
    assert all(movie.shape[:3] == tracks.array.shape for movie, tracks in movies)
    with tarfile.open(PARITY / "two.trks") as archive:
        file = archive.extractfile("lineages.json")
        assert file
        assert [as_json(tracks) for _, tracks in movies] == json.load(file)


# The tracker of the first years.


def pair_comparer(seen: list[Mapping[str, Array]]) -> Any:
    def compare(inputs: Mapping[str, Array]) -> Array:
        seen.append(inputs)
        d = np.linalg.norm(inputs["distance_input2"][:, 0], axis=-1)
        r = np.log(inputs["regionprop_input2"][:, 0, 0] / inputs["regionprop_input1"][:, -1, 0])
        logits = np.stack([np.zeros_like(d), 4 - d / 3 - 3 * abs(r), 3 - d / 8 - 3 * abs(r - np.log(0.55))], axis=-1)
        return np.asarray(scipy.special.softmax(logits, axis=-1), np.float32)

    return compare


def pair_rules_of(params: Mapping[str, Any]) -> PairRules:
    given = {name: params[name] for name in ("max_distance", "track_length", "birth", "death", "division")}
    return PairRules(**given, sides=Sides(neighborhood=2 * params["neighborhood_scale_size"] + 1), normalized=False)


def test_the_tracks_of_the_first_years_are_those_of_the_original() -> None:
    case = CASES["seed_track"]
    inputs, expected = arrays_of(case, "inputs"), arrays_of(case, "outputs")
    seen: list[Mapping[str, Array]] = []
    tracks = track_pairs(
        inputs["X"], inputs["y"][..., 0], pair_comparer(seen), pair_rules_of(case["params"]["tracker"])
    )
    np.testing.assert_array_equal(tracks.array[..., None], expected["post_tracked"])
    assert as_json(tracks) == json.loads(str(expected["post_tracks_json"]))
    np.testing.assert_array_equal(tracks.array[..., None], expected["y_tracked"])
    assert as_json(tracks) == json.loads(str(expected["tracks_json"]))
    shapes = [list(seen[-1][name].shape) for name in PAIR_INPUTS]
    assert shapes == json.loads(str(expected["model_input_shapes_last"]))


def test_what_a_pairwise_model_sees_is_what_the_original_showed() -> None:
    case = CASES["seed_track"]
    inputs, expected = arrays_of(case, "inputs"), arrays_of(case, "outputs")
    ids, shown = show(inputs["X"][-1], inputs["y"][-1, ..., 0], Sides())
    assert len(ids) == len(expected["last_frame_distance"])
    for name, actual in {
        "appearance": shown.appearances[:2],
        "distance": shown.centroids,
        "regionprop": shown.regionprops,
        "neighborhood_sub": shown.neighborhoods[:2, ::4, ::4],
        "future_sub": surroundings(inputs["X"][-1], shown.centroids[:2], 61)[:, ::4, ::4],
    }.items():
        np.testing.assert_allclose(actual, expected[f"last_frame_{name}"], atol=0.01, rtol=1e-5)
