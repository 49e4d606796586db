"""A movie becomes a job for each frame, and its cells keep their numbers."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from tests.movies import Life, movie_of, permuted, same
from tests.unit.consumers.family import Family, image, tiff

from redis_consumer.arrays import Tracks
from redis_consumer.consumers import CONSUMERS, CalibanConsumer, TrackingConsumer
from redis_consumer.consumers.trackers import pair_rules
from redis_consumer.job import ModelId
from redis_consumer.models.base import TensorSpec
from redis_consumer.models.memory import MemoryModel
from redis_consumer.results.ctc import load_ctc
from redis_consumer.results.trk import load_trk, save_trk, save_trks
from redis_consumer.settings import Settings
from redis_consumer.tracking import PAIR_INPUTS, PairRules

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.movies import Movie

    from redis_consumer.arrays import AnyArray
    from redis_consumer.job import Job

LIVES = (Life(0, 5), Life(0, 5, divides=3), Life(1, 4))
TRUTH = movie_of(LIVES, 6)
LABELS = permuted(TRUTH.array)
RAW = (LABELS > 0).astype(np.uint16) * 500 + np.arange(6, dtype=np.uint16)[:, None, None]
NO_MODELS = {"CALIBAN_MODEL": "none", "SEGMENTATION_QUEUE": "segmentation"}


@pytest.fixture
def family(tmp_path: Path) -> Family:
    return Family(tmp_path, CalibanConsumer, **NO_MODELS)


def place_of(job: Job) -> int:
    return int(job.get("original_name").rpartition("-")[2].partition(".")[0])


def segmented(job: Job, labels: AnyArray = LABELS) -> dict[str, bytes]:
    """Return what the segmentation of a frame leaves."""
    stem = job.get("original_name").removesuffix(".tif")
    return {f"{stem}_batch_0_feature_0.tif": tiff(labels[place_of(job)].astype(np.float32))}


def pages(array: AnyArray) -> bytes:
    """Return a TIFF of pages of which nothing is said."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in array:
            writer.write(page, photometric="minisblack", metadata=None, contiguous=False)
    return file.getvalue()


def tracked(family: Family, key: str) -> Tracks:
    """Return the tracks of a result."""
    stack, lineage = family.result(key).values()
    array = image(stack)
    assert array.dtype == np.float32
    cells = json.loads(lineage)
    assert all(
        cell.keys() == {"label", "frames", "daughters", "capped", "frame_div", "parent"} for cell in cells.values()
    )
    parents = {int(label): cell["parent"] for label, cell in cells.items() if cell["parent"]}
    return Tracks(array.astype(np.int32), parents)


def test_the_old_names_are_the_same_consumer() -> None:
    assert CONSUMERS["caliban"] is CONSUMERS["tracking"] is CalibanConsumer is TrackingConsumer


def test_every_frame_is_a_child_as_the_kiosk_submits_it(family: Family) -> None:
    key = family.submit(RAW, "plate 1/a, spot.TIF", scale="0.5", model_name="Old", label="1", channels="", cuts="2")
    family.visit()
    jobs = family.work("segmentation", segmented)
    assert [place_of(job) for job in jobs] == list(range(6))
    for place, job in enumerate(jobs):
        name = job.get("original_name")
        assert name.endswith(f"-a, spot.TIF-tracking-frame-{place}.tif")
        queue, mentioned, identity = job.key.split(":")
        assert (queue, mentioned) == ("segmentation", name.replace(",", "_"))
        assert len(identity) in {32, 36}
        assert job.get("input_file_name").startswith("output/")
        assert job.get("url")
        told = [job.get(field) for field in ("channels", "dimension_order", "scale", "model_name", "label", "cuts")]
        assert told == ["0,,", "XY", "0.5", "", "", ""]
    assert len({job.get("original_name")[:32] for job in jobs}) == 6
    assert family.fields(key)["children"] == ",".join(job.key for job in jobs)


