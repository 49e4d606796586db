"""Write the spot detector: fixed filters, with the two heads of the Kiosk's spot models.  Nothing here was trained.

* A spot is a bright blob of about the size of a point spread function: the Laplacian of the Gaussian, upside down, at
  several sizes, each scaled so that the size of the blob itself answers most (Lindeberg 1998, Feature detection with
  automatic scale selection).
* How sure it is: the answer in units of its usual size around (mean of the absolute answers, which spots themselves
  hardly raise, as they are cut off), plus a little of the image's whole range, so that noise-free images have no spots
  in their last bits.
* ``classification`` is high on the highest pixel of each blob alone, so that any threshold finds one pixel for a spot.
* ``offset_regression`` is where a parabola through the pixel and its neighbours has its top.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from graph import Graph, gaussian

VERSION: Final = 1
MODEL: Final = Path(__file__).parents[2] / f"src/redis_consumer/demo/models/SpotDetection/{VERSION}/model.onnx"


@dataclass(frozen=True)
class Calibration:
    """The constants, chosen by hand on simulated fields (`evaluate.variants` of another seed)."""

    sizes: tuple[float, ...] = (1.0, 1.4, 2.0)
    """Sigmas of the blobs, pixels."""
    window: int = 61
    """Side of the square over which the usual answer is taken, pixels."""
    cut: float = 2.0
    """Answers count for the usual one up to so many times the usual one before."""
    rounds: int = 4
    """How often the usual answer is taken anew."""
    floor: float = 0.003
    """Added to the usual answer, of the image's range."""
    sure: float = 6.0
    """Answer, in units of the usual one, that gives the probability 0.95."""
    power: float = 3.0
    """How steeply the probability rises around it."""
    apart: int = 3
    """Side of the square in which a spot is the highest pixel."""
    beside: float = 0.5
    """Probability beside the highest pixel, of what it would be."""


def build(c: Calibration) -> Graph:
    """Return the graph."""
    graph = Graph()
    plane = graph.channel("input_1", 0)
    answers = [laplacian(graph, plane, size) for size in c.sizes]
    # Kept apart until here: large blobs have other noise than small ones.
    levels = [graph.apply("Div", answer, usual(graph, answer, c)) for answer in answers]
    level = graph.apply("Max", *levels, 0.0)
    graph.name(classes(graph, level, c), "classification")
    graph.name(graph.image(*(offset(graph, answers[1], axis) for axis in (0, 1))), "offset_regression")
    return graph


def laplacian(graph: Graph, plane: str, size: float) -> str:
    """Return the negative Laplacian of a plane blurred by ``size``, of unit scale."""
    bell, curved = gaussian(size), gaussian(size, 2)
    across = graph.filtered(plane, bell[:, None], curved[None])
    down = graph.filtered(plane, curved[:, None], bell[None])
    return graph.apply("Mul", graph.apply("Add", across, down), -(size**2))


def usual(graph: Graph, answer: str, c: Calibration) -> str:
    """Return the usual absolute answer around each pixel, without what stands out, and never 0."""
    absolute = graph.apply("Abs", answer)
    level = graph.mean_around(absolute, c.window)
    for _ in range(c.rounds):
        level = graph.mean_around(graph.apply("Min", absolute, graph.apply("Mul", level, c.cut)), c.window)
    return graph.apply("Add", level, c.floor)


def classes(graph: Graph, level: str, c: Calibration) -> str:
    """Return the probabilities of no spot and of a spot ``[N, H, W, 2]``."""
    strength = graph.apply("Pow", graph.apply("Div", level, c.sure), c.power)
    odds = graph.apply("Mul", strength, 0.95 / (1 - 0.95))
    probability = graph.apply("Div", odds, graph.apply("Add", odds, 1.0))
    top = graph.apply("Equal", level, graph.highest_around(level, c.apart, c.apart))
    spot = graph.apply("Where", top, probability, graph.apply("Mul", probability, c.beside))
    return graph.image(graph.apply("Sub", 1.0, spot), spot)


def offset(graph: Graph, answer: str, axis: int) -> str:
    """Return how far the top of a parabola is from each pixel along an axis, half a pixel at most."""
    ahead, centre, behind = (np.array([float(k == place) for k in range(3)]) for place in range(3))
    # A convolution: the first weight is that of the next pixel.
    slope, bend = (ahead - behind) / 2, 2 * centre - ahead - behind
    rows, curvature = (
        graph.filtered(answer, kernel[:, None] if axis == 0 else kernel[None]) for kernel in (slope, bend)
    )
    return graph.clip(graph.apply("Div", rows, graph.apply("Max", curvature, 1e-6)), -0.5, 0.5)


def main() -> None:
    """Write the model from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=MODEL)
    out = parser.parse_args().out
    build(Calibration()).save(out, 1, {"classification": 2, "offset_regression": 2}, VERSION, __doc__ or "")
    print(f"{out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
