"""Every kind of demonstration: from samples, and results as the consumers deliver them, to a picture and a score."""

from __future__ import annotations

import csv
import json
import zipfile
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from redis_consumer.consumers import CONSUMERS
from redis_consumer.demo.kinds import KINDS, batch, find_kind, polaris, segmentation, spot, tissue, tracking
from redis_consumer.demo.kinds.base import Outputs, Sample
from redis_consumer.demo.simulation.microscope import Microscope
from redis_consumer.demo.simulation.movie import Population, simulate_movie
from redis_consumer.demo.simulation.nuclei import Cells, simulate
from redis_consumer.demo.simulation.spots import Spots, simulate_spots
from redis_consumer.demo.simulation.tissue import Tissue, simulate_tissue
from redis_consumer.demo.stack import MODELS
from redis_consumer.job import ModelId
from redis_consumer.settings import Settings
from redis_consumer.spots import cell_of_spots

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from redis_consumer.demo.kinds.base import Found, Kind

EVERY = {
    "segmentation": segmentation.KIND,
    "zip": batch.KIND,
    "tissue": tissue.KIND,
    "spot": spot.KIND,
    "polaris": polaris.KIND,
    "tracking": tracking.KIND,
}
CELLS = Cells(count=12, diameter=18, defocused=0, debris=0)
FEW = Cells(count=5, diameter=26, clustering=0, defocused=0, debris=0)


def tif(array: npt.NDArray[np.generic]) -> bytes:
    """Return a label image as consumers write it."""
    file = BytesIO()
    tifffile.imwrite(file, array.astype(np.float32))
    return file.getvalue()