def test_the_frames_of_the_children_are_those_of_the_movie(family: Family) -> None:
    family.submit(RAW)
    family.visit()

    def seen(job: Job) -> dict[str, bytes]:
        frame = family.input_of(job)
        assert frame.dtype == np.uint16
        np.testing.assert_array_equal(frame, RAW[place_of(job)])
        return segmented(job)

    assert len(family.work("segmentation", seen)) == 6


def test_cells_keep_their_numbers_and_divisions_are_told(family: Family) -> None:
    key = family.submit(RAW, "plate 1/movie.tif")
    family.visit()
    assert family.fields(key)["status"] == "started"
    family.work("segmentation", segmented)
    assert family.fields(key)["progress"] == "80"
    family.visit()
    assert list(family.result(key)) == ["plate 1/movie_feature_0.tif", "lineage.json"]
    assert same(tracked(family, key), TRUTH)
    fields = family.fields(key)
    assert (fields["tracked_by"], fields["progress"], fields["total_jobs"]) == ("distance and size", "100", "1")
    assert {"download_time", "prediction_time", "upload_time", "total_time", "children_upload_time"} <= fields.keys()
    assert family.parents.words() == ["predicting", "saving-results", "done"]


@pytest.mark.parametrize("name", ["細胞" * 90 + ".tif", "a" * 300 + ".tif", "../../etc/..tif", "day\\\\1\n.tif"])
def test_any_name_can_be_that_of_a_movie(family: Family, name: str) -> None:
    key = family.submit(RAW, name)
    family.visit()
    jobs = family.work("segmentation", segmented)
    assert sorted(map(place_of, jobs)) == list(range(6))
    family.visit()
    assert same(tracked(family, key), TRUTH)


def test_nothing_of_the_children_is_left(family: Family) -> None:
    key = family.submit(RAW)
    family.visit()
    jobs = family.work("segmentation", segmented)
    family.visit()
    fields = family.fields(key)
    assert family.objects() == {fields["input_file_name"], fields["output_file_name"]}
    assert family.redis.seconds == {job.key: 3600 for job in jobs}


def test_a_frame_without_cells_is_no_failure(family: Family) -> None:
    labels = LABELS.copy()
    labels[2] = 0
    key = family.submit(RAW)
    family.visit()
    family.work("segmentation", lambda job: segmented(job, labels))
    family.visit()
    assert not tracked(family, key).array[2].any()


def test_labels_above_16_bits_are_kept_apart(family: Family) -> None:
    labels = LABELS.astype(np.int32) + np.where(LABELS > 0, 65536, 0)
    labels[:2] = LABELS[:2]
    key = family.submit(RAW)
    family.visit()
    family.work("segmentation", lambda job: segmented(job, labels))
    family.visit()
    assert same(tracked(family, key), TRUTH)


def test_a_movie_without_cells_is_no_failure(family: Family) -> None:
    key = family.submit(RAW)
    family.visit()
    family.work("segmentation", lambda job: segmented(job, np.zeros_like(LABELS)))
    family.visit()
    assert family.result(key)["lineage.json"] == b"{}"


# Deaths.


def test_who_dies_while_submitting_leaves_the_rest_to_the_next(family: Family) -> None:
    key = family.submit(RAW)
    job = family.claim()
    family.consumer().handle(job)
    before = len(family.broker.jobs)
    family.die(job)
    family.visit()
    assert len(family.broker.jobs) == before
    family.work("segmentation", segmented)
    family.visit()
    assert same(tracked(family, key), TRUTH)


