"""Tissue: whole cells and their nuclei, outlined in two colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from redis_consumer.demo.kinds.base import Found, Kind, Sample, Worker, extent
from redis_consumer.demo.kinds.files import count, read_labels, write_image, write_labels, write_picture
from redis_consumer.demo.pictures.tissue import both_outlined
from redis_consumer.demo.score import score
from redis_consumer.demo.simulation.tissue import TissueField, builtin_tissues
from redis_consumer.images import read_image

if TYPE_CHECKING:
    from pathlib import Path

    from redis_consumer.demo.kinds.base import Outputs


CHANNELS: Final = ("nuclei", "membranes")


def draw(folder: Path) -> list[Sample[TissueField]]:
    """Write simulated tissue."""
    return [
        Sample(write_image(folder / f"{tissue.name}.tif", tissue.image, "CYX", CHANNELS), tissue.name, tissue)
        for tissue in builtin_tissues()
    ]


def show(outputs: Outputs, sample: Sample[TissueField]) -> Found:
    """Write the label images, cells first, and the picture; the score is that of whole cells."""
    labels = read_labels(outputs.zip)
    cells, nuclei = labels
    write_labels(outputs.labels, labels, "CYX")
    pixels = read_image(sample.path).pixels[0]
    write_picture(outputs.picture, both_outlined(np.moveaxis(pixels[..., :2], -1, 0), cells, nuclei))
    result = None if sample.truth is None else score(cells, sample.truth.cells)
    return Found(extent(cells.shape), count(labels[:1]), result)


KIND = Kind(
    queue="mesmer",
    workers=(Worker("mesmer", "mesmer"),),
    settings={"MESMER_MODEL": "MultiplexSegmentation:1"},
    objects="cells",
    beside="cells and nuclei outlined as *_overlay.png, both label images as *_labels.tif",
    draw=draw,
    show=show,
    fields={"compartment": "both"},
)
