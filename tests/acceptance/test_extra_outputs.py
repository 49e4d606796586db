"""Jobs whose results are more than a zip: the files beside it, fetched from the bucket and opened by their readers."""

from __future__ import annotations

import hashlib
import io
import json
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import shapely
import zarr
from arro3.io import read_parquet
from tests.acceptance.bench import discs, objects, tiff

from redis_consumer.settings.schema import ExtraOutput

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.bench import Bench

    from redis_consumer.demo.stack import Child

pytestmark = pytest.mark.slow

KINDS = tuple(kind for kind in get_args(ExtraOutput) if not kind.startswith("tracks"))
"""Those of label images; all are asked for."""
IMAGE, DISCS = discs(220, 200)


@pytest.fixture(scope="module", params=["image", "segmentation"])
def queue(bench: Bench, request: pytest.FixtureRequest) -> str:
    """A queue whose worker leaves everything there is."""
    name = f"{request.param}-extras"
    bench.worker(name, QUEUE=name, CONSUMER_TYPE=request.param, EXTRA_OUTPUTS=",".join(get_args(ExtraOutput)))
    return name


def fetched(bench: Bench, prefix: str, folder: Path) -> dict[str, Path]:
    """Download what the bucket has below a key; return the files by the rest of their keys."""
    files = {}
    for item in bench.s3.list(prefix).collect():
        path = folder / item["path"].removeprefix(prefix).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(bench.s3.get(item["path"]).bytes()))
        files[path.relative_to(folder).as_posix()] = path
    return files


def test_everything_stands_beside_the_zip_and_says_the_same(bench: Bench, queue: str, tmp_path: Path) -> None:
    upload = bench.upload(tiff(IMAGE, ome=True, metadata={"axes": "YX", "PhysicalSizeX": 0.65, "PhysicalSizeY": 0.65}))
    key = bench.push(queue, upload, original_name="my cells.tif", model_name="NuclearSegmentation")
    by_latest = bench.done(key)
    assert by_latest["updated_by"] == queue
    key = bench.push(queue, upload, original_name="my cells.tif", model_name="NuclearSegmentation", model_version="6")
    fields = bench.done(key)
    ((name, labels),) = bench.results(fields).items()
    assert name.endswith("_feature_0.tif"), "nothing more is in the zip"
    assert objects(labels) == DISCS

    keys: dict[str, str] = json.loads(fields["extra_outputs"])
    prefix = fields["output_file_name"].removesuffix(".zip")
    assert tuple(keys) == KINDS
    assert all(value.startswith(f"{prefix}/") for value in keys.values())
    names = {kind: value.removeprefix(f"{prefix}/") for kind, value in keys.items()}
    files = fetched(bench, prefix + "/", tmp_path)
    assert {name for name in files if not name.startswith("labels.zarr/")} == set(names.values()) - {"labels.zarr"}

    read = zarr.open_array(tmp_path / names["labels-zarr"] / "feature_0/0", mode="r")
    np.testing.assert_array_equal(read[...], labels)

    features = json.loads(files[names["geojson"]].read_text("utf-8"))["features"]
    y, x = np.indices(labels.shape) + 0.5
    painted = np.zeros_like(labels)
    for feature in features:
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert shape.is_valid
        painted[shapely.contains_xy(shape, x, y)] = int(feature["properties"]["name"])
    np.testing.assert_array_equal(painted, labels)

    table = read_parquet(io.BytesIO(files[names["table-parquet"]].read_bytes())).read_all()
    assert table.num_rows == DISCS
    assert sum(table["area_px"].to_pylist()) == np.count_nonzero(labels)
    total = sum(m * a for m, a in zip(table["mean_intensity_0"].to_pylist(), table["area_px"].to_pylist(), strict=True))
    assert total == pytest.approx(IMAGE[np.greater(labels, 0)].astype(np.int64).sum())
    assert len(files[names["table-csv"]].read_text("utf-8").splitlines()) == DISCS + 1

    told = provenance(bench, fields)
    content = bytes(bench.s3.get(upload).bytes())
    assert (told["input"]["sha256"], told["input"]["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    assert told["input"]["pixel_size_um"] == [0.65, 0.65]
    assert told["models"] == [{"name": "NuclearSegmentation", "asked_version": 6, "served_versions": [6]}]
    assert told["objects"] == DISCS
    latest = [{"name": "NuclearSegmentation", "asked_version": None, "served_versions": [7]}]
    assert provenance(bench, by_latest)["models"] == latest


def provenance(bench: Bench, fields: dict[str, str]) -> dict[str, Any]:
    key = json.loads(fields["extra_outputs"])["provenance"]
    told: dict[str, Any] = json.loads(bytes(bench.s3.get(key).bytes()))
    return told


def test_the_list_is_written_with_the_word_done(bench: Bench, queue: str) -> None:
    key = bench.push(queue, bench.upload(IMAGE))
    bench.done(key)
    (written,) = [fields for fields in bench.writes(key) if "extra_outputs" in fields]
    assert written["status"] == "done"


def test_a_drop_in_leaves_the_zip_alone(bench: Bench, image_worker: Child) -> None:
    assert image_worker.process.poll() is None
    fields = bench.done(bench.push("image", bench.upload(IMAGE)))
    assert "extra_outputs" not in fields
    assert not bench.s3.list(fields["output_file_name"].removesuffix(".zip") + "/").collect()


def test_a_word_that_is_unknown_stops_the_start(bench: Bench) -> None:
    ended = bench.command("run", EXTRA_OUTPUTS="geojson,csv")
    assert ended.returncode
    assert "EXTRA_OUTPUTS is 'geojson,csv'; allowed is any of labels-zarr, geojson," in ended.stderr