def test_who_dies_after_clearing_away_leaves_the_result(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    key = family.submit(RAW)
    family.visit()
    family.work("segmentation", segmented)
    with monkeypatch.context() as patch:
        patch.setattr(family.parents, "settle", lambda *_, **__: None)
        job = family.visit()
    family.die(job)
    family.visit()
    assert same(tracked(family, key), TRUTH)
    assert float(family.fields(key)["total_time"]) >= 0


# Failures.


def test_a_failed_frame_fails_the_movie_and_says_which_and_why(family: Family) -> None:
    key = family.submit(RAW)
    family.visit()

    def analyze(job: Job) -> dict[str, bytes]:
        if place_of(job) == 3:
            raise RuntimeError("out of film")
        return segmented(job)

    jobs = family.work("segmentation", analyze)
    family.visit()
    assert family.failed(key) == f"Frame 3 of the movie 'movie.tif' (job {jobs[3].key!r}): RuntimeError: out of film"
    kept = {family.fields(key)["input_file_name"], jobs[3].get("input_file_name")}
    assert family.objects() == kept, "a failed child can be replayed"


def test_a_vanished_child_is_named(family: Family) -> None:
    key = family.submit(RAW)
    family.visit()
    jobs = family.work("segmentation", segmented)
    del family.broker.jobs[jobs[4].key]
    family.visit()
    assert family.failed(key) == (f"Frame 4 of the movie 'movie.tif' (job {jobs[4].key!r}): The job is gone from Redis")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "left 0 files"),
        ({"a.tif": tiff(LABELS[0]), "b.tif": tiff(LABELS[0])}, "left 2 files: expected is one label image"),
        ({"a.tif": tiff(LABELS)}, "left 6 label images: expected is one"),
        ({"a.tif": tiff(LABELS[0] + 0.5)}, "'a.tif' that the job left is no label image"),
        ({"a.tif": tiff(np.full((9, 9), np.nan, np.float32))}, "'a.tif' that the job left is no label image"),
        ({"a.tif": b"no image"}, "The image 'a.tif' cannot be read"),
        ({"a.tif": tiff(np.zeros((9, 9), np.float32))}, "The labels have (9, 9) pixels"),
    ],
    ids=["none", "two", "a stack", "fractions", "nan", "damaged", "another size"],
)
def test_what_is_no_label_image_fails_the_movie(family: Family, files: dict[str, bytes], reason: str) -> None:
    key = family.submit(RAW)
    family.visit()
    family.work("segmentation", lambda job: files if place_of(job) == 1 else segmented(job))
    family.visit()
    assert "Frame 1 of the movie 'movie.tif'" in family.failed(key)
    assert reason in family.failed(key)


@pytest.mark.parametrize(
    ("content", "fields", "reason"),
    [
        (RAW[0], {}, "The movie 'movie.tif' has 1 frame: expected are two or more"),
        (np.zeros((61, 20, 20), np.uint8), {}, "has 61 frames: allowed are 60 (MAX_IMAGE_FRAMES)"),
        (np.zeros((3, 20, 30, 5, 4), np.uint8), {}, "The image 'movie.tif'"),
        (np.zeros((3, 20, 30, 2), np.uint8), {}, "has 2 channels to track: expected is one"),
        (np.zeros((3, 20, 30, 2), np.uint8), {"channels": "2"}, "names '2': allowed are 0 to 1"),
        (b"no image", {}, "The image 'movie.tif' cannot be read"),
    ],
    ids=["one frame", "too many", "five axes", "two channels", "no such channel", "damaged"],
)
def test_a_bad_movie_fails_in_one_line(family: Family, content: Any, fields: dict[str, str], reason: str) -> None:
    key = family.submit(content, **fields)
    family.visit()
    assert reason in family.failed(key)
    assert len(family.broker.jobs) == 1


@pytest.mark.parametrize("name", ["movie.png", "movie.zip", "movie"])
def test_other_files_are_no_movies(family: Family, name: str) -> None:
    key = family.submit(RAW, "movie.tif", input_file_name=f"uploads/{name}")
    family.visit()
    assert family.failed(key) == f"Invalid filetype for \"q\" job: 'uploads/{name}'"


def test_a_channel_of_several_is_tracked_where_the_job_names_it(family: Family) -> None:
    both = np.stack([RAW, RAW + 7], axis=-1)
    family.submit(both, channels="1")
    family.visit()
    seen = [family.input_of(job) for job in family.work("segmentation", segmented)]
    np.testing.assert_array_equal(np.stack(seen), both[..., 1])


