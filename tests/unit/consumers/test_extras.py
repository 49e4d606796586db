"""What `EXTRA_OUTPUTS` leaves beside the zip, for consumers that know nothing of it."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import tifffile
import zarr
from tests.unit.consumers.lab import checkers

from redis_consumer.arrays import AnyArray, Image, Labels
from redis_consumer.consumers import ImageConsumer, Predict, SegmentationConsumer, Tools, consumer
from redis_consumer.errors import StorageUnavailable
from redis_consumer.job import Job, ModelId
from redis_consumer.results.extras import FILES
from redis_consumer.results.ngff import write_labels_zarr
from redis_consumer.settings import Settings
from redis_consumer.settings.schema import ExtraOutput
from redis_consumer.worker import work_off

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.unit.consumers.lab import Lab, Result

    from redis_consumer.storage.object_store import ObjectStorage

ALL = ",".join(get_args(ExtraOutput))
OF_LABELS = {kind for kind in FILES if not kind.startswith("tracks")}


@consumer("bright", model="Nuclei")
def bright(image: Image, job: Job, predict: Predict) -> Labels:  # noqa: ARG001 - the contract's parameters
    (head,) = predict(image)
    return Labels(np.greater(head, 100).astype(np.int32))


@consumer("maps")
def as_it_is(image: Image, job: Job, predict: Predict) -> AnyArray:  # noqa: ARG001 - the contract's parameters
    return image


@pytest.fixture
def lab(lab: Lab) -> Lab:
    lab.models.add("Nuclei:7", lambda image: image)
    lab.environ["EXTRA_OUTPUTS"] = ALL
    return lab


def extras_of(lab: Lab, result: Result) -> dict[str, Path]:
    keys: dict[str, str] = json.loads(result.fields["extra_outputs"])
    folder = result.fields["output_file_name"].removesuffix(".zip")
    assert keys == {kind: f"{folder}/{FILES[kind]}" for kind in get_args(ExtraOutput) if kind in keys}
    return {kind: lab.folder / "bucket" / key for kind, key in keys.items()}


def provenance(lab: Lab, result: Result) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(extras_of(lab, result)["provenance"].read_text("utf-8"))
    return told


def test_an_ome_zarr_image_is_no_file_and_has_a_result_all_the_same(lab: Lab) -> None:
    cells = checkers((20, 30)).astype(np.int64)
    write_labels_zarr(Labels(cells[np.newaxis, ..., np.newaxis]), lab.folder / "bucket/uploads/x.zarr")
    job = lab.claim(input_file_name="uploads/x.zarr/feature_0", original_name="x.zarr")
    work_off(lab.queue, lab.equipped(bright).handle, job)
    made = lab.broker.jobs[job.key]
    (labels,) = lab.files(made).values()
    np.testing.assert_array_equal(labels.squeeze().astype(bool), cells > 100)
    came = json.loads(Path(lab.folder, "bucket", json.loads(made["extra_outputs"])["provenance"]).read_text("utf-8"))[
        "input"
    ]
    assert (came["sha256"], came["bytes"], came["shape"], came["axes"]) == ("", 0, [20, 30], "YX")


def test_nothing_more_is_stored_unless_it_is_asked_for(lab: Lab) -> None:
    del lab.environ["EXTRA_OUTPUTS"]
    result = lab.run(bright, checkers((20, 30)))
    assert "extra_outputs" not in result.fields
    assert len(list((lab.folder / "bucket/output").rglob("*"))) == 1


def test_a_function_has_them_all_without_doing_anything(lab: Lab) -> None:
    image = checkers((20, 30))
    result = lab.run(bright, image)
    assert list(result.files) == ["cells_feature_0.tif"], "never in the zip"
    found = extras_of(lab, result)
    assert found.keys() == OF_LABELS
    read = zarr.open_array(found["labels-zarr"] / "feature_0/0", mode="r")
    np.testing.assert_array_equal(read[...], image > 100)
    (outline,) = json.loads(found["geojson"].read_text())["features"]
    assert outline["properties"]["name"] == "1"
    rows = found["table-csv"].read_text().splitlines()
    assert len(rows) == 2
    assert float(rows[1].split(",")[-1]) == image.max()
    assert found["table-parquet"].read_bytes().startswith(b"PAR1")


def test_only_those_asked_for_are_there(lab: Lab) -> None:
    lab.environ["EXTRA_OUTPUTS"] = "table-csv, GEOJSON"
    assert list(extras_of(lab, lab.run(bright, checkers((20, 30))))) == ["geojson", "table-csv"]


def test_an_array_that_is_no_label_image_has_its_provenance(lab: Lab) -> None:
    result = lab.run(as_it_is, checkers((20, 30)))
    assert list(extras_of(lab, result)) == ["provenance"]
    assert provenance(lab, result)["objects"] is None


def test_an_image_without_objects_has_them_all(lab: Lab) -> None:
    result = lab.run(bright, np.zeros((20, 30), np.float32))
    assert extras_of(lab, result).keys() == OF_LABELS
    assert provenance(lab, result)["objects"] == 0


def test_roles_and_batches_are_told_apart(lab: Lab) -> None:
    for model in ("Nuclei:7", "Cells:1"):
        lab.models.add(model, lambda image: {"distance": image, "foreground": image})
    lab.environ |= {"NUCLEAR_MODEL": "Nuclei:7", "CYTOPLASM_MODEL": "Cells:1", "EXTRA_OUTPUTS": ALL}
    file = io.BytesIO()
    rows, columns = np.mgrid[:60, :60] % 30 - 15
    domes = np.tile(np.sqrt(np.clip(1 - (rows**2 + columns**2) / 100, 0, 1)) * 1000, (2, 2, 1, 1)).astype(np.uint16)
    metadata = {"axes": "ZCYX", "PhysicalSizeX": 0.65, "PhysicalSizeY": 0.5}
    tifffile.imwrite(file, domes, ome=True, photometric="minisblack", metadata=metadata)
    result = lab.run(SegmentationConsumer, file.getvalue(), channels="1,0")
    assert len(result.files) == 4
    found = extras_of(lab, result)
    assert json.loads((found["labels-zarr"] / ".zattrs").read_text()) == {"labels": ["nuclei", "cytoplasm"]}
    (multiscale,) = json.loads((found["labels-zarr"] / "nuclei/.zattrs").read_text())["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["z", "y", "x"]
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [1.0, 0.5, 0.65]
    features = json.loads(found["geojson"].read_text())["features"]
    assert {feature["geometry"]["plane"]["z"] for feature in features} == {0, 1}
    told = provenance(lab, result)
    assert told["objects"] == len(features) == len(found["table-csv"].read_text().splitlines()) - 1 == 16
    assert told["parameters"] == {
        "channels": {"nuclei": 1, "cytoplasm": 0},
        "preprocess_function": "histogram_normalization",
        "postprocess_function": "deep_watershed",
        "scale": 1.0,
        "cuts": 0,
        "field_size": 61,
    }
    assert [model["name"] for model in told["models"]] == ["Nuclei", "Cells"]
    assert told["input"]["pixel_size_um"] == [0.5, 0.65]


def test_the_provenance_tells_what_came_and_what_was_done(lab: Lab) -> None:
    image = checkers((2, 20, 30)).astype(np.uint8)
    result = lab.run(bright, image, "my cells.npy", dimension_order="TYX", channels=" 0", label="")
    told = provenance(lab, result)
    file = (lab.folder / "bucket/uploads/my cells.npy").read_bytes()
    assert told["input"] == {
        "key": "uploads/my cells.npy",
        "name": "my cells.npy",
        "sha256": hashlib.sha256(file).hexdigest(),
        "bytes": len(file),
        "shape": [2, 20, 30],
        "dtype": "uint8",
        "axes": "TYX",
        "axes_from": "job",
        "pixel_size_um": None,
    }
    assert told["consumer"] == f"{__name__}.bright"
    assert told["parameters"] == {"channels": [0]}
    assert told["fields"]["dimension_order"] == "TYX"
    assert "label" not in told["fields"], "blank"
    assert told["settings"]["MAX_IMAGE_HEIGHT"] == "2048"
    assert not {name for name in told["settings"] if name.startswith(("REDIS", "AWS", "STORAGE", "TF_"))}
    assert told["software"].keys() >= {"python", "kiosk-redis-consumer", "numpy", "scikit-image", "tifffile"}
    assert told["seconds"].keys() == {"download", "preprocess", "prediction", "postprocess", "upload"}
    assert all(seconds >= 0 for seconds in told["seconds"].values())
    assert told["started_at"] < told["written_at"]


class Swapping:
    """A server that changes its latest version while it predicts."""

    def __init__(self, *versions: int | None) -> None:
        self.versions = iter(versions)

    def __call__(self, model: ModelId) -> int | None:
        assert model == ModelId("Nuclei")
        return next(self.versions)


@pytest.mark.parametrize(
    ("versions", "served"), [((7, 7), [7]), ((6, 7), [6, 7]), ((None, None), [])], ids=["one", "changed", "unknown"]
)
def test_the_latest_version_is_named(lab: Lab, versions: tuple[int | None, ...], served: list[int]) -> None:
    key = lab.put(checkers((20, 30)), "cells.tif")
    job = lab.claim(original_name="cells.tif", input_file_name=key)
    made = bright(None, lab.storage, "q", name="pod")  # type: ignore[arg-type] # Redis is never asked
    settings = Settings.from_environ(lab.environ)
    made.equip(Tools(lab.queue, lab.models.server(), settings, served_version=Swapping(*versions)))
    work_off(lab.queue, made.handle, job)
    folder = lab.broker.jobs[job.key]["output_file_name"].removesuffix(".zip")
    told = json.loads((lab.folder / "bucket" / folder / "provenance.json").read_text())
    assert told["models"] == [{"name": "Nuclei", "asked_version": None, "served_versions": served}]


def test_addresses_lose_their_secrets(lab: Lab) -> None:
    result = lab.run(bright, checkers((20, 30)), url="https://user:secret@host/a.tif?signature=secret")
    assert "secret" not in extras_of(lab, result)["provenance"].read_text()


class Broken:
    """A storage that takes everything but one file."""

    def __init__(self, storage: ObjectStorage, refused: str) -> None:
        self._storage, self._refused = storage, refused

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def upload(self, path: Path, subdir: str | None = None) -> object:
        if str(path).endswith(self._refused):
            raise StorageUnavailable("The storage does not answer")
        return self._storage.upload(path, subdir)


@pytest.mark.parametrize("refused", [*(FILES[kind] for kind in sorted(OF_LABELS - {"labels-zarr"})), "0/0/0"])
def test_a_file_that_is_not_stored_gives_the_job_back(lab: Lab, refused: str) -> None:
    lab.storage = Broken(lab.storage, refused)  # type: ignore[assignment] # all but one upload
    key = lab.put(checkers((20, 30)), "cells.tif")
    job = lab.claim(original_name="cells.tif", input_file_name=key)
    work_off(lab.queue, lab.equipped(bright).handle, job)
    fields: Mapping[str, str] = lab.broker.jobs[job.key]
    assert fields["status"] == "new"
    assert not {"extra_outputs", "output_url"} & fields.keys()


def test_an_analysis_may_tell_its_parameters(lab: Lab) -> None:
    class Telling(ImageConsumer):
        def analyze(self, image: Image, job: Job) -> Labels:
            self.work.parameters["threshold"] = float(job.get("threshold", "10"))
            return Labels((image > 10).astype(np.int32))

    assert provenance(lab, lab.run(Telling, checkers((20, 30))))["parameters"] == {"channels": [0], "threshold": 10.0}
