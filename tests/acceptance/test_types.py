"""The Kiosk's job types beside segmentation, through separate processes: tissue, spots, and the steps of `image` jobs.

Jobs are written as the frontend writes them, and as kiosk-client and the ImageJ plugin do: with every choice blank.
"""

from __future__ import annotations

import io
import re
import uuid
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import tifffile
from tests.acceptance.bench import discs, exit_code, objects, text_of, tiff
from tests.onnx_models import SPOT_OFFSET

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.acceptance.bench import Bench

    from redis_consumer.arrays import AnyArray
    from redis_consumer.demo.stack import Child

pytestmark = pytest.mark.slow

SPOKEN = ["new", "started", "pre-processing", "predicting", "saving-results", "done"]
FORMS: Mapping[str, Mapping[str, str]] = {
    "mesmer": {"channels": "0,1", "scale": "1", "url": "https://storage.example.org/uploads/a.tif"},
    "multiplex": {"channels": "0,1", "scale": "1"},
    "spot": {"channels": "", "dimension_order": "BXY", "scale": "0.38"},  # as a child of a polaris job
}
"""What the web page fills in; all else is blank."""
STAINS = "expected are 2, nuclei and membrane or cytoplasm"


def tissue() -> tuple[AnyArray, int, int]:
    """Return an image (C, Y, X) of nuclei and cells, and the numbers of cells and of nuclei: one cell has none."""
    cells, number = discs(200, 150, radius=16)
    nuclei, _ = discs(200, 150, radius=10)
    nuclei[:50, :50] = nuclei[-50:, -50:].min()
    return np.stack([nuclei, cells]), number, number - 1


def dots(*places: tuple[int, int], shape: tuple[int, int] = (60, 80)) -> AnyArray:
    image = np.full(shape, 100, np.uint16)
    for place in places:
        image[place] = 1000
    return image


TISSUE, CELLS, NUCLEI = tissue()
PLACES = [(5, 7), (30, 62), (44, 9)]
DOTS = dots(*PLACES)
IMAGES: Mapping[str, AnyArray] = {"mesmer": TISSUE, "multiplex": TISSUE, "spot": DOTS}
ENTRIES: Mapping[str, list[str]] = {
    "mesmer": ["{}_feature_0.tif", "{}_feature_1.tif"],
    "multiplex": ["{}_feature_0.tif"],
    "spot": ["{}_0.tif", "{}_0.npy"],
}
QUEUES = list(ENTRIES)


@pytest.fixture(scope="module", autouse=True)
def workers(bench: Bench, image_worker: Child) -> Iterator[dict[str, Child]]:
    """One for each queue, as the Kiosk deploys them; they end as they began."""
    variables = {"mesmer": {"MESMER_COMPARTMENT": "both"}, "multiplex": {"MULTIPLEX_MODEL": "MultiplexSegmentation:9"}}
    started = {
        queue: bench.worker(f"{queue}-1", QUEUE=queue, CONSUMER_TYPE=queue, **variables.get(queue, {}))
        for queue in QUEUES
    }
    yield {**started, "image": image_worker}
    for worker in started.values():
        assert worker.process.poll() is None
        assert "Traceback" not in text_of(worker)


@pytest.mark.parametrize("form", ["the page's", "blank"])
@pytest.mark.parametrize("queue", QUEUES)
def test_a_job_goes_through_every_status_to_a_whole_result(bench: Bench, queue: str, form: str) -> None:
    fields = FORMS[queue] if form == "the page's" else {}
    key = bench.push(queue, bench.upload(IMAGES[queue]), **fields, original_name="field 1/a.tif")
    done = bench.done(key)
    assert bench.statuses(key) == SPOKEN
    assert list(bench.entries(done)) == [entry.format("field 1/a") for entry in ENTRIES[queue]]
    assert done["dim_order"] == ("YX" if queue == "spot" else "CYX")
    told = [fields for fields in bench.writes(key) if "dim_order" in fields]
    assert [fields["status"] for fields in told] == ["predicting"]
    assert done["identity_started"] == f"{queue}-1"
    assert done["total_jobs"] == "1"
    assert {"finished_at", "total_time", "upload_time", "download_time"} <= done.keys()


# Tissue.