NAMES = {"Channel": {"Name": ["DAPI", "GFP", "Cy5"]}}
STILLS = [
    tiff(RAW[:3], ome=True, metadata={"axes": "CYX", **NAMES}),
    tiff(RAW[:3], ome=True, metadata={"axes": "CYX"}),
    tiff(RAW[:3], imagej=True, metadata={"axes": "CYX", "mode": "composite"}),
]


@pytest.mark.parametrize("channels", ["", "0", "1"])
@pytest.mark.parametrize("content", STILLS, ids=["names", "no names", "composite"])
def test_channels_of_a_still_picture_are_no_frames(family: Family, content: bytes, channels: str) -> None:
    key = family.submit(content, channels=channels)
    family.visit()
    assert family.failed(key) == (
        "The movie 'movie.tif' has 1 frame: expected are two or more; its axes are CYX: "
        "say 'BXY' in 'dimension_order' if its channels are frames"
    )


@pytest.mark.parametrize(
    ("content", "order"),
    [(STILLS[0], "BXY"), (STILLS[2], "BXY"), (tiff(RAW[:3]), ""), (tiff(RAW[:3]), "XYB"), (pages(RAW[:3]), "")],
    ids=["OME, said", "composite, said", "bare", "bare, as the form has it", "pages"],
)
def test_pages_are_frames_if_the_job_or_nobody_says_what_they_are(family: Family, content: bytes, order: str) -> None:
    family.submit(content, dimension_order=order)
    family.visit()
    seen = [family.input_of(job) for job in family.work("segmentation", segmented)]
    np.testing.assert_array_equal(np.stack(seen), RAW[:3])


# Track files.


def track_file(folder: Path, *movies: Movie) -> bytes:
    path = folder / "given.trks"
    if len(movies) == 1:
        save_trk(RAW[..., None], Tracks(movies[0]), path)
    else:
        save_trks([(RAW[..., None], Tracks(movie)) for movie in movies], path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["movie.trk", "movie.TRK", "day 2/movie.trks"])
def test_a_track_file_needs_no_segmentation(family: Family, tmp_path: Path, name: str) -> None:
    key = family.submit(track_file(tmp_path, LABELS), name)
    family.visit()
    assert same(tracked(family, key), TRUTH)
    assert next(iter(family.result(key))) == f"{name.rpartition('.')[0]}_feature_0.tif"
    assert family.parents.words() == ["predicting", "saving-results", "done"]
    assert len(family.broker.jobs) == 1


def test_a_track_file_of_several_movies_is_refused(family: Family, tmp_path: Path) -> None:
    key = family.submit(track_file(tmp_path, LABELS, LABELS), "movies.trks")
    family.visit()
    assert family.failed(key) == "The track file 'movies.trks' has 2 movies: expected is one"


def test_a_track_file_of_one_frame_is_refused(family: Family, tmp_path: Path) -> None:
    save_trk(RAW[:1, ..., None], Tracks(LABELS[:1]), tmp_path / "a.trk")
    key = family.submit((tmp_path / "a.trk").read_bytes(), "a.trk")
    family.visit()
    assert family.failed(key) == "The movie 'a.trk' has 1 frame: expected are two or more"


def test_a_damaged_track_file_is_refused(family: Family) -> None:
    key = family.submit(b"no tar", "a.trk")
    family.visit()
    assert "The track file 'a.trk' cannot be read" in family.failed(key)


# The two models.

ENCODER_INPUTS = ("encoder_app_input", "encoder_morph_input", "encoder_centroid_input", "encoder_adj_input")
COMPARER_INPUTS = ("current_embeddings", "current_centroids", "future_embeddings", "future_centroids")


