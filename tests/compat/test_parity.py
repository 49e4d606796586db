"""The array functions against what the original packages computed, vector by vector.

The vectors are not part of this repository: they lie in `shared/parity` beside the checkout, and their manifest says
for every case what was called, with what, and how closely the result must agree.  The table of docs/parity.md is
checked here too.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy

from redis_consumer import spots
from redis_consumer.processing import (
    correct_drift,
    cut,
    deep_watershed,
    detected_label,
    detected_scale,
    detection_tiles,
    histogram_normalization,
    join,
    mesmer_postprocess,
    mesmer_preprocess,
    mibi,
    min_max_normalize,
    normalize,
    percentile_threshold,
    pixelwise,
    resize,
    retinanet,
    retinanet_semantic,
    sampled_tiles,
    scaled_size,
    tile,
    untile,
    watershed,
)
from redis_consumer.processing.labels import erode, fill_holes
from redis_consumer.processing.old import cut_square, rescale_nearest
from redis_consumer.processing.tiling import window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Outputs = Mapping[str, Array]

ROOT = Path(__file__).resolve().parents[2]
PARITY = ROOT / "../shared/parity"
MANIFEST: dict[str, Any] = json.loads((PARITY / "manifest.json").read_text()) if PARITY.is_dir() else {"cases": []}
CASES: dict[str, dict[str, Any]] = {case["id"]: case for case in MANIFEST["cases"]}

FIXED = {
    "nuc_m512": "one axis shorter than the model: each axis is padded and tiled alone, so the model sees its own size",
    "seed_pixelwise_b2": "frames are labelled alone: objects of different frames neither join nor share a numbering",
    "seed_big_image_2": "rows and columns that the cuts leave over are predicted too",
    "seed_big_image_3": "rows and columns that the cuts leave over are predicted too",
    "seed_rescale_labels": "of two pixels equally near it is always the second, where rounding noise had decided",
    "seed_drift_Xy": "labels are moved as they are, where some of their ids had become smaller by one",
    "max_with_ties": "of equal scores the first by row and column comes first and stays; an unstable sort had decided",
    "minmax_const": "a constant plane becomes zeros, and had become NaN",
}
"""Cases in which the original is wrong, and what we do; each has a test of its own below."""

pytestmark = pytest.mark.skipif(not CASES, reason="no reference data in ../shared/parity beside the checkout")


def stored(file: str, spec: Mapping[str, Any]) -> Array:
    with np.load(PARITY / file) as arrays:
        array: Array = arrays[spec["array"]]
    return array if array.dtype.kind == "U" else array.astype(spec["dtype"])


def inputs_of(case: Mapping[str, Any]) -> list[Array]:
    return [stored(case["file"], case["inputs"][name]) for name in sorted(case["inputs"])]


def expected_of(case: Mapping[str, Any]) -> Outputs:
    return {name: stored(case["file"], spec) for name, spec in case["outputs"].items()}


def as_float32(values: Array) -> Array:
    return values.astype(np.float32)


# --- the functions, called as the manifest says ------------------------------------------------------------------


def run_resize(image: Array, shape: list[int], *, labeled_image: bool = False) -> Array:
    return resize(image, (shape[0], shape[1]), labels=labeled_image)


def run_erode(mask: Array, erosion_width: int) -> Array:
    return erode(mask, erosion_width)


def run_watershed(image: Array, **params: Any) -> Array:
    (labels,) = watershed(image[None], **params)
    return np.asarray(labels)


def run_seed_normalize(image: Array) -> Array:
    (result,) = normalize(image[None])
    return np.asarray(result)


def run_seed_pixelwise(prediction: Array, **params: Any) -> Array:
    (labels,) = pixelwise(prediction, interior_axis=2, **params)
    return np.asarray(labels)


def run_mibi(image: Array, **params: Any) -> Array:
    (labels,) = mibi(image.reshape(1, *image.shape[-3:]), **params)
    return np.asarray(labels)


def run_seed_mibi(prediction: Array) -> Array:
    return run_mibi(prediction[..., [0, 2, 1]])


def run_seed_tiles(image: Array, size: int) -> Array:
    return cut_square(image, size)


def run_seed_scale(image: Array) -> Array:
    return np.array(detected_scale(scale_model(sampled_tiles(image[None], 64))[0]))


def run_seed_label(image: Array) -> Array:
    return np.array(detected_label(label_model(sampled_tiles(image[None], 64))[0]))


def run_seed_drift(movie: Array) -> Array:
    corrected, _ = correct_drift(movie)
    return corrected


SIMPLE: dict[str, Callable[..., Array]] = {
    "deepcell_toolbox.histogram_normalization": histogram_normalization,
    "deepcell_toolbox.percentile_threshold": percentile_threshold,
    "deepcell_toolbox.normalize": normalize,
    "deepcell.mesmer_preprocess": mesmer_preprocess,
    "deepcell_toolbox.resize": run_resize,
    "deepcell_toolbox.fill_holes": fill_holes,
    "deepcell_toolbox.erode_edges": run_erode,
    "deepcell_toolbox.pixelwise": pixelwise,
    "deepcell_toolbox.watershed": run_watershed,
    "seed.normalize": run_seed_normalize,
    "seed.pixelwise": run_seed_pixelwise,
    "seed.watershed": run_watershed,
    "deepcell_toolbox.mibi": run_mibi,
    "deepcell_spots.min_max_normalize": min_max_normalize,
    "seed.mibi": run_seed_mibi,
    "seed.rescale": rescale_nearest,
    "seed.reshape_matrix": run_seed_tiles,
    "seed.detect_scale": run_seed_scale,
    "seed.detect_label": run_seed_label,
    "seed.correct_drift": run_seed_drift,
}


def run_simple(case: Mapping[str, Any]) -> Outputs:
    (name,) = case["outputs"]
    return {name: SIMPLE[case["function"]](*inputs_of(case), **case["params"])}


def run_deep_watershed(case: Mapping[str, Any]) -> Outputs:
    return {"labels": deep_watershed(inputs_of(case), **case["params"])}


def run_boxes(case: Mapping[str, Any]) -> Outputs:
    heads = [stored(case["file"], case["inputs"][name]) for name in ("boxes", "scores", "labels", "masks")]
    params = dict(case["params"])
    if "semantic" in case["inputs"]:
        labels = retinanet_semantic([*heads, stored(case["file"], case["inputs"]["semantic"])], **params)
    else:
        labels = retinanet(heads, (params.pop("shape0"), params.pop("shape1")), **params)
    return {"labels": labels[..., 0]}


POINTS: dict[str, Callable[..., list[Array]]] = {
    "y_annotations_to_point_list_max": spots.spots_at_maxima,
    "y_annotations_to_point_list": spots.spots_at_pixels,
    "y_annotations_to_point_list_restrictive": spots.spots_within_pixels,
    "y_annotations_to_point_list_cc": spots.spots_at_regions,
}


def run_points(case: Mapping[str, Any]) -> Outputs:
    probability, offsets = (stored(case["file"], case["inputs"][name]) for name in ("p1", "offset_regression"))
    params = dict(case["params"])
    find = POINTS[params.pop("name")]
    points = find(np.concatenate([1 - probability, probability], axis=-1), offsets, **params)
    return {f"points{i}": found for i, found in enumerate(points)}


def run_match(case: Mapping[str, Any]) -> Outputs:
    labels, coords = (stored(case["file"], case["inputs"][name]) for name in ("labels", "coords"))
    cells = spots.match_spots_to_cells(labels[0, ..., 0], coords)
    return {
        "keys_in_order": np.array(list(cells)),
        "counts": np.array([len(found) for found in cells.values()]),
        "coords": np.concatenate([np.stack(found) for found in cells.values()]),
    }


def run_window(case: Mapping[str, Any]) -> Outputs:
    return {name: window(*args) for name, args in zip(case["outputs"], case["params"]["args"], strict=True)}


def run_tiles(case: Mapping[str, Any]) -> Outputs:
    params, expected = case["params"], expected_of(case)
    image = hash_image(params["image_shape"], params["seed"])
    tiles, grid = tile(image, tuple(params["model_input_shape"]), params["stride_ratio"], params["pad_mode"])
    starts = [(y.start, x.start) for _ in image for y in grid.rows.spans() for x in grid.columns.spans()]
    predicted = np.stack([predict_tile(piece, i) for i, piece in enumerate(tiles)])
    together = untile(predicted, grid)
    top, left = ((n - 40) // 2 for n in together.shape[1:3])
    step, chosen = params.get("subsample", 8), expected["tile_index"]
    return {
        "tiles_shape": np.array(tiles.shape),
        "pad": np.array([grid.rows.padding, grid.columns.padding]),
        "stride": np.array([grid.rows.stride, grid.columns.stride]),
        "starts": np.array(starts).T,
        "tile_index": chosen,
        "tile_sha256": np.array([hashlib.sha256(tiles[i].tobytes()).hexdigest()[:32] for i in chosen]),
        "tile_mean": tiles[chosen].mean((1, 2), dtype=np.float64),
        "untiled_shape": np.array(together.shape),
        "untiled_fn_sub": together[:, ::step, ::step],
        "untiled_fn_crop": together[:, top : top + 40, left : left + 40],
        "untiled_fn_mean": together.mean((1, 2), dtype=np.float64),
        "roundtrip_max_abs_err": np.abs(untile(tiles, grid) - image).max(),
    }


def hash_image(shape: list[int], seed: int) -> Array:
    x = (np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(29)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(32)
    return ((x >> np.uint64(40)) / 2**24).astype(np.float32).reshape(shape)


def predict_tile(piece: Array, index: int) -> Array:
    i, j = np.indices(piece.shape[:2])[..., None]
    height, width = piece.shape[:2]
    return as_float32(piece * (1 + 0.5 * (i / height + 2 * j / width) / 3) + 0.01 * (index % 7))


# --- whole applications, with the fake models of the manifest ----------------------------------------------------


def nuclear_model(tiles: Array) -> list[Array]:
    smooth = box(box(tiles, 7), 7)
    i, j = np.indices(tiles.shape[1:3])[:, None, ..., None]
    ramp = 0.02 * np.cos(2 * np.pi * i / tiles.shape[1]) * np.cos(2 * np.pi * j / tiles.shape[2])
    distance = np.clip(1.2 * smooth * smooth + ramp, 0, 1)
    foreground = np.clip(3 * (smooth - 0.30) + ramp, 0, 1)
    return [as_float32(distance), as_float32(foreground)]


def mesmer_model(tiles: Array) -> list[Array]:
    heads = []
    for channel in (1, 0):
        distance, foreground = nuclear_model(tiles[..., channel : channel + 1])
        rest = (1 - foreground) / 2
        heads += [distance, as_float32(np.concatenate([rest, foreground, rest], axis=-1))]
    return heads


def scale_model(tiles: Array) -> list[Array]:
    return [as_float32(0.5 + tiles.mean((1, 2, 3))[:, None] / 100)]


def label_model(tiles: Array) -> list[Array]:
    distance = np.abs(tiles.mean((1, 2, 3))[:, None] - np.array([10, 30, 60]))
    return [as_float32(scipy.special.softmax(-distance / 10, axis=-1))]


def spot_model(tiles: Array) -> list[Array]:
    i, j = np.indices(tiles.shape[1:3])[:, None, ..., None]
    ramp = 0.02 * np.cos(2 * np.pi * i / tiles.shape[1]) * np.cos(2 * np.pi * j / tiles.shape[2])
    likely = as_float32(np.clip(0.9 * box(tiles, 3) + 0.05 + ramp, 0, 1))
    offsets = np.broadcast_to(np.concatenate([20 * ramp, -10 * ramp], axis=-1), (*tiles.shape[:3], 2))
    return [np.concatenate([1 - likely, likely], axis=-1), as_float32(offsets)]


def box(x: Array, size: int) -> Array:
    return scipy.ndimage.uniform_filter(x.astype(np.float64), size=(1, size, size, 1), mode="nearest")


MODELS = {"nuclear": nuclear_model, "mesmer": mesmer_model, "scale": scale_model, "label": label_model}
NUCLEAR = {"radius": 10, "maxima_threshold": 0.1, "interior_threshold": 0.01}


def run_application(case: Mapping[str, Any]) -> Outputs:
    """Resize, normalize, tile, predict, untile, label, resize back: as the consumer composes it."""
    params, predict = case["params"], case["params"]["predict"]
    (image,) = inputs_of(case)
    application = params["application"]
    detection = application.endswith("Detection")
    mesmer = application == "Mesmer"
    scale = predict["image_mpp"] / (0.5 if mesmer else 0.65) if "image_mpp" in predict else 1
    resized = resize(image, scaled_size(image.shape[1:3], scale))
    prepared = resized if detection else mesmer_preprocess(resized) if mesmer else histogram_normalization(resized)
    pad_mode = predict.get("pad_mode", "constant" if mesmer or detection else "reflect")
    tiles, grid = tile(prepared, tuple(params["model_shape"][:2]), 0.75, pad_mode)
    if detection:
        assert np.array_equal(detection_tiles(prepared, tuple(params["model_shape"][:2])), tiles)
    size = len(tiles) if detection else predict.get("batch_size", 4)
    batches = [tiles[i : i + size] for i in range(0, len(tiles), size)]
    heads = [np.concatenate(parts) for parts in zip(*map(MODELS[params["fake_model"]], batches), strict=True)]
    calls = {
        "model_call_shapes": np.array([batch.shape for batch in batches]),
        "model_call_dtypes": np.array([str(batch.dtype) for batch in batches]),
    }
    if detection:
        return {"value": detected(application, heads[0]), **calls}
    maps = [untile(head[..., 1:2] if head.shape[-1] == 3 else head, grid) for head in heads]
    labels = (
        mesmer_postprocess(
            [untile(head, grid) for head in heads],
            predict.get("compartment", "whole-cell"),
            predict.get("postprocess_kwargs_whole_cell"),
            predict.get("postprocess_kwargs_nuclear"),
        )
        if mesmer
        else deep_watershed(maps, **predict.get("postprocess_kwargs", NUCLEAR))
    )
    return {
        "labels": resize(labels, image.shape[1:3], labels=True),
        "resized_shape": np.array(resized.shape),
        "preprocessed_sub": prepared[:, ::5, ::5],
        **{f"model_output{i}_sub": values[:, ::8, ::8] for i, values in enumerate(maps)},
        **calls,
    }


def detected(application: str, predictions: Array) -> Array:
    return np.array(
        detected_label(predictions) if application == "LabelDetection" else np.float32(detected_scale(predictions))
    )


def run_spot_application(case: Mapping[str, Any]) -> Outputs:
    (image,), params = inputs_of(case), case["params"]
    predict = dict(params["predict"])
    prepared = min_max_normalize(image, clip=predict.get("clip", False))
    tiles, grid = tile(prepared, tuple(params["model_shape"][:2]), 0.75, "reflect")
    heads = [untile(head, grid) for head in spot_model(tiles)]
    (points,) = spots.detect_spots(*heads, threshold=predict["threshold"])
    return {"points0": points}


# --- the comparison ------------------------------------------------------------------------------------------------

RUNNERS: dict[str, Callable[[Mapping[str, Any]], Outputs]] = {
    **dict.fromkeys(SIMPLE, run_simple),
    "deepcell_toolbox.deep_watershed": run_deep_watershed,
    "tile_image+untile_image": run_tiles,
    "spline_window(size, left, right, power=2)": run_window,
    "application": run_application,
    "seed.retinanet_to_label_image": run_boxes,
    "seed.retinanet_semantic_to_label_image": run_boxes,
    "deepcell_spots.postprocessing": run_points,
    "deepcell_spots.match_spots_to_cells": run_match,
    "SpotDetection": run_spot_application,
}
COMPARED = [name for name, case in CASES.items() if case["function"] in RUNNERS and name not in FIXED]


def rule_of(case: Mapping[str, Any], output: str) -> Mapping[str, Any]:
    """Return the tolerances of one output; without any it must be exact."""
    rules = case["compare"]
    if isinstance(rules, str):
        return {}
    if output == "labels" and "0.02 %" in str(rules.get("labels")):
        return {"ties": True}
    for names in (output, output.replace("0", "*").replace("1", "*").replace("2", "*").replace("3", "*"), "default"):
        if isinstance(rules.get(names), dict):
            return dict(rules[names])
    return rules if "atol" in rules else {}


def assert_agrees(actual: Array, expected: Array, rule: Mapping[str, Any]) -> None:
    assert actual.shape == expected.shape
    if rule.get("ties"):
        assert np.array_equal(np.unique(actual), np.unique(expected))
        assert np.mean(actual != expected) <= 0.0002
        return
    if expected.dtype.kind == "U":
        assert actual.tolist() == expected.tolist()
        return
    if expected.dtype == np.float32:
        assert actual.dtype == np.float32
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    assert np.all(difference <= rule.get("atol", 0) + rule.get("rtol", 0) * np.abs(expected))
    if "99.9 %" in rule.get("note", ""):
        assert np.mean(difference <= 2e-6) >= 0.999


@pytest.mark.parametrize("name", COMPARED)
def test_the_result_is_that_of_the_original(name: str) -> None:
    case = CASES[name]
    with np.errstate(over="ignore"):
        actual = RUNNERS[case["function"]](case)
    for output, expected in expected_of(case).items():
        assert_agrees(np.asarray(actual[output]), expected, rule_of(case, output))


def test_an_image_with_one_short_axis_is_cut_into_tiles_of_the_models_size() -> None:
    case = CASES["nuc_m512"]
    actual, expected = run_application(case), expected_of(case)
    assert expected["model_call_shapes"].tolist() == [[1, 512, 888, 1]]
    assert actual["model_call_shapes"].tolist() == [[2, 512, 512, 1]]
    assert np.array_equal(actual["preprocessed_sub"], expected["preprocessed_sub"])
    assert np.mean((actual["labels"] > 0) == (expected["labels"] > 0)) > 0.98


def test_objects_of_different_frames_do_not_share_a_numbering() -> None:
    case = CASES["seed_pixelwise_b2"]
    (prediction,), (first, second) = inputs_of(case), expected_of(case)["labels"]
    actual = pixelwise(prediction, interior_axis=2, **case["params"])
    assert second[second > 0].min() == first.max() + 1 == 2
    assert np.array_equal(actual[0], first)
    assert np.array_equal(actual[1], np.where(second > 0, second - first.max(), 0))


@pytest.mark.parametrize("name", ["seed_big_image_2", "seed_big_image_3"])
def test_blocks_cover_the_rows_and_columns_that_were_left_out(name: str) -> None:
    case = CASES[name]
    (image,), expected = inputs_of(case), expected_of(case)["out"]
    cuts = case["params"]["cuts"]
    blocks, grid = cut(image[None], cuts, case["params"]["field"])
    smooth = scipy.ndimage.uniform_filter(blocks.astype(np.float64), (1, 7, 7, 1), mode="nearest")
    (actual,) = join(np.concatenate([smooth, 255 - smooth], axis=-1), grid)
    rows, columns = (cuts * (n // cuts) for n in image.shape[:2])
    assert np.allclose(actual[:rows, :columns], expected[:rows, :columns], atol=1e-4)
    left_out = np.ones(image.shape[:2], bool)
    left_out[:rows, :columns] = False
    assert left_out.any()
    assert not expected[left_out].any()
    assert actual[left_out].all()


def between(size: int, new: int) -> Array:
    """Return which new pixels lie nearest to one old pixel, and not between two."""
    position = (np.arange(new) + 0.5) * size / new
    return np.abs(position - np.round(position)) > 1e-9


def test_of_two_pixels_equally_near_the_second_one_is_taken() -> None:
    case = CASES["seed_rescale_labels"]
    (image,), expected = inputs_of(case), expected_of(case)["out"]
    actual = rescale_nearest(image, **case["params"])
    clear = np.ix_(*(between(n, m) for n, m in zip(image.shape[:2], expected.shape[:2], strict=True)))
    assert np.array_equal(actual[clear], expected[clear])
    assert np.mean(actual != expected) < 0.001


def test_drifting_labels_keep_their_ids() -> None:
    case = CASES["seed_drift_Xy"]
    (movie, labels), expected = inputs_of(case), expected_of(case)
    corrected, moved = correct_drift(movie, labels)
    assert moved is not None
    assert_agrees(corrected, expected["X"], {"atol": 0.01})
    lost = moved.astype(np.int32) - expected["y"].astype(np.int32)
    assert set(np.unique(lost)) == {0, 1}
    assert np.count_nonzero(lost) < 0.02 * lost.size


def test_among_equal_scores_the_first_one_comes_first() -> None:
    case = CASES["max_with_ties"]
    probability, offsets = (stored(case["file"], case["inputs"][name]) for name in ("p1", "offset_regression"))
    for score, offset, points in zip(probability[..., 0], offsets, run_points(case).values(), strict=True):
        centres = {tuple((offset[y, x] + (y, x)).tolist()): (-score[y, x], y, x) for y, x in np.ndindex(score.shape)}
        ranks = [centres[tuple(point)] for point in points.astype(np.float32).tolist()]
        assert ranks == sorted(ranks)


def test_a_constant_plane_is_zeros_where_it_was_nothing() -> None:
    case = CASES["minmax_const"]
    (image,), expected = inputs_of(case), expected_of(case)["out"]
    assert np.isnan(expected).all()
    assert not min_max_normalize(image).any()


def test_the_table_in_the_docs_is_true() -> None:
    totals = Counter(case["file"].removesuffix(".npz") for case in CASES.values())
    passed = Counter(CASES[name]["file"].removesuffix(".npz") for name in COMPARED)
    fixed = Counter(CASES[name]["file"].removesuffix(".npz") for name in FIXED)
    rows = [
        f"| {group} | {total} | {passed[group]} | {fixed[group]} | {total - passed[group] - fixed[group]} |"
        for group, total in totals.items()
    ]
    reasons = [f"| {name} | {reason} |" for name, reason in FIXED.items()]
    text = (ROOT / "docs/parity.md").read_text().splitlines()
    missing = [row for row in rows + reasons if row not in text]
    assert not missing, "these rows are due in docs/parity.md:\n" + "\n".join(missing)