def shown(
    kind: Kind[Any],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    builtin: str,
    truth: object,
    entries: Mapping[str, bytes],
) -> tuple[Found, Outputs]:
    """Draw `truth` in the place of what is built in, and show a result with these entries."""
    monkeypatch.setattr(f"{kind.draw.__module__}.{builtin}", lambda: truth)
    [sample] = kind.draw(folder / "input")
    outputs = Outputs.of(folder, sample.name)
    with zipfile.ZipFile(outputs.zip, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    found = kind.show(outputs, sample)
    unknown = kind.show(outputs, Sample(sample.path, sample.name))
    assert unknown.score is None
    assert unknown.count == found.count
    with Image.open(outputs.picture) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[2:] == (3,)
    assert (pixels != pixels[..., :1]).any(), "no colour in the picture"
    return found, outputs


def f1(found: Found) -> float:
    assert found.score
    return found.score.f1


def test_registered_kinds_run_on_consumers_that_exist() -> None:
    for name in KINDS:
        assert {worker.consumer_type for worker in find_kind(name).workers} <= set(CONSUMERS)


@pytest.mark.parametrize("kind", EVERY.values(), ids=EVERY)
def test_the_settings_of_a_kind_are_real_and_its_models_shipped(kind: Kind[Any]) -> None:
    settings = Settings.from_environ({}, overrides=kind.settings)
    assert set(settings.origins) == {name.lower() for name in kind.settings}
    for name in kind.settings:
        model = getattr(settings, name.lower())
        if isinstance(model, ModelId):
            assert (MODELS / model.name / str(model.version) / "model.onnx").exists()


def test_nuclei(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    field = simulate((80, 96), cells=CELLS, seed=1, name="field")
    entries = {"field_batch_0_feature_0.tif": tif(field.labels)}
    found, outputs = shown(segmentation.KIND, tmp_path, monkeypatch, "builtin_fields", [field], entries)
    assert (found.size, found.count, f1(found)) == ("80 x 96", field.labels.max(), 1)
    np.testing.assert_array_equal(tifffile.imread(outputs.labels), field.labels)


def test_planes_of_nuclei_are_pages_of_one_file(tmp_path: Path) -> None:
    stack = np.zeros((3, 30, 40), np.uint16)
    stack[:, 5:9, 5:9] = 1
    tifffile.imwrite(tmp_path / "cells.tif", stack, photometric="minisblack")
    outputs = Outputs.of(tmp_path, "cells")
    with zipfile.ZipFile(outputs.zip, "w") as archive:
        for number, plane in enumerate(stack):
            archive.writestr(f"cells_batch_{number}_feature_0.tif", tif(plane))
    found = segmentation.show(outputs, Sample(tmp_path / "cells.tif", "cells"))
    assert (found.size, found.count) == ("3 x 30 x 40", 3)
    assert tifffile.imread(outputs.labels).shape == stack.shape


def test_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("a/x.tif", "b/x.tif", "c, d.png", "failed.tif")
    fields = {name: simulate((64, 64), cells=CELLS, seed=k, name=name) for k, name in enumerate(names)}
    entries = {batch.entry_of(name): tif(fields[name].labels) for name in names[:3]}
    found, _ = shown(batch.KIND, tmp_path, monkeypatch, "builtin_batch", fields, entries)
    done, failed = (sum(int(fields[name].labels.max()) for name in part) for part in (names[:3], names[3:]))
    assert (found.size, found.count) == ("3 images", done)
    assert f1(found) == pytest.approx(2 * done / (2 * done + failed))


def test_tissue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    field = simulate_tissue((80, 96), nuclei=CELLS, tissue=Tissue(reach=5), microscope=Microscope(), seed=1)
    entries = {"tissue_feature_0.tif": tif(field.cells[None]), "tissue_feature_1.tif": tif(field.nuclei[None])}
    found, outputs = shown(tissue.KIND, tmp_path, monkeypatch, "builtin_tissues", [field], entries)
    assert (found.size, found.count, f1(found)) == ("80 x 96", field.cells.max(), 1)
    np.testing.assert_array_equal(tifffile.imread(outputs.labels), [field.cells, field.nuclei])


def npy(array: npt.NDArray[np.float64]) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_spots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    field = simulate_spots((80, 96), nuclei=FEW, tissue=Tissue(), spots=Spots(), microscope=Microscope(), seed=1)
    entries = {"spots_0.tif": b"a picture", "spots_0.npy": npy(field.points[::2])}
    found, _ = shown(spot.KIND, tmp_path, monkeypatch, "builtin_spots", [field], entries)
    half = len(field.points[::2])
    assert (found.size, found.count) == ("80 x 96", half)
    assert f1(found) == pytest.approx(2 * half / (half + len(field.points)))


def test_spots_of_several_images(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "few.tif", np.zeros((2, 30, 40), np.uint16), photometric="minisblack")
    outputs = Outputs.of(tmp_path, "few")
    with zipfile.ZipFile(outputs.zip, "w") as archive:
        for number, count in enumerate((3, 0)):
            archive.writestr(f"few_{number}.npy", npy(np.full((count, 2), 9.0)))
    found = spot.show(outputs, Sample(tmp_path / "few.tif", "few"))
    assert (found.size, found.count) == ("2 x 30 x 40", 3)


def table(points: npt.NDArray[np.float64], cells: npt.NDArray[np.integer]) -> bytes:
    text = StringIO()
    rows = csv.writer(text)
    rows.writerow(("x", "y", "cellID0"))
    rows.writerows((x, y, cell) for (y, x), cell in zip(points.tolist(), cells.tolist(), strict=True))
    return text.getvalue().encode()


def test_spots_in_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    field = simulate_spots((80, 96), nuclei=FEW, tissue=Tissue(), spots=Spots(), microscope=Microscope(), seed=1)
    other = np.where(field.cells, 1 + field.cells.max() - field.cells, 0)  # the same cells, other ids
    cells = cell_of_spots(other, field.points)
    entries = {"spots_batch_0_feature_0.tif": tif(other), "spots_0.csv": table(field.points, cells)}
    found, outputs = shown(polaris.KIND, tmp_path, monkeypatch, "builtin_spots", [field], entries)
    assert (found.count, f1(found)) == (len(field.points), 1)
    np.testing.assert_array_equal(tifffile.imread(outputs.labels), other)


def test_a_movie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    movie = simulate_movie(
        (96, 96), 8, nuclei=FEW, population=Population(division=0.3), microscope=Microscope(), seed=2
    )
    assert movie.parents
    lineage = {str(label): {"parent": movie.parents.get(label)} for label in range(1, movie.labels.max() + 1)}
    entries = {"movie_feature_0.tif": tif(movie.labels), "lineage.json": json.dumps(lineage).encode()}
    found, outputs = shown(tracking.KIND, tmp_path, monkeypatch, "builtin_movies", [movie], entries)
    assert (found.size, found.count, f1(found)) == ("8 x 96 x 96", movie.labels.max(), 1)
    np.testing.assert_array_equal(tifffile.imread(outputs.labels), movie.labels)
