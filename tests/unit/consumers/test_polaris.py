"""An image of spots and cells becomes a job for each, and a table of which spot lies in which cell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from tests.unit.consumers.family import Family, image, npy, tiff

from redis_consumer.consumers import CONSUMERS, PolarisConsumer
from redis_consumer.images import read_image

if TYPE_CHECKING:
    from pathlib import Path

    from redis_consumer.arrays import AnyArray
    from redis_consumer.job import Job

SIZE = (20, 30)
STACK = np.arange(2 * 20 * 30 * 3, dtype=np.uint16).reshape(2, *SIZE, 3)
"""Two images of spots, nuclei and cytoplasm."""
NAME = "spot/mesmer, Größe 細胞.tif"
POINTS = np.array([[2.5, 3.25], [12.0, 21.0], [-1.5, 4.0], [19.9, 30.2]])
CULTURE, TISSUE = {"segmentation_type": "cell culture"}, {"segmentation_type": "tissue"}


@pytest.fixture
def family(tmp_path: Path) -> Family:
    return Family(tmp_path, PolarisConsumer)


def cells(value: int, frames: int = 2) -> AnyArray:
    """Return label images with a cell in the first quarter."""
    labels = np.zeros((frames, *SIZE), np.float32)
    labels[:, :10, :15] = value
    return labels


def stem_of(job: Job) -> str:
    return job.get("original_name").removesuffix(".tif")


def spots(job: Job, points: AnyArray = POINTS, images: int = 2) -> dict[str, bytes]:
    found = [(f"{stem_of(job)}_{i}", points[i:]) for i in range(images)]
    return {
        name: content
        for stem, array in found
        for name, content in ((f"{stem}.tif", tiff(np.zeros((9, 9, 3), np.uint8))), (f"{stem}.npy", npy(array)))
    }


def segmentation(job: Job, frames: int = 2) -> dict[str, bytes]:
    value = 5 if job.get("channels") == "0," else 7
    return {f"{stem_of(job)}_batch_{i}_feature_0.tif": tiff(cells(value)[i]) for i in range(frames)}


def mesmer(job: Job, frames: int = 2) -> dict[str, bytes]:
    return {f"{stem_of(job)}_feature_{c}.tif": tiff(cells(c + 1, frames)) for c in range(2)}


def text(content: bytes) -> list[str]:
    return content.decode().splitlines()


def run(family: Family, content: Any, name: str = NAME, **fields: str) -> str:
    """Run a job to its end, its children by stand-ins."""
    key = family.submit(content, name, dimension_order="BXYC", **fields)
    family.visit()
    frames = len(content) if isinstance(content, np.ndarray) else 1
    family.work("spot", lambda job: spots(job, images=frames))
    family.work("segmentation", lambda job: segmentation(job, frames))
    family.work("mesmer", lambda job: mesmer(job, frames))
    family.visit()
    return key


def test_it_is_found_by_its_name() -> None:
    assert CONSUMERS["polaris"] is PolarisConsumer


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"segmentation_type": "none"}, [("spot", "", "BXY", STACK[..., 0])]),
        (
            CULTURE,
            [
                ("spot", "", "BXY", STACK[..., 0]),
                ("segmentation", "0,", "BXY", STACK[..., 1]),
                ("segmentation", ",0", "BXY", STACK[..., 2]),
            ],
        ),
        (
            {**CULTURE, "channels": "2,0,"},
            [("spot", "", "BXY", STACK[..., 2]), ("segmentation", "0,", "BXY", STACK[..., 0])],
        ),
        (
            {**CULTURE, "channels": "0,,1"},
            [("spot", "", "BXY", STACK[..., 0]), ("segmentation", ",0", "BXY", STACK[..., 1])],
        ),
        ({**TISSUE, "channels": "0,1,2"}, [("spot", "", "BXY", STACK[..., 0]), ("mesmer", "", "BXYC", STACK[..., 1:])]),
    ],
    ids=["none", "cell culture", "nuclei alone", "cytoplasm alone", "tissue"],
)
def test_the_children_are_those_of_the_kiosk(family: Family, fields: dict[str, str], expected: list[Any]) -> None:
    key = family.submit(STACK, NAME, dimension_order="BXYC", **fields)
    family.visit()
    assert family.fields(key)["status"] == "predicting"
    inputs = []

    def seen(job: Job) -> dict[str, bytes]:
        inputs.append(family.input_of(job))
        return {}

    jobs = [job for queue in ("spot", "segmentation", "mesmer") for job in family.work(queue, seen)]
    assert len(jobs) == len(expected)
    for job, array, (queue, channels, order, content) in zip(jobs, inputs, expected, strict=True):
        assert array.dtype == np.uint16
        np.testing.assert_array_equal(array, content)
        assert job.queue == queue
        assert job.key.startswith(f"{queue}:")
        assert (job.get("channels"), job.get("dimension_order"), job.get("scale")) == (channels, order, "0.38")
        assert job.get("original_name").endswith(f"-mesmer, Größe 細胞.tif-{queue}-image.tif")
    assert len({job.get("original_name")[:10] for job in jobs}) == len(jobs)


def test_spots_lie_in_cells_of_both_kinds(family: Family) -> None:
    key = run(family, STACK, **CULTURE)
    stem = NAME.removesuffix(".tif")
    result = family.result(key)
    assert list(result) == [
        f"{stem}_batch_0_feature_0.tif",
        f"{stem}_batch_0_feature_1.tif",
        f"{stem}_0.csv",
        f"{stem}_batch_1_feature_0.tif",
        f"{stem}_batch_1_feature_1.tif",
        f"{stem}_1.csv",
    ]
    labels = image(result[f"{stem}_batch_0_feature_1.tif"])
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, cells(7)[0])
    assert text(result[f"{stem}_0.csv"]) == [
        "x,y,cellID0,cellID1",
        "3.25,2.5,5,7",
        "21.0,12.0,0,0",
        "4.0,-1.5,0,0",
        "30.2,19.9,0,0",
    ]
    assert len(text(result[f"{stem}_1.csv"])) == 4
    assert family.parents.words() == ["predicting", "saving-results", "done"]
    fields = family.fields(key)
    assert (fields["progress"], fields["total_jobs"]) == ("100", "1")
    assert family.objects() == {fields["input_file_name"], fields["output_file_name"]}
    assert set(family.redis.seconds) == set(fields["children"].split(","))


def test_spots_lie_in_the_compartments_of_tissue(family: Family) -> None:
    result = family.result(run(family, STACK, **TISSUE))
    tables = [text(content) for name, content in result.items() if name.endswith(".csv")]
    assert [table[0] for table in tables] == ["x,y,cellID0,cellID1"] * 2
    assert tables[0][1] == "3.25,2.5,1,2"


@pytest.mark.parametrize("kind", ["none", "", "NONE"])
def test_without_cells_there_are_tables_alone(family: Family, kind: str) -> None:
    key = run(family, STACK, segmentation_type=kind)
    stem = NAME.removesuffix(".tif")
    result = family.result(key)
    assert list(result) == [f"{stem}_0.csv", f"{stem}_1.csv"]
    assert text(result[f"{stem}_0.csv"])[:2] == ["x,y", "3.25,2.5"]
    assert family.fields(key)["segmentation_type"] == "none"


def test_a_plain_image_with_every_field_blank(family: Family) -> None:
    key = family.submit(STACK[0, ..., 0], "a.tif", **dict.fromkeys(("channels", "scale", "dimension_order"), ""))
    family.visit()
    inputs = []

    def seen(job: Job) -> dict[str, bytes]:
        inputs.append(family.input_of(job))
        return spots(job, images=1)

    family.work("spot", seen)
    np.testing.assert_array_equal(inputs, [STACK[:1, ..., 0]])
    family.visit()
    assert list(family.result(key)) == ["a_0.csv"]


@pytest.mark.parametrize("empty", [np.empty((0, 2)), np.empty(0)], ids=["(0, 2)", "(0,)"])
def test_images_without_spots_or_cells_are_no_failure(family: Family, empty: AnyArray) -> None:
    key = family.submit(STACK, NAME, dimension_order="BXYC", **CULTURE)
    family.visit()
    family.work("spot", lambda job: spots(job, empty))
    nothing = tiff(np.zeros(SIZE, np.float32))
    family.work("segmentation", lambda job: {f"{stem_of(job)}_batch_{i}_feature_0.tif": nothing for i in range(2)})
    family.visit()
    tables = [content for name, content in family.result(key).items() if name.endswith(".csv")]
    assert tables == [b"x,y,cellID0,cellID1\n"] * 2


def test_the_scale_of_the_job_wins(family: Family) -> None:
    family.environ["POLARIS_SCALE"] = "0.5"
    family.submit(STACK, scale="2")
    family.submit(STACK)
    family.visit()
    family.visit()
    assert [job.get("scale") for job in family.work("spot", spots)] == ["2", "0.5"]


@pytest.mark.parametrize("queue", ["spot", "segmentation"])
def test_a_failed_child_fails_the_job_with_its_reason(family: Family, queue: str) -> None:
    key = family.submit(STACK, NAME, dimension_order="BXYC", **CULTURE)
    family.visit()

    def broken(job: Job) -> dict[str, bytes]:
        raise RuntimeError(f"no light for {job.queue}")

    for name, analyze in (("spot", spots), ("segmentation", segmentation)):
        family.work(name, broken if name == queue else analyze)
    family.visit()
    assert f"The job on the queue {queue!r}" in family.failed(key)
    assert family.failed(key).endswith(f"RuntimeError: no light for {queue}")


def test_a_vanished_child_is_named(family: Family) -> None:
    key = family.submit(STACK, NAME, dimension_order="BXYC", **CULTURE)
    family.visit()
    family.work("spot", spots)
    *_, last = family.work("segmentation", segmentation)
    del family.broker.jobs[last.key]
    family.visit()
    assert family.failed(key) == f"The job on the queue 'segmentation' ({last.key!r}): The job is gone from Redis"


@pytest.mark.parametrize(
    ("queue", "files", "reason"),
    [
        ("spot", {"a.tif": b""}, "left no points"),
        ("spot", {"a.npy": b"no array"}, "'a.npy' that the job left cannot be read"),
        ("spot", {"a.npy": npy(np.zeros((3, 3)))}, "has no points: float64 of shape (3, 3)"),
        ("segmentation", {"a.tif": tiff(cells(1)[0])}, "left 1 label images: expected are 2"),
        ("segmentation", {}, "left no label images"),
        ("segmentation", {"a.tif": tiff(cells(1)[0]), "b.tif": tiff(cells(1)[0, 1:])}, "label images of sizes"),
        ("mesmer", {"a.tif": tiff(cells(1)), "b.tif": tiff(cells(1)[:, 1:])}, "label images of sizes"),
    ],
)
def test_what_a_child_leaves_and_cannot_be_used_fails_the_job(
    family: Family, queue: str, files: dict[str, bytes], reason: str
) -> None:
    key = family.submit(STACK, NAME, dimension_order="BXYC", **(TISSUE if queue == "mesmer" else CULTURE))
    family.visit()
    for name, analyze in (("spot", spots), ("segmentation", segmentation), ("mesmer", mesmer)):
        family.work(name, (lambda _: files) if name == queue else analyze)
    family.visit()
    assert reason in family.failed(key)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"segmentation_type": "tissues"}, "'segmentation_type' is 'tissues': allowed are none, cell culture, tissue"),
        ({**CULTURE, "channels": "0,,"}, "names no channel for the cells: 'cell culture' takes nuclei, cytoplasm or"),
        ({**TISSUE, "channels": "0,1,"}, "names no two channels for the cells: 'tissue' takes nuclei and cytoplasm"),
        ({**TISSUE, "channels": ",1,2"}, "names no channel for the spots"),
        ({"channels": "3"}, "The field 'channels' names '3': allowed are 0 to 2"),
        ({"channels": "0,1,2,0"}, "names 4 roles: allowed are 3 (spots, nuclei, cytoplasm)"),
    ],
)
def test_a_job_that_cannot_be_done_fails_in_one_line(family: Family, fields: dict[str, str], reason: str) -> None:
    key = family.submit(STACK, dimension_order="BXYC", **fields)
    family.visit()
    assert reason in family.failed(key)
    assert len(family.broker.jobs) == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 2), (2, 4)], ids=str)
@pytest.mark.parametrize("frames", [1, 3])
def test_no_size_is_taken_for_other_axes_by_the_children(family: Family, shape: tuple[int, int], frames: int) -> None:
    stack = np.arange(frames * shape[0] * shape[1] * 3, dtype=np.uint16).reshape(frames, *shape, 3)
    content = tiff(stack.transpose(0, 3, 1, 2), metadata={"axes": "TCYX"})
    family.submit(content, dimension_order="BCXY", **TISSUE)
    family.visit()
    seen = []

    def read(job: Job) -> dict[str, bytes]:
        path = family.bucket / job.get("input_file_name")
        seen.append(read_image(path, axes=job.get("dimension_order")))
        with tifffile.TiffFile(path) as file:
            assert len(file.pages) == frames
        return {}

    family.work("spot", read)
    family.work("mesmer", read)
    assert {picture.axes_from for picture in seen} == {"metadata"}
    np.testing.assert_array_equal(seen[0].stored, stack[..., :1])
    np.testing.assert_array_equal(seen[1].stored, stack[..., 1:])


def test_the_children_are_not_all_of_the_progress(family: Family) -> None:
    key = family.submit(STACK, NAME, dimension_order="BXYC")
    family.visit()
    family.work("spot", spots)
    fields = family.fields(key)
    assert (fields["status"], fields["progress"]) == ("predicting", "80")
    family.visit()
    assert family.fields(key)["progress"] == "100"


def test_one_channel_has_no_cells(family: Family) -> None:
    key = family.submit(STACK[..., 0], **CULTURE)
    family.visit()
    assert "names no channel for the cells" in family.failed(key)


def test_cells_have_extras_beside_the_zip(family: Family) -> None:
    family.environ["EXTRA_OUTPUTS"] = "table-csv,provenance,tracks-ctc"
    key = run(family, STACK, **CULTURE)
    extras = json.loads(family.fields(key)["extra_outputs"])
    assert list(extras) == ["table-csv", "provenance"]
    assert len((family.bucket / extras["table-csv"]).read_text().splitlines()) == 5