def test_cells_come_before_nuclei(bench: Bench) -> None:
    found = bench.results(bench.done(bench.push("mesmer", bench.upload(TISSUE))))
    assert {labels.shape for labels in found.values()} == {(1, *TISSUE.shape[1:])}
    assert [objects(labels) for labels in found.values()] == [CELLS, NUCLEI]


@pytest.mark.parametrize(
    ("compartment", "expected"), [("whole-cell", [CELLS]), ("nuclear", [NUCLEI]), ("both", [CELLS, NUCLEI])]
)
@pytest.mark.parametrize("queue", ["mesmer", "multiplex"])
def test_the_job_chooses_the_compartment(bench: Bench, queue: str, compartment: str, expected: list[int]) -> None:
    found = bench.results(bench.done(bench.push(queue, bench.upload(TISSUE), compartment=compartment)))
    assert [objects(labels) for labels in found.values()] == expected


@pytest.mark.parametrize(
    "fields",
    [{"scale": "0.5"}, {"scale": "1.5"}, {"channels": "0,1"}, {"channels": "DAPI,CD45"}, {"dimension_order": "CXY"}],
    ids=str,
)
def test_the_result_has_the_size_of_the_image(bench: Bench, fields: dict[str, str]) -> None:
    image = np.concatenate([TISSUE, np.zeros_like(TISSUE[:1])])
    names: dict[str, Any] = {"metadata": {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD45", "none"]}}, "ome": True}
    found = bench.results(bench.done(bench.push("mesmer", bench.upload(image, **names), **fields)))
    assert {labels.shape for labels in found.values()} == {(1, *TISSUE.shape[1:])}
    assert [objects(labels) for labels in found.values()] == [CELLS, NUCLEI]


def test_a_batch_is_one_stack_of_each_compartment(bench: Bench) -> None:
    image = np.stack([TISSUE, np.zeros_like(TISSUE)])
    found = bench.results(bench.done(bench.push("mesmer", bench.upload(image), dimension_order="BCXY")))
    assert list(found) == ["image_feature_0.tif", "image_feature_1.tif"]
    assert [[objects(frame) for frame in labels] for labels in found.values()] == [[CELLS, 0], [NUCLEI, 0]]


# Spots.


def spots(bench: Bench, fields: Mapping[str, str]) -> dict[str, AnyArray]:
    """Return the points of a job's result by name, and see that a picture stands before each of them."""
    entries = bench.entries(fields)
    names = list(entries)
    assert names[::2] == [name.replace(".npy", ".tif") for name in names[1::2]]
    for name in names[::2]:
        with tifffile.TiffFile(io.BytesIO(entries[name])) as file:
            assert file.pages.first.compression == tifffile.COMPRESSION.NONE
            picture = file.asarray()
        assert picture.dtype == np.uint8
        assert picture.shape[-1] == 3
    return {name: np.load(io.BytesIO(entries[name]), allow_pickle=False) for name in names[1::2]}


def test_points_are_rows_and_columns(bench: Bench) -> None:
    (points,) = spots(bench, bench.done(bench.push("spot", bench.upload(DOTS)))).values()
    assert points.dtype == np.float64
    np.testing.assert_array_equal(points, np.array(PLACES) + SPOT_OFFSET)


def test_every_image_of_a_batch_has_a_picture_and_points(bench: Bench) -> None:
    key = bench.upload(np.stack([DOTS, dots(), dots((9, 9))]))
    found = spots(bench, bench.done(bench.push("spot", key, dimension_order="BXY", original_name="b.tif")))
    assert {name: len(points) for name, points in found.items()} == {"b_0.npy": 3, "b_1.npy": 0, "b_2.npy": 1}


def test_the_channel_of_spots_is_the_jobs_choice(bench: Bench) -> None:
    key = bench.upload(np.stack([dots(), DOTS]))
    (points,) = spots(bench, bench.done(bench.push("spot", key, dimension_order="CXY", channels="1"))).values()
    assert len(points) == len(PLACES)


# Batches.


@pytest.mark.parametrize("queue", ["mesmer", "spot"])
def test_a_batch_holds_what_each_image_would_have_alone(bench: Bench, queue: str) -> None:
    worker = bench.worker(f"{queue}-zip-1", QUEUE=queue, CONSUMER_TYPE="zip")
    members = {"b/spot.tif": tiff(IMAGES[queue]), "a, 1.tif": tiff(IMAGES[queue])}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    entries = bench.entries(bench.done(bench.push(f"{queue}-zip", bench.upload(file.getvalue(), "plate.zip"))))
    assert list(entries) == [entry.format(stem) for stem in ("b/spot", "a, 1") for entry in ENTRIES[queue]]
    worker.stop()


# What succeeds all the same.


@pytest.mark.parametrize(
    "name",
    [
        "two words.tif",
        "spot.tif",
        "mesmer/spot mesmer.tif",
        "Gewebe, grün: 1,5 µm, 核.tif",
        "plate 1/well A01,2/a.b.tif",
        "CELLS.TIF",
    ],
)
@pytest.mark.parametrize("queue", ["mesmer", "spot"])
def test_names_of_every_kind_pass_through(bench: Bench, queue: str, name: str) -> None:
    key = bench.upload(IMAGES[queue], f"uploads/{uuid.uuid4().hex}/{name}")
    stem = re.sub(r"\.tif$", "", name, flags=re.IGNORECASE)
    entries = bench.entries(bench.done(bench.push(queue, key, original_name=name)))
    assert list(entries) == [entry.format(stem) for entry in ENTRIES[queue]]


OPTIONAL = (
    *("original_name", "url", "channels", "dimension_order", "scale", "label", "cuts", "model_name", "model_version"),
    *("compartment", "segmentation_type", "preprocess_function", "postprocess_function", "field_size"),
)
blanks = pytest.mark.parametrize("value", ["", " ", None], ids=["empty", "a space", "absent"])


@blanks
@pytest.mark.parametrize("queue", QUEUES)
def test_fields_may_be_blank_or_absent(bench: Bench, queue: str, value: str | None) -> None:
    blank = dict.fromkeys(OPTIONAL, value)
    entries = bench.entries(bench.done(bench.push(queue, bench.upload(IMAGES[queue]), **blank)))
    assert list(entries) == [entry.format("image") for entry in ENTRIES[queue]]


@pytest.fixture(scope="module")
def parents(bench: Bench) -> Iterator[dict[str, Child]]:
    """Workers whose jobs have others do the work, on queues of their own, and one who segments for them."""
    variables = {
        "plain-movies": {"CONSUMER_TYPE": "caliban", "CALIBAN_MODEL": "none", "SEGMENTATION_QUEUE": "plain"},
        "plain-spots": {"CONSUMER_TYPE": "polaris"},
        "plain": {"CONSUMER_TYPE": "segmentation"},
    }
    started = {queue: bench.worker(f"{queue}-1", QUEUE=queue, **given) for queue, given in variables.items()}
    started["plain-zip"] = bench.worker("plain-zip-1", QUEUE="plain", CONSUMER_TYPE="zip")
    yield started
    for worker in started.values():
        assert "Traceback" not in text_of(worker)
        worker.process.kill()
        exit_code(worker)


def small_archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.tif", tiff(discs(60, 60)[0]))
    return file.getvalue()


@blanks
@pytest.mark.parametrize(
    ("queue", "content", "name", "expected"),
    [
        ("plain-movies", tiff(np.stack([discs(60, 60)[0]] * 2)), "a.tif", ["a_feature_0.tif", "lineage.json"]),
        ("plain-spots", tiff(DOTS), "a.tif", ["a_0.csv"]),
        ("plain-zip", small_archive(), "b.zip", ["a_batch_0_feature_0.tif"]),
    ],
    ids=["caliban", "polaris", "zip"],
)
def test_fields_of_jobs_with_children_may_be_blank_or_absent(
    bench: Bench,
    parents: dict[str, Child],
    queue: str,
    content: bytes,
    name: str,
    expected: list[str],
    value: str | None,
) -> None:
    assert parents[queue].process.poll() is None
    key = bench.push(queue, bench.upload(content, name), **dict.fromkeys(OPTIONAL, value))
    assert list(bench.entries(bench.done(key))) == expected


@pytest.mark.parametrize("shape", [(1, 1), (1, 3)], ids=str)
@pytest.mark.parametrize("kind", ["none", "tissue"])
def test_spots_of_the_smallest_images(
    bench: Bench, parents: dict[str, Child], shape: tuple[int, int], kind: str
) -> None:
    assert parents["plain-spots"].process.poll() is None
    image = np.full((3, *shape), 9, np.uint16)
    upload = bench.upload(tiff(image, metadata={"axes": "CYX"}), "a.tif")
    fields = {"segmentation_type": kind, "scale": "1"}
    *labels, table = bench.entries(bench.done(bench.push("plain-spots", upload, **fields))).values()
    assert len(labels) == (2 if kind == "tissue" else 0)
    assert table.startswith(b"x,y")


@pytest.mark.parametrize("queue", QUEUES)
def test_nothing_to_find_is_no_failure(bench: Bench, queue: str) -> None:
    fields = bench.done(bench.push(queue, bench.upload(np.zeros_like(IMAGES[queue]))))
    if queue == "spot":
        (points,) = spots(bench, fields).values()
        assert points.shape == (0, 2)
    else:
        assert {objects(labels) for labels in bench.results(fields).values()} == {0}


# What fails, and says why.


class Bad(NamedTuple):
    """A job that fails, and what a person reads in its `reason`."""

    name: str
    queue: str
    reason: str
    """A regular expression."""
    image: AnyArray
    fields: dict[str, str]


def bad(name: str, queue: str, reason: str, image: AnyArray, **fields: str) -> Bad:
    return Bad(name, queue, reason, image, fields)


NAN = np.full((60, 60), np.nan, np.float32)
BAD = [
    bad("one channel", "mesmer", rf"The image 'cells\.tif' has 1 channel: {STAINS}", TISSUE[0]),
    bad("frames, not channels", "mesmer", rf"The image 'cells\.tif' has 1 channel: {STAINS}", TISSUE,
        dimension_order="BXY"),
    bad("one of two", "mesmer", rf"The field 'channels' names 1 channel: {STAINS}", TISSUE, channels="0,"),
    bad("three channels", "mesmer", rf"The field 'channels' names 3 channels: {STAINS}", TISSUE, channels="0,1,1"),
    bad("absent channel", "mesmer", r"The field 'channels' names '2': allowed are 0 to 1", TISSUE, channels="0,2"),
    bad("absent name", "mesmer", r"The field 'channels' names 'DAPI': allowed are 0 to 1", TISSUE, channels="DAPI,1"),
    bad("unknown compartment", "mesmer", r"The field 'compartment' is 'cell': allowed are whole-cell, nuclear, both",
        TISSUE, compartment="cell"),
    bad("unknown compartment, old name", "multiplex", r"The field 'compartment' is 'all': allowed are", TISSUE,
        compartment="all"),
    bad("scale", "mesmer", r"The field 'scale' is '20x': allowed is a number from 0\.1 to 10", TISSUE, scale="20x"),
    bad("too many axes", "mesmer", r"The image 'cells\.tif' .*\(2, 3, 2, 20, 20\)", np.ones((2, 3, 2, 20, 20), "u2")),
    bad("not finite", "mesmer", r"The image cannot be processed: .*finite", np.stack([NAN, NAN])),
    bad("model of one channel", "mesmer", r"The image has 2 channels, the model FixedSize:1 takes 1", TISSUE,
        model_name="FixedSize", model_version="1"),
    bad("several channels of spots", "spot", r"The image has 2 channels, the model SpotDetection:3 takes 1", TISSUE,
        dimension_order="CXY"),
    bad("two channels of spots", "spot", r"The image has 2 channels, the model SpotDetection:3 takes 1", TISSUE,
        dimension_order="CXY", channels="0,1"),
    bad("absent channel of spots", "spot", r"The field 'channels' names '1': allowed are 0 to 0", DOTS, channels="1"),
    bad("too many axes of spots", "spot", r"'dimension_order' 'BXY' names 3 axes", np.ones((2, 2, 2, 20, 20), "u2"),
        dimension_order="BXY"),
    bad("spots that are not finite", "spot", r"The image cannot be processed: .*finite", NAN),
    bad("model without offsets", "spot", r"The model OneHead:1 has 1 outputs: expected are classification and", DOTS,
        model_name="OneHead", model_version="1"),
    bad("boxes in pieces", "image", r"The field 'cuts' is 2: allowed is 0 where boxes are predicted", DOTS, cuts="2",
        postprocess_function="retinanet"),
    bad("boxes of a model of images", "image", r"The image cannot be processed: retinanet: outputs of shapes", DOTS,
        postprocess_function="retinanet"),
    bad("an unknown label", "image", r"The field 'label' is '7': allowed are 0 \(nuclei\), 1 \(phase\), 2", DOTS,
        label="7"),
    bad("an unknown step", "image", r"postprocess_function 'guess': allowed are deep_watershed, deepcell, mibi,", DOTS,
        postprocess_function="guess"),
]  # fmt: skip


@pytest.fixture(scope="module")
def pushed(bench: Bench, workers: dict[str, Child]) -> dict[str, str]:
    assert workers
    return {
        row.name: bench.push(row.queue, bench.upload(row.image), **{"original_name": "cells.tif", **row.fields})
        for row in BAD
    }


@pytest.mark.parametrize("row", BAD, ids=lambda row: row.name)
def test_bad_input_fails_and_says_why(bench: Bench, pushed: dict[str, str], row: Bad) -> None:
    reason = bench.failed(pushed[row.name])
    assert re.search(row.reason, reason), reason


@pytest.mark.parametrize("queue", QUEUES)
def test_an_archive_belongs_to_another_queue(bench: Bench, queue: str) -> None:
    key = bench.upload(tiff(DOTS), "uploads/a.zip")
    assert bench.failed(bench.push(queue, key)).startswith(f'Invalid filetype for "{queue}" job')


# The steps of the first Kiosk's `image` jobs.


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("Boxes", "retinanet"),
        ("BoxesAndDepth", "retinanet-semantic"),
        ("Boxes", "retinanet,none"),
    ],
)
def test_boxes_and_masks_become_labels(bench: Bench, model: str, names: str) -> None:
    image = np.stack([discs(60, 60)[0]] * 2)
    fields = {"model_name": model, "model_version": "1", "postprocess_function": names, "dimension_order": "BXY"}
    (labels,) = bench.results(bench.done(bench.push("image", bench.upload(image), **fields))).values()
    assert labels.shape == (2, 60, 60)
    assert [objects(frame) for frame in labels] == [2, 2]
    assert labels[0, 30, 10] != labels[0, 30, 50]


