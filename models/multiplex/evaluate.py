"""Scores of the multiplex model, through the steps of the product: `multiplex_preprocess`, tiles, `mesmer_postprocess`.

F1 at an intersection over union of 0.5 and of 0.75, as in `redis_consumer.demo.score`.  For comparison: every nucleus
grown by a fixed number of pixels, without a look at the membranes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnxruntime
from skimage.segmentation import expand_labels

from redis_consumer import processing
from redis_consumer.consumers.predict import tile_size
from redis_consumer.demo.score import score
from redis_consumer.demo.simulation.microscope import Microscope
from redis_consumer.demo.simulation.nuclei import Cells
from redis_consumer.demo.simulation.tissue import Tissue, builtin_tissues, simulate_tissue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from redis_consumer.demo.simulation.tissue import TissueField

MODEL: Final = Path(__file__).parents[2] / "src/redis_consumer/demo/models/MultiplexSegmentation/1/model.onnx"
HEADS: Final = [f"semantic_{number}" for number in range(4)]
STRICT: Final = 0.75
GROWN: Final = 7
"""Pixels: the median reach of the first built-in tissue."""


def predict(model: Path, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the four heads for a prepared image ``(1, Y, X, 2)``, tile by tile."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    tiles, grid = processing.tile(image, (tile_size(image.shape[1], None), tile_size(image.shape[2], None)))
    parts = [session.run(HEADS, {"input_1": tile[None]}) for tile in tiles]
    return [processing.untile(np.concatenate(head), grid) for head in zip(*parts, strict=True)]


def segment(model: Path, image: NDArray[np.generic]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the labels ``(Y, X)`` of cells and of nuclei in an image ``(2, Y, X)``."""
    prepared = processing.multiplex_preprocess(np.moveaxis(image, 0, -1)[None].astype(np.float32))
    labels = processing.mesmer_postprocess(predict(model, prepared), "both")[0]
    return labels[..., 0], labels[..., 1]


def variants(seed: int = 200) -> list[TissueField]:
    """Return simulated tissue from sparse to crowded, and with poor membranes."""
    nuclei = Cells(count=170, diameter=18, clustering=0.1, defocused=2, debris=3)
    tissue, clean = Tissue(reach=7), Microscope()
    chosen = {
        "crowded": (nuclei, tissue, clean),
        "sparse": (replace(nuclei, count=45), replace(tissue, reach=9), clean),
        "clustered": (replace(nuclei, clustering=0.6), tissue, clean),
        "dim membranes": (nuclei, replace(tissue, membrane=0.35, cytoplasm=0.12), clean),
        "few photons": (nuclei, tissue, replace(clean, photons=60)),
        "cytoplasm alone": (nuclei, replace(tissue, membrane=0.0, cytoplasm=0.7), clean),
        "no second channel": (nuclei, replace(tissue, membrane=0.0, cytoplasm=0.0), clean),
    }
    return [
        simulate_tissue((384, 384), nuclei=n, tissue=t, microscope=m, seed=seed + k, name=name)
        for k, (name, (n, t, m)) in enumerate(chosen.items())
    ]


def line(name: str, true: int, pairs: Iterable[tuple[NDArray[np.int32], NDArray[np.int32]]]) -> str:
    """Return a row of the model card's table; of each pair, found and true labels, both scores."""
    both = (f"{score(*pair).f1:.3f} / {score(*pair, STRICT).f1:.3f}" for pair in pairs)
    return f"| {name} | {true} | {' | '.join(both)} |"


def main() -> None:
    """Print scores from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--seed", type=int, default=200)
    arguments = parser.parse_args()
    print(f"| tissue | cells | whole cells | nuclei | nuclei + {GROWN} px as cells |\n|---|---|---|---|---|")
    for field in (*variants(arguments.seed), *builtin_tissues()):
        cells, nuclei = segment(arguments.model, field.image)
        grown = expand_labels(nuclei, GROWN)
        pairs = ((cells, field.cells), (nuclei, field.nuclei), (grown, field.cells))
        print(line(field.name, int(field.cells.max()), pairs))


if __name__ == "__main__":
    main()