def serve_tracking_models(family: Family) -> list[int]:
    """Serve stand-ins: cells are the same if their centroids are near; return the sizes of the encoder's requests."""
    sizes = []

    def encode(given: dict[str, AnyArray]) -> dict[str, AnyArray]:
        sizes.append(len(given["encoder_app_input"]))
        assert len({len(array) for array in given.values()}) == 1
        centroids = given["encoder_centroid_input"]
        return {"centroid": centroids * 0, "embedding": centroids, "other": centroids * 0}

    def compare(given: dict[str, Any]) -> dict[str, AnyArray]:
        last, new = given["current_embeddings"][:, -1:, :, None], given["future_embeddings"][:, :, None]
        near = np.exp(-np.linalg.norm(last - new, axis=-1) / 20)
        return {"same": np.stack([near, 1 - near, near * 0], axis=-1)}

    for name, inputs, run in (("NE:2", ENCODER_INPUTS, encode), ("Inf:2", COMPARER_INPUTS, compare)):
        specs = [TensorSpec(given, np.dtype(np.float32), None) for given in inputs]
        family.models.models[ModelId.parse(name)] = MemoryModel(specs, run)
    family.environ |= {"NEIGHBORHOOD_ENCODER": "NE:2", "CALIBAN_MODEL": "Inf:2"}
    return sizes


def test_the_two_models_track_where_they_are_configured(family: Family) -> None:
    sizes = serve_tracking_models(family)
    family.environ["TF_MAX_BATCH_SIZE"] = "4"
    key = family.submit(RAW)
    family.visit()
    family.work("segmentation", segmented)
    family.visit()
    assert sizes == [4, 2], "a movie may be longer than the server's batch"
    found = tracked(family, key)
    assert found.parents == {}
    assert len(found.lineage) >= 4
    assert family.fields(key)["tracked_by"] == "NE:2 and Inf:2"
    told = [int(str(write["progress"])) for write in family.parents.writes if "progress" in write]
    assert told[0] >= 80
    assert told == sorted(told)


def test_a_track_file_is_tracked_by_the_models(family: Family, tmp_path: Path) -> None:
    assert serve_tracking_models(family) == []
    key = family.submit(track_file(tmp_path, LABELS), "movie.trk")
    family.visit()
    assert len(tracked(family, key).lineage) >= 4


def test_a_tracking_model_that_is_not_there_is_said(family: Family, tmp_path: Path) -> None:
    family.environ |= {"CALIBAN_MODEL": "Missing:3"}
    key = family.submit(track_file(tmp_path, LABELS), "movie.trk")
    family.visit()
    assert "There is no model Missing:3" in family.failed(key)


def test_a_model_that_answers_something_else_is_said(family: Family, tmp_path: Path) -> None:
    serve_tracking_models(family)
    specs = family.models.models[ModelId("Inf", 2)].inputs
    family.models.models[ModelId("Inf", 2)] = MemoryModel(specs, lambda given: {"a": given["future_embeddings"]})
    key = family.submit(track_file(tmp_path, LABELS), "movie.trk")
    family.visit()
    assert "The movie 'movie.trk' cannot be tracked: the tracking model returned shape" in family.failed(key)


# A pairwise model.

PAIR_SHAPES = {
    "appearance": (None, 3, 16, 16, 1),
    "distance": (None, 3, 2),
    "neighborhood": (None, 3, 21, 21, 1),
    "regionprop": (None, 3, 3),
}
NUMBERED = [f"input{number}" for number in range(8)]


def serve_pair_model(
    family: Family, name: str = "Pairs:1", inputs: Sequence[str] = PAIR_INPUTS, *, free: bool = False
) -> list[dict[str, AnyArray]]:
    """Serve a stand-in that knows no divisions: what is near is the same; return what it is asked."""
    asked: list[dict[str, AnyArray]] = []

    def compare(given: dict[str, Any]) -> dict[str, AnyArray]:
        asked.append(dict(zip(PAIR_INPUTS, map(given.__getitem__, inputs), strict=True)))
        near = np.exp(-np.linalg.norm(given[inputs[3]][:, 0], axis=-1) / 20)
        return {"prediction": np.stack([1 - near, near, near * 0], axis=-1)}

    shapes = [(n, 1, *rest) if part else (n, L, *rest) for n, L, *rest in PAIR_SHAPES.values() for part in (0, 1)]
    specs = [
        TensorSpec(given, np.dtype(np.float32), (None,) * len(shape) if free else shape)
        for given, shape in zip(inputs, shapes, strict=True)
    ]
    family.models.models[ModelId.parse(name)] = MemoryModel(specs, compare)
    family.environ |= {"CALIBAN_MODEL": name}
    return asked