def test_tissue_has_its_steps_too(bench: Bench) -> None:
    fields = {
        "model_name": "MultiplexSegmentation",
        "model_version": "9",
        "preprocess_function": "multiplex_preprocess",
        "postprocess_function": "multiplex_postprocess",
    }
    key = bench.upload(TISSUE)
    (labels,) = bench.results(bench.done(bench.push("image", key, dimension_order="CXY", **fields))).values()
    assert objects(labels) == CELLS


@pytest.mark.parametrize("name", ["mibi", "pixelwise", "deepcell", "watershed"])
def test_classes_become_labels(bench: Bench, name: str) -> None:
    """The outer class is what is left: of a uniform image, everything or nothing."""
    fields = {
        "model_name": "Classes",
        "model_version": "1",
        "preprocess_function": "none",
        "postprocess_function": name,
    }
    (labels,) = bench.results(bench.done(bench.push("image", bench.upload(discs(60, 60)[0]), **fields))).values()
    assert objects(labels) == 1


def test_steps_follow_one_another(bench: Bench) -> None:
    image, number = discs(120, 120)
    fields = {"preprocess_function": "normalize,histogram_normalization"}
    key = bench.push("image", bench.upload(image), postprocess_function="none, deep_watershed", **fields)
    (labels,) = bench.results(bench.done(key)).values()
    assert objects(labels) == number


def test_scale_and_label_may_be_what_models_see(bench: Bench) -> None:
    image, number = discs(200, 150)
    bench.worker(
        "detecting-1",
        QUEUE="detecting",
        CONSUMER_TYPE="image",
        SCALE_DETECT_ENABLED="true",
        SCALE_DETECT_MODEL="FindsScale:1",
        LABEL_DETECT_ENABLED="true",
        LABEL_DETECT_MODEL="FindsLabel:1",
        NUCLEAR_MODEL="NuclearSegmentation:7",  # sees nothing
        PHASE_MODEL="NuclearSegmentation:1",
    )
    key = bench.push("detecting", bench.upload(image))
    done = bench.done(key)
    assert (done["scale"], done["label"]) == ("0.5", "1")
    (labels,) = bench.results(done).values()
    assert labels.shape == image.shape
    assert objects(labels) == number
    said = bench.done(bench.push("detecting", bench.upload(image), scale="1", label="0"))
    (labels,) = bench.results(said).values()
    assert objects(labels) == 0
