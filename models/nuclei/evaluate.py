"""Scores of a nuclei model, through the same steps as in the product.

Contrast equalisation, the choice of tiles, their blending and ``deep_watershed`` with its defaults are those of
``redis_consumer``; only the model server is replaced by onnxruntime in this process.

Scores. A nucleus is found when a predicted object overlaps it with an intersection over union (IoU) above the
threshold; from 0.5 on there is at most one. *F1* is 2 TP / (2 TP + FP + FN) at IoU 0.5, over all nuclei of all
images together. *Mean AP* is TP / (TP + FP + FN), averaged over the thresholds 0.5, 0.55, ... 0.95 and then over
images. An image without nuclei in which none is predicted scores 1.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnxruntime
import samples
from scipy import ndimage as ndi
from skimage.io import imread

from redis_consumer import processing
from redis_consumer.consumers.predict import tile_size
from redis_consumer.demo.simulation import nuclei

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

TIMED: Final = 512
THRESHOLDS: Final = np.linspace(0.5, 0.95, 10)
SIZE_CLASSES: Final = ((0, 12), (12, 20), (20, 40), (40, 60), (60, 1000))
"""Equivalent diameters in pixels, from and to."""

MODEL: Final = Path(__file__).parents[2] / "src/redis_consumer/demo/models/NuclearSegmentation/1/model.onnx"


class Model:
    """An ONNX model in this process, on one thread."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def predict(self, tiles: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the heads of tiles ``(N, Y, X, 1)``, sorted by name, one tile at a time."""
        names = sorted(output.name for output in self._session.get_outputs())
        parts = [self._session.run(names, {self._input: tile[None]}) for tile in tiles]
        return [np.concatenate(head) for head in zip(*parts, strict=True)]

    def segment(self, image: NDArray[np.generic]) -> NDArray[np.int32]:
        """Return labels ``(Y, X)`` of an image ``(Y, X)``."""
        normalised = processing.histogram_normalization(image[None, :, :, None].astype(np.float32))
        tiles, grid = processing.tile(normalised, tile_shape(image))
        heads = [processing.untile(head, grid) for head in self.predict(tiles)]
        return processing.deep_watershed(heads)[0, :, :, 0]


def tile_shape(image: NDArray[np.generic]) -> tuple[int, int]:
    """Return the tiles' size that the product takes for a model of free size."""
    return tile_size(image.shape[0], None), tile_size(image.shape[1], None)