@pytest.mark.parametrize("inputs", [PAIR_INPUTS, NUMBERED], ids=["by feature", "by number"])
def test_a_model_that_compares_pairs_is_known_by_its_inputs(family: Family, inputs: Sequence[str]) -> None:
    asked = serve_pair_model(family, inputs=inputs)
    family.environ["TF_MAX_BATCH_SIZE"] = "2"
    key = family.submit(RAW)
    family.visit()
    family.work("segmentation", segmented)
    family.visit()
    assert tracked(family, key).lineage[1].frames == tuple(range(6))
    assert {len(call["distance_input1"]) for call in asked} == {1, 2}, "as many requests as the server's batch needs"
    assert family.fields(key)["tracked_by"] == "Pairs:1"
    assert list(family.result(key)) == ["movie_feature_0.tif", "lineage.json"]
    assert family.parents.words() == ["predicting", "saving-results", "done"]
    told = [int(str(write["progress"])) for write in family.parents.writes if "progress" in write]
    assert told[0] >= 80


def test_sizes_are_those_that_the_model_fixes(family: Family, tmp_path: Path) -> None:
    asked = serve_pair_model(family)
    family.environ |= {"TRACK_LENGTH": "9", "APPEARANCE_DIM": "40"}
    family.submit(track_file(tmp_path, LABELS), "movie.trk")
    family.visit()
    for feature, (_, *size) in PAIR_SHAPES.items():
        assert asked[0][f"{feature}_input1"].shape[1:] == tuple(size)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, PairRules()),
        (
            {"TRACK_LENGTH": "8", "BIRTH": "0.99", "DEATH": "0.9", "DIVISION": "0.5", "MAX_DISTANCE": "9"},
            PairRules(max_distance=9, track_length=8, birth=0.99, death=0.9, division=0.5),
        ),
        ({"NORMALIZE_TRACKING": "false"}, PairRules(normalized=False)),
    ],
    ids=["nothing", "all", "normalize"],
)
def test_what_nobody_set_is_as_it_was_in_the_first_years(environ: dict[str, str], expected: PairRules) -> None:
    specs = [TensorSpec(name, np.dtype(np.float32), None) for name in PAIR_INPUTS]
    assert pair_rules(Settings.from_environ(environ), specs) == expected


def test_a_model_of_free_sizes_is_shown_the_usual_ones(family: Family, tmp_path: Path) -> None:
    asked = serve_pair_model(family, free=True)
    family.submit(track_file(tmp_path, LABELS), "movie.trk")
    family.visit()
    assert asked[0]["appearance_input1"].shape[1:] == (5, 32, 32, 1)
    assert asked[0]["neighborhood_input2"].shape[1:] == (1, 61, 61, 1)


def test_as_tracking_the_job_names_its_model(family: Family, tmp_path: Path) -> None:
    asked = serve_pair_model(family, "Named:4")
    family.environ |= {"CALIBAN_MODEL": "none", "CONSUMER_TYPE": "tracking"}
    key = family.submit(track_file(tmp_path, LABELS), "movie.trk", model_name="Named", model_version="4")
    family.visit()
    assert family.fields(key)["tracked_by"] == "Named:4"
    assert asked


def test_as_caliban_no_job_names_a_model(family: Family, tmp_path: Path) -> None:
    key = family.submit(track_file(tmp_path, LABELS), "movie.trk", model_name="NuclearSegmentation", model_version="0")
    family.visit()
    assert family.fields(key)["tracked_by"] == "distance and size"


def test_a_wrong_name_is_said_before_anything_is_segmented(family: Family) -> None:
    family.environ["CONSUMER_TYPE"] = "tracking"
    key = family.submit(RAW, model_name="Named", model_version="four")
    family.visit()
    assert "The fields 'model_name' and 'model_version' are wrong" in family.failed(key)
    assert len(family.broker.jobs) == 1


