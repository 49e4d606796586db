"""What `EXTRA_OUTPUTS` leaves beside the zip of an image that is larger than one piece."""

from __future__ import annotations

import csv
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr
from tests.unit.consumers.blockwise import PIECE, SHAPE, field, with_small_blocks
from tests.unit.consumers.lab import Result

from redis_consumer.arrays import AnyArray, Labels
from redis_consumer.consumers import ImageFileConsumer, MesmerConsumer, SegmentationConsumer
from redis_consumer.images import OpenImage
from redis_consumer.processing import planes
from redis_consumer.results import label_images, ngff, outlines
from redis_consumer.results.extras import FILES, WRITERS, Seen, write_extras
from redis_consumer.testing.labels import differing_objects
from redis_consumer.worker import work_off

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from tests.unit.consumers.lab import Lab

    from redis_consumer.consumers import Consumer
    from redis_consumer.settings.schema import ExtraOutput

KINDS: tuple[ExtraOutput, ...] = (*WRITERS[Labels], "provenance")
ZARR, OUTLINES, TABLE, PROVENANCE = (FILES[kind] for kind in ("labels-zarr", "geojson", "table-csv", "provenance"))


@pytest.fixture
def lab(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Return a lab in which blocks are small, with all files beside the zip."""
    lab.environ["EXTRA_OUTPUTS"] = ",".join(KINDS)
    return with_small_blocks(lab, monkeypatch)


def by_blocks(lab: Lab, consumer_type: type[Consumer], image: AnyArray, **fields: Any) -> Result:
    """Do a job by blocks."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (label_images, outlines):
            patch.setattr(module, "blocks", lambda shape: planes.blocks(shape, 50))
        patch.setattr(ngff, "SIDE", 50)
        patch.setattr(OpenImage, "read", None)  # as a whole it is never read
        patch.setitem(lab.environ, "MAX_IMAGE_HEIGHT", PIECE["MAX_IMAGE_HEIGHT"])
        patch.setitem(lab.environ, "MAX_IMAGE_WIDTH", PIECE["MAX_IMAGE_WIDTH"])
        result = lab.run(consumer_type, image, name="cells.npy", **fields)
    assert result.fields["status"] == "done", result.fields
    return result


def in_one_piece(lab: Lab, consumer_type: type[Consumer], image: AnyArray, **fields: Any) -> Result:
    result = lab.run(consumer_type, image, name="cells.npy", **fields)
    assert result.fields["status"] == "done", result.fields
    return result


def folder_of(lab: Lab, result: Result) -> Path:
    """Return where the files lie; all of them are there."""
    keys: dict[str, str] = json.loads(result.fields["extra_outputs"])
    folder = result.fields["output_file_name"].removesuffix(".zip")
    assert keys == {kind: f"{folder}/{FILES[kind]}" for kind in KINDS}
    return lab.folder / "bucket" / folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


STACK = np.stack([[field(31), field(32), field(33)], [field(34), field(35), field(36)]])
JOBS: list[tuple[type[Consumer], dict[str, str], tuple[str, ...]]] = [
    (ImageFileConsumer, {"channels": "1", "dimension_order": "ZCYX"}, ()),
    (SegmentationConsumer, {"channels": "2,0", "dimension_order": "BCYX"}, ("nuclei", "cytoplasm")),
    (SegmentationConsumer, {"channels": "1", "dimension_order": "BCYX", "scale": "0.6"}, ("nuclei",)),
    (MesmerConsumer, {"dimension_order": "TCYX", "compartment": "both"}, ("whole-cell", "nuclear")),
    (MesmerConsumer, {"dimension_order": "TCYX", "compartment": "both", "scale": "1.5"}, ("whole-cell", "nuclear")),
    (MesmerConsumer, {"channels": "2,1", "dimension_order": "TCYX", "compartment": "nuclear"}, ("nuclear",)),
]


@pytest.mark.parametrize(("consumer_type", "fields", "names"), JOBS)
def test_files_are_those_of_the_same_labels_in_memory(
    lab: Lab, tmp_path: Path, consumer_type: type[Consumer], fields: dict[str, str], names: tuple[str, ...]
) -> None:
    result = by_blocks(lab, consumer_type, STACK, **fields)
    labels = Labels(labels_of(result, len(names) or 1), names)
    seen = Seen(np.moveaxis(STACK, 1, -1).astype(np.float32), "z" if "Z" in fields["dimension_order"] else "t")
    write_extras(labels, seen, WRITERS[Labels], tmp_path / "memory")
    expected, found = contents(tmp_path / "memory"), contents(folder_of(lab, result))
    told = json.loads(found.pop(PROVENANCE))
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []
    assert told["objects"] == labels.count() > 100


def labels_of(result: Result, features: int) -> npt.NDArray[np.int32]:
    """Return the labels (T, Y, X, C) in the zip."""
    files = np.stack(list(result.files.values())).astype(np.int32)
    if files.ndim == 4:
        return np.moveaxis(files, 0, -1)
    return np.moveaxis(files.reshape(-1, features, *files.shape[1:]), 1, -1)


@pytest.mark.parametrize(("consumer_type", "fields", "names"), JOBS)
def test_they_tell_of_the_objects_that_one_piece_has(
    lab: Lab, consumer_type: type[Consumer], fields: dict[str, str], names: tuple[str, ...]
) -> None:
    whole, large = (folder_of(lab, made(lab, consumer_type, STACK, **fields)) for made in (in_one_piece, by_blocks))
    assert rows_of(whole) == rows_of(large)
    assert outlines_of(whole) == outlines_of(large)
    for name in names or ("feature_0",):
        assert_alike(whole / ZARR / name, large / ZARR / name)
    assert told_of(whole) == told_of(large)


def rows_of(folder: Path) -> Counter[tuple[str, ...]]:
    """Return the rows of the table, without the labels."""
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        rows = [{**row, "label": ""} for row in csv.DictReader(file)]
    assert "max_intensity_2" in rows[0], "every channel of the file"
    return Counter(tuple(row.values()) for row in rows)


def outlines_of(folder: Path) -> Counter[str]:
    """Return the outlines, without the labels."""
    found = json.loads((folder / OUTLINES).read_text("utf-8"))["features"]
    for one in found:
        assert one["properties"].pop("name") == str(one["properties"]["measurements"].pop("label"))
    return Counter(map(json.dumps, found))


def assert_alike(whole: Path, large: Path) -> None:
    assert (whole / ".zattrs").read_text() == (large / ".zattrs").read_text()
    for level in ("0", "1"):
        one, other = (zarr.open_array(path / level, mode="r") for path in (whole, large))
        assert (one.shape, one.dtype, one.chunks) == (other.shape, other.dtype, other.chunks)
        for first, second in zip(np.asarray(one[...]), np.asarray(other[...]), strict=True):
            assert differing_objects(first, second) == (0, 0)


def told_of(folder: Path, *, sha256: bool = True) -> dict[str, Any]:
    """Return the provenance, without what differs from job to job."""
    told: dict[str, Any] = json.loads((folder / PROVENANCE).read_text("utf-8"))
    for name in ("job", "seconds", "started_at", "written_at"):
        del told[name]
    for name in ("created_at", "updated_at"):
        del told["fields"][name]
    assert bool(told["input"]["sha256"]) == sha256
    for name in PIECE:
        del told["settings"][name]
    return told


def test_an_image_without_cells_has_them_all(lab: Lab) -> None:
    folder = folder_of(lab, by_blocks(lab, SegmentationConsumer, np.full(SHAPE, 7, np.uint16)))
    assert json.loads((folder / OUTLINES).read_text("utf-8"))["features"] == []
    assert len((folder / TABLE).read_text("utf-8").splitlines()) == 1
    array = zarr.open_array(folder / ZARR / "feature_0/0", mode="r")
    assert (array.shape, str(array.dtype)) == (SHAPE, "uint8")
    assert told_of(folder)["objects"] == 0


def test_only_those_asked_for_are_there(lab: Lab) -> None:
    lab.environ["EXTRA_OUTPUTS"] = "geojson"
    result = by_blocks(lab, SegmentationConsumer, field(1))
    assert json.loads(result.fields["extra_outputs"]).keys() == {"geojson"}
    lab.environ["EXTRA_OUTPUTS"] = ""
    assert "extra_outputs" not in by_blocks(lab, SegmentationConsumer, field(1)).fields


def test_the_size_of_a_pixel_is_told(lab: Lab, tmp_path: Path) -> None:
    metadata = {"axes": "YX", "PhysicalSizeX": 0.65, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "a.tif", field(1), ome=True, photometric="minisblack", metadata=metadata)
    lab.environ.update(PIECE)
    folder = folder_of(lab, lab.run(SegmentationConsumer, (tmp_path / "a.tif").read_bytes()))
    assert told_of(folder)["input"]["pixel_size_um"] == [0.5, 0.65]
    (multiscale,) = json.loads((folder / ZARR / "feature_0/.zattrs").read_text())["multiscales"]
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [0.5, 0.65]


def test_an_image_of_chunks_has_them_all(lab: Lab) -> None:
    """It is no file, and is read out of the bucket once more for its intensities."""
    image = np.asarray(field(1), np.uint16)
    ngff.write_labels_zarr(Labels(image[np.newaxis, ..., np.newaxis]), lab.folder / "bucket/uploads/x.zarr")
    job = lab.claim(input_file_name="uploads/x.zarr/feature_0", original_name="x.zarr")
    lab.environ.update(PIECE)
    work_off(lab.queue, lab.equipped(SegmentationConsumer).handle, job)
    made = lab.broker.jobs[job.key]
    result = Result(made, lab.files(made))
    folder = folder_of(lab, result)
    (labels,) = result.files.values()
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert float(row["max_intensity_0"]) == image[labels == int(row["label"])].max()
    assert told_of(folder, sha256=False)["input"]["bytes"] == 0