def overlaps(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the IoU of every true nucleus (rows) with every predicted one (columns)."""
    _, true_ids = np.unique(np.concatenate([[0], truth.ravel()]), return_inverse=True)
    _, found_ids = np.unique(np.concatenate([[0], predicted.ravel()]), return_inverse=True)
    width = int(found_ids.max()) + 1
    table = np.bincount(true_ids[1:] * width + found_ids[1:], minlength=(int(true_ids.max()) + 1) * width)
    shared = table.reshape(-1, width)
    union = shared.sum(1, keepdims=True) + shared.sum(0, keepdims=True) - shared
    iou: NDArray[np.float64] = (shared / np.maximum(union, 1))[1:, 1:]
    return iou


@dataclass
class Scores:
    """Sums over images."""

    true: int = 0
    predicted: int = 0
    matched: int = 0
    precisions: list[float] = field(default_factory=list)
    by_size: dict[tuple[int, int], list[int]] = field(default_factory=lambda: {s: [0, 0] for s in SIZE_CLASSES})
    """Found and all true nuclei of each size class."""

    def add(self, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> None:
        """Count one image."""
        iou = overlaps(truth, predicted)
        best = iou.max(1, initial=0)
        hits = np.array([(best > t).sum() for t in THRESHOLDS])
        everything = sum(iou.shape) - hits
        self.precisions.append(float(np.mean(hits / everything)) if sum(iou.shape) else 1.0)
        self.true += iou.shape[0]
        self.predicted += iou.shape[1]
        self.matched += int(hits[0])
        area = np.bincount(truth.ravel())[1:]
        diameter = np.sqrt(area[area > 0] * 4 / np.pi)
        for (low, high), counts in self.by_size.items():
            inside = (diameter >= low) & (diameter < high)
            counts[0] += int((best[inside] > THRESHOLDS[0]).sum())
            counts[1] += int(inside.sum())

    @property
    def f1(self) -> float:
        """F1 at IoU 0.5."""
        return 2 * self.matched / max(self.true + self.predicted, 1)

    @property
    def mean_ap(self) -> float:
        """Mean average precision."""
        return float(np.mean(self.precisions)) if self.precisions else 0.0

    def __str__(self) -> str:
        recall = ", ".join(
            f"{low}-{high} px {hit}/{count}" for (low, high), (hit, count) in self.by_size.items() if count
        )
        return (
            f"F1@0.5 {self.f1:.3f}  mean AP {self.mean_ap:.3f}  true {self.true}  predicted {self.predicted}"
            f"  found by size: {recall}"
        )


def score(model: Model, fields: Iterable[tuple[NDArray[np.generic], NDArray[np.integer]]]) -> Scores:
    """Return the scores of images with their labels."""
    scores = Scores()
    for image, labels in fields:
        scores.add(labels, model.segment(image))
    return scores


def enlarged(
    fields: Iterable[tuple[samples.Image, samples.Labels]], diameter: float
) -> list[tuple[samples.Image, samples.Labels]]:
    """Return images scaled so that their nuclei have a median diameter.

    At most 768 pixels a side are used of each; a part without a nucleus is left out.
    """
    result = []
    for image, labels in fields:
        factor = diameter / samples.typical_diameter(labels)
        window = int(768 / factor)
        if labels[:window, :window].any():
            result.append(samples.rescale(image[:window, :window], labels[:window, :window], (factor, factor)))
    return result


def empty_fields(seed: int = 0) -> list[NDArray[np.float64]]:
    """Return images without a nucleus: nothing, noise, slopes, haze, smooth noise."""
    rng = np.random.default_rng(seed)
    shape = (512, 512)
    haze = 100 + 30 * samples.smooth_field(shape, rng)
    return [
        np.zeros(shape),
        np.full(shape, 77.0),
        rng.normal(100, 10, shape),
        rng.poisson(3, shape).astype(float),
        rng.random((300, 700)),
        np.linspace(0, 100, 512)[:, None] + rng.normal(0, 2, shape),
        rng.poisson(haze).astype(float),
        rng.normal(haze, 1),
        ndi.gaussian_filter(rng.normal(100, 10, shape), 1.5),
        ndi.zoom(rng.poisson(3, (150, 150)).astype(float), 3.5, order=1),
    ]


def report(model: Model, data: Path | None, colour: Path | None) -> None:
    """Print every table of the model card."""
    if data is not None:
        val = samples.read(data, "val")
        print(f"val                    {score(model, val)}")
        large = [f for f in val if samples.typical_diameter(f[1]) > 20]
        for diameter in (60, 80, 100):
            print(f"val enlarged to {diameter:3d} px {score(model, enlarged(large, diameter))}")
    for simulated in nuclei.builtin_fields():
        print(f"{simulated.name:22s} {score(model, [(simulated.image, simulated.labels)])}")
    found = [int(model.segment(image).max()) for image in empty_fields()]
    print(f"objects in fields without nuclei: {found}")
    for path in sorted(colour.glob("*_labels.png")) if colour is not None else ():
        picture = imread(path.with_name(path.name.replace("_labels", "")))[..., :3].mean(-1)
        print(f"bright-field {path.name[:8]}  {score(model, [(picture, imread(path))])}")


def main() -> None:
    """Print scores from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--data", type=Path, help="folder with images/, labels/, split.json")
    parser.add_argument("--colour", type=Path, help="folder of bright-field images and *_labels.png")
    arguments = parser.parse_args()
    model = Model(arguments.model)
    report(model, arguments.data, arguments.colour)
    tile = np.random.default_rng(0).random((1, TIMED, TIMED, 1), dtype=np.float32)
    began = time.perf_counter()
    for _ in range(5):
        model.predict(tile)
    seconds = (time.perf_counter() - began) / 5
    print(f"{seconds:.3f} s for {TIMED} x {TIMED} on one thread; {arguments.model.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