def test_a_model_that_is_no_tracking_model_is_said(family: Family, tmp_path: Path) -> None:
    family.models.add("Nuclei:1", lambda image: image)
    family.environ["CALIBAN_MODEL"] = "Nuclei:1"
    key = family.submit(track_file(tmp_path, LABELS), "movie.trk")
    family.visit()
    assert family.failed(key).startswith(
        "Model Nuclei:1 is no tracking model: its inputs are image; expected are current_centroids, "
    )


def test_a_model_that_needs_an_encoder_is_said_where_there_is_none(family: Family, tmp_path: Path) -> None:
    serve_tracking_models(family)
    family.environ |= {"NEIGHBORHOOD_ENCODER": "none", "CONSUMER_TYPE": "tracking"}
    key = family.submit(track_file(tmp_path, LABELS), "movie.trk", model_name="Inf", model_version="2")
    family.visit()
    assert family.failed(key) == "Model Inf:2 compares what an encoder says, and NEIGHBORHOOD_ENCODER is none"


def test_a_pairwise_model_that_answers_something_else_is_said(family: Family, tmp_path: Path) -> None:
    serve_pair_model(family)
    specs = family.models.models[ModelId("Pairs", 1)].inputs
    family.models.models[ModelId("Pairs", 1)] = MemoryModel(specs, lambda given: {"a": given["distance_input2"]})
    key = family.submit(track_file(tmp_path, LABELS), "movie.trk")
    family.visit()
    assert "The movie 'movie.trk' cannot be tracked: the tracking model returned shape" in family.failed(key)


def test_the_provenance_of_a_pairwise_model_has_what_it_was_used_with(family: Family, tmp_path: Path) -> None:
    serve_pair_model(family)
    family.environ["EXTRA_OUTPUTS"] = "provenance"
    key = family.submit(track_file(tmp_path, LABELS), "movie.trk")
    family.visit()
    (path,) = json.loads(family.fields(key)["extra_outputs"]).values()
    told = json.loads((family.bucket / path).read_text())
    assert [model["name"] for model in told["models"]] == ["Pairs"]
    assert (told["parameters"]["track_length"], told["parameters"]["birth"]) == (3, 0.95)


# What stands beside the zip.


@pytest.mark.parametrize("content", ["movie.tif", "movie.trk"])
def test_what_is_asked_for_stands_beside_the_zip(family: Family, tmp_path: Path, content: str) -> None:
    family.environ["EXTRA_OUTPUTS"] = "provenance,tracks-trk,tracks-ctc,table-csv,geojson"
    key = family.submit(RAW if content == "movie.tif" else track_file(tmp_path, LABELS), content)
    family.visit()
    if content == "movie.tif":
        family.work("segmentation", segmented)
        family.visit()
    extras = json.loads(family.fields(key)["extra_outputs"])
    assert list(extras) == ["geojson", "table-csv", "tracks-ctc", "tracks-trk", "provenance"]
    found = tracked(family, key)
    ((raw, tracks),) = load_trk(family.bucket / extras["tracks-trk"])
    np.testing.assert_array_equal(raw[..., 0], RAW)
    assert same(tracks, found)
    assert extras["tracks-ctc"].endswith("/01_RES")
    assert same(load_ctc(family.bucket / extras["tracks-ctc"]), found)
    table = (family.bucket / extras["table-csv"]).read_text().splitlines()
    assert len(table) == 1 + sum(len(cell.frames) for cell in found.lineage.values())
    provenance = json.loads((family.bucket / extras["provenance"]).read_text())
    assert provenance["parameters"]["max_distance"] == 50
    assert provenance["objects"] == len(found.lineage)
    assert provenance["input"]["shape"] == list(RAW.shape) + ([1] if content == "movie.trk" else [])
    assert not zipfile.ZipFile(family.bucket / family.fields(key)["output_file_name"]).testzip()
