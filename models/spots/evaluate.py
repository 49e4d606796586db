"""Scores of the spot detector, through the same steps as in the product: scaling to 0..1, the model, `detect_spots`.

A found spot is right when it is the partner of a true one within 2 pixels; partners are chosen so that the sum of
distances is least.  The error is the root mean square distance of partners.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnxruntime
import tifffile

from redis_consumer import processing
from redis_consumer.demo.score_points import PointScore, score_points
from redis_consumer.demo.simulation.microscope import Microscope
from redis_consumer.demo.simulation.nuclei import Cells
from redis_consumer.demo.simulation.spots import Spots, builtin_spots, simulate_spots
from redis_consumer.demo.simulation.tissue import Tissue
from redis_consumer.spots import detect_spots

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from redis_consumer.demo.simulation.spots import SpotField

MODEL: Final = Path(__file__).parents[2] / "src/redis_consumer/demo/models/SpotDetection/1/model.onnx"
HEADS: Final = ("classification", "offset_regression")


def find(model: Path | bytes, image: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the spots ``(N, 2)`` of an image ``(Y, X)``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    scaled = processing.min_max_normalize(image[None, :, :, None].astype(np.float32))
    return detect_spots(*session.run(list(HEADS), {"input_1": scaled}))[0]


def variants(seed: int = 100) -> list[SpotField]:
    """Return simulated fields from bright to dim, from small spots to large ones, and one without any."""
    cells = Cells(count=16, diameter=40, clustering=0.0, defocused=0, debris=0, dividing=0)
    plain = Spots(per_cell=15)
    clean = Microscope(photons=300, unevenness=0.1)
    chosen = {
        "bright": (plain, clean),
        "dim": (replace(plain, brightness=0.3), clean),
        "few photons": (replace(plain, brightness=0.5), replace(clean, photons=40)),
        "sigma 0.9": (replace(plain, sigma=0.9), clean),
        "sigma 1.8": (replace(plain, sigma=1.8, spacing=4.5), clean),
        "dense": (replace(plain, per_cell=80, outside=40), clean),
        "no spot": (replace(plain, per_cell=0, outside=0), clean),
    }
    return [
        simulate_spots(
            (384, 384),
            nuclei=cells,
            tissue=Tissue(reach=18, ruggedness=3),
            spots=spots,
            microscope=microscope,
            seed=seed + number,
            name=name,
        )
        for number, (name, (spots, microscope)) in enumerate(chosen.items())
    ]


def read_points(path: Path) -> NDArray[np.float64]:
    """Return the points of a table with the columns y and x."""
    with path.open() as file:
        return np.array([(float(row["y"]), float(row["x"])) for row in csv.DictReader(file)]).reshape(-1, 2)


def line(name: str, score: PointScore) -> str:
    """Return a row of the model card's table."""
    return (
        f"| {name} | {score.true} | {score.found} | {score.precision:.3f} | {score.recall:.3f} | {score.f1:.3f} "
        f"| {score.error:.2f} |"
    )


def main() -> None:
    """Print scores from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--data", type=Path, help="folder with *.tif and, for some, *_truth.csv")
    arguments = parser.parse_args()
    print("| image | true | found | precision | recall | F1 | error, px |\n|---|---|---|---|---|---|---|")
    for field in (*variants(), *builtin_spots()):
        print(line(field.name, score_points(find(arguments.model, field.image[0]), field.points)))
    for path in sorted(arguments.data.glob("*.tif")) if arguments.data else ():
        found = find(arguments.model, np.squeeze(tifffile.imread(path)))
        truth = path.with_name(f"{path.stem}_truth.csv")
        if truth.exists():
            print(line(path.stem, score_points(found, read_points(truth))))
        else:
            print(f"| {path.stem} | unknown | {len(found)} | | | | |")


if __name__ == "__main__":
    main()
