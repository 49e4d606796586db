"""The models that the demonstration ships: through onnxruntime and the product's own steps, on small fields."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from redis_consumer import processing
from redis_consumer.demo.score import score
from redis_consumer.demo.score_points import score_points
from redis_consumer.demo.simulation.microscope import Microscope
from redis_consumer.demo.simulation.nuclei import Cells
from redis_consumer.demo.simulation.spots import Spots, simulate_spots
from redis_consumer.demo.simulation.tissue import Tissue, simulate_tissue
from redis_consumer.demo.stack import MODELS
from redis_consumer.spots import Points, detect_spots

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

onnxruntime = pytest.importorskip("onnxruntime")

LARGEST = 6e6
TISSUE = "MultiplexSegmentation"


@cache
def session(name: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = MODELS / name / "1/model.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def heads(name: str, image: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
    model = session(name)
    names = [output.name for output in model.get_outputs()]
    return dict(zip(names, model.run(names, {"input_1": image}), strict=True))


def spots_of(image: npt.NDArray[np.generic]) -> Points:
    scaled = processing.min_max_normalize(image[None, :, :, None].astype(np.float32))
    found = heads("SpotDetection", scaled)
    return detect_spots(found["classification"], found["offset_regression"])[0]


def labels_of(image: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    prepared = processing.multiplex_preprocess(np.moveaxis(image, 0, -1)[None].astype(np.float32))
    found = heads(TISSUE, prepared)
    labels = processing.mesmer_postprocess([found[name] for name in sorted(found)], "both")[0]
    return labels[..., 0], labels[..., 1]


def test_together_they_are_small() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*.onnx")) < LARGEST


@pytest.mark.parametrize(
    ("name", "channels", "outputs"),
    [
        ("SpotDetection", 1, {"classification": 2, "offset_regression": 2}),
        (TISSUE, 2, {"semantic_0": 1, "semantic_1": 3, "semantic_2": 1, "semantic_3": 3}),
    ],
)
@pytest.mark.parametrize("shape", [(1, 33, 50), (2, 64, 40)])
def test_heads_have_the_size_of_the_image(
    name: str, channels: int, outputs: dict[str, int], shape: tuple[int, int, int]
) -> None:
    found = heads(name, np.random.default_rng(1).random((*shape, channels), dtype=np.float32))
    assert {head: array.shape for head, array in found.items()} == {
        head: (*shape, count) for head, count in outputs.items()
    }
    assert all(np.isfinite(array).all() for array in found.values())


def test_classes_are_probabilities() -> None:
    image = np.random.default_rng(2).random((1, 48, 48, 2), dtype=np.float32)
    tissue = heads(TISSUE, image)
    for classes in (
        tissue["semantic_1"],
        tissue["semantic_3"],
        heads("SpotDetection", image[..., :1])["classification"],
    ):
        assert classes.min() >= -1e-6
        np.testing.assert_allclose(classes.sum(axis=-1), 1, atol=1e-5)


def test_spots_are_found_to_a_part_of_a_pixel() -> None:
    nuclei = Cells(count=8, diameter=30, clustering=0, defocused=0, debris=0)
    field = simulate_spots((192, 192), nuclei=nuclei, tissue=Tissue(), spots=Spots(), microscope=Microscope(), seed=7)
    result = score_points(spots_of(field.image[0]), field.points)
    assert result.precision > 0.95
    assert result.recall > 0.9
    assert result.error < 0.25


def test_an_offset_is_never_more_than_half_a_pixel() -> None:
    image = np.random.default_rng(3).random((1, 64, 64, 1), dtype=np.float32)
    assert np.abs(heads("SpotDetection", image)["offset_regression"]).max() <= 0.5


@pytest.mark.parametrize("image", [np.zeros((64, 64)), np.full((64, 64), 7.0), np.linspace(0, 1, 4096).reshape(64, 64)])
def test_where_nothing_stands_out_there_is_no_spot(image: npt.NDArray[np.float64]) -> None:
    assert len(spots_of(image)) == 0


def test_noise_has_hardly_a_spot() -> None:
    noise = np.random.default_rng(4).normal(100, 10, (256, 256))
    assert len(spots_of(noise)) <= 3


def test_cells_and_nuclei_of_tissue_are_found() -> None:
    nuclei = Cells(count=45, diameter=18, clustering=0, defocused=0, debris=0)
    field = simulate_tissue((224, 224), nuclei=nuclei, tissue=Tissue(reach=7), microscope=Microscope(), seed=5)
    cells, found = labels_of(field.image)
    assert score(cells, field.cells).f1 > 0.85
    assert score(found, field.nuclei).f1 > 0.85
    assert score(cells, field.cells, 0.75).f1 > 0.75


def test_blank_tissue_has_no_cells() -> None:
    cells, nuclei = labels_of(np.zeros((2, 96, 96)))
    assert not cells.any()
    assert not nuclei.any()


def test_the_spot_model_is_what_its_script_writes(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    script = MODELS.parents[3] / "models/spots/build.py"
    if not script.exists():
        pytest.skip("the folder models/ is not here")
    path = tmp_path / "SpotDetection/1/model.onnx"
    subprocess.run([sys.executable, script, "--out", path], check=True, timeout=60, capture_output=True)
    written, shipped = onnx.load(path).graph, onnx.load(MODELS / "SpotDetection/1/model.onnx").graph
    assert list(written.node) == list(shipped.node)
    for one, other in zip(written.initializer, shipped.initializer, strict=True):
        # Another numpy may compute another last bit.
        np.testing.assert_allclose(onnx.numpy_helper.to_array(one), onnx.numpy_helper.to_array(other), rtol=1e-5)
