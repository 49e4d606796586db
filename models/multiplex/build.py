"""Write the multiplex (tissue) model: the trained nuclei network, and cells that grow from its nuclei by fixed steps.

Nothing was trained for it.  The nuclear heads are those of ``NuclearSegmentation``, whose weights are in this graph as
half floats, with other last operations, because ``deep_watershed`` has other parameters here: interiors are smoothed
with sigma 2 and cut at 0.2.

A cell is where a wave from its nucleus arrives.  The wave starts as 1 inside nuclei and loses a little in each pixel,
much on a membrane, and more where nothing is stained; it is computed by rounds of a 3 x 3 maximum.  Where the waves of
two nuclei meet is a valley, hence the border: on the membrane between them, if there is one.

* Membranes are bright ridges: the lower eigenvalue of the Hessian (Steger 1998, An unbiased detector of curvilinear
  structures), upside down, in units of its usual size around.
* ``semantic_0`` (whole cell, inner distance) has a plateau of 1 in the middle of each nucleus, as ``semantic_2`` has.
* ``semantic_1`` and ``semantic_3`` hold three classes, as the Kiosk's do: border, interior, background.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from graph import Graph, gaussian

VERSION: Final = 1
MODELS: Final = Path(__file__).parents[2] / "src/redis_consumer/demo/models"
NUCLEI: Final = MODELS / "NuclearSegmentation/1/model.onnx"
MODEL: Final = MODELS / f"MultiplexSegmentation/{VERSION}/model.onnx"
LARGE: Final = 1000
"""Constants of the network with more values than this are its weights."""
PREFIX: Final = "nuclei_"


@dataclass(frozen=True)
class Calibration:
    """The constants, chosen by hand on simulated tissue (`evaluate.py` with another seed)."""

    closed: int = 7
    """Side of the square over which valleys between peaks are filled, pixels: markers are hardly compared here."""
    rim: float = 0.3
    """Interior on the rim of a nucleus; the smoothed one is about 0.2 there, since it rises inwards."""
    start: float = 0.85
    """The wave on the rim of a nucleus; it is 1 in the middle, so that nuclei that touch have a valley between them."""
    steps: int = 28
    """Rounds of the wave: no cell reaches farther from its nucleus, pixels."""
    loss: float = 0.025
    """What the wave loses in each pixel."""
    membrane_loss: float = 0.3
    """What it loses besides in a pixel of a membrane."""
    blank_loss: float = 0.15
    """What it loses besides in a pixel without stain."""
    membrane: float = 1.5
    """Sigma of membranes, pixels."""
    sure: tuple[float, float] = (0.8, 2.5)
    """Ridge, in units of the usual one, from which there may be a membrane, and from which there is."""
    stain: float = 2.0
    """Sigma of the smoothing of the stain, pixels."""
    stained: tuple[float, float] = (0.12, 0.3)
    """Smoothed stain that is none, and that is full."""
    window: int = 61
    """Side of the square over which the usual ridge is taken, pixels."""


def build(nuclei: onnx.ModelProto, c: Calibration) -> Graph:
    """Return the graph."""
    graph = Graph()
    peaks, inside, depth = network(graph, nuclei)
    peaks = closed(graph, peaks, c.closed)
    interior, start = (
        graph.apply("Mul", inside, graph.apply("Add", graph.apply("Mul", depth, 1 - rim), rim))
        for rim in (c.rim, c.start)
    )
    stain = graph.channel("input_1", 1)
    cells = wave(graph, start, losses(graph, stain, c), c)
    graph.name(graph.image(peaks), "semantic_0")
    graph.name(classes(graph, cells), "semantic_1")
    graph.name(graph.image(peaks), "semantic_2")
    graph.name(classes(graph, interior), "semantic_3")
    return graph


def network(graph: Graph, nuclei: onnx.ModelProto) -> tuple[str, str, str]:
    """Put the nuclei network into the graph; return its peaks, foreground and depth as planes.

    The heads of the nuclei model are ``peaks`` and ``foreground x (rim + (1 - rim) x depth ** power)``.
    """
    image = graph.apply("Transpose", graph.channel("input_1", 0), perm=[0, 2, 3, 1])
    given = nuclei.graph.input[0].name
    names = {given: image}
    for constant in nuclei.graph.initializer:
        names[constant.name] = weights(graph, constant)
    for node in nuclei.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = ""
        copy.input[:] = [names.get(name, PREFIX + name) if name else "" for name in node.input]
        copy.output[:] = [PREFIX + name for name in node.output]
        graph.nodes.append(copy)
    peaks, head = (maker(nuclei.graph, name) for name in ("semantic_0", "semantic_1"))
    inside, rising = maker(nuclei.graph, head.input[0]).input
    power = maker(nuclei.graph, next(name for name in maker(nuclei.graph, rising).input if "Mul" in name)).input[0]
    return (PREFIX + peaks.input[0], PREFIX + inside, PREFIX + maker(nuclei.graph, power).input[0])


def maker(graph: onnx.GraphProto, value: str) -> onnx.NodeProto:
    """Return the node that makes a value."""
    return next(node for node in graph.node if value in node.output)


def weights(graph: Graph, constant: onnx.TensorProto) -> str:
    """Return a constant of the network; weights are stored as half floats, and used as floats."""
    values = numpy_helper.to_array(constant)
    if values.size <= LARGE:
        return graph.constant(values, values.dtype.type)
    return graph.apply("Cast", graph.constant(values, np.float16), to=TensorProto.FLOAT)


def closed(graph: Graph, plane: str, side: int) -> str:
    """Return a plane without valleys narrower than ``side`` pixels."""
    high = graph.highest_around(plane, side, side)
    return graph.apply("Neg", graph.highest_around(graph.apply("Neg", high), side, side))


def losses(graph: Graph, stain: str, c: Calibration) -> str:
    """Return what the wave loses in each pixel."""
    blank = graph.apply("Sub", 1.0, graph.ramp(graph.smoothed(stain, c.stain), *c.stained))
    loss = graph.apply("Add", graph.apply("Mul", membranes(graph, stain, c), c.membrane_loss), c.loss)
    return graph.apply("Add", loss, graph.apply("Mul", blank, c.blank_loss))


def membranes(graph: Graph, stain: str, c: Calibration) -> str:
    """Return 0 to 1: how sure a pixel is on a bright ridge."""
    bell, slope, bend = (gaussian(c.membrane, order) for order in (0, 1, 2))
    rows = graph.filtered(stain, bend[:, None], bell[None])
    columns = graph.filtered(stain, bell[:, None], bend[None])
    mixed = graph.filtered(stain, slope[:, None], slope[None])
    half = graph.apply("Mul", graph.apply("Sub", rows, columns), 0.5)
    root = graph.apply("Sqrt", graph.apply("Add", graph.apply("Mul", half, half), graph.apply("Mul", mixed, mixed)))
    mean = graph.apply("Mul", graph.apply("Add", rows, columns), 0.5)
    ridge = graph.apply("Relu", graph.apply("Sub", root, mean))  # minus the lower eigenvalue
    usual = graph.apply("Add", graph.mean_around(ridge, c.window), 1e-3)
    return graph.ramp(graph.apply("Div", ridge, usual), *c.sure)


def wave(graph: Graph, start: str, loss: str, c: Calibration) -> str:
    """Return how much of the wave arrives; rounds with and without diagonal steps make its front an octagon."""
    for step in range(c.steps):
        around = [graph.highest_around(start, 3, 1), graph.highest_around(start, 1, 3)]
        if step % 2:
            around = [graph.highest_around(start, 3, 3)]
        start = graph.apply("Max", start, *(graph.apply("Sub", one, loss) for one in around))
    return start


def classes(graph: Graph, interior: str) -> str:
    """Return border, interior and background ``[N, H, W, 3]``: they add up to 1, and the border is never likely."""
    background = graph.apply("Sub", 1.0, interior)
    return graph.image(graph.apply("Mul", interior, 0.0), interior, background)


def main() -> None:
    """Write the model from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=Path, default=NUCLEI, help="the nuclei model")
    parser.add_argument("--out", type=Path, default=MODEL)
    arguments = parser.parse_args()
    heads = {"semantic_0": 1, "semantic_1": 3, "semantic_2": 1, "semantic_3": 3}
    build(onnx.load(arguments.nuclei), Calibration()).save(arguments.out, 2, heads, VERSION, __doc__ or "")
    print(f"{arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
