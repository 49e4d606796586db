"""Nuclei in fields of view: outlines over the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import tifffile

from redis_consumer.demo.kinds.base import Found, Kind, Sample, Worker, extent
from redis_consumer.demo.kinds.files import count, read_labels, write_labels, write_picture
from redis_consumer.demo.pictures.outlines import overlay
from redis_consumer.demo.score import score
from redis_consumer.demo.simulation.nuclei import builtin_fields
from redis_consumer.images import read_image

if TYPE_CHECKING:
    from pathlib import Path

    from redis_consumer.demo.kinds.base import Outputs

LabelPlane = npt.NDArray[np.int32]


def draw(folder: Path) -> list[Sample[LabelPlane]]:
    """Write simulated fields of view; the truth is a label image (Y, X)."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for field in builtin_fields():
        path = folder / f"{field.name}.tif"
        tifffile.imwrite(path, field.image, compression="zlib", metadata={"axes": "YX"})
        samples.append(Sample(path, field.name, field.labels))
    return samples


def show(outputs: Outputs, sample: Sample[LabelPlane]) -> Found:
    """Write the label image and the picture; of several planes the picture shows the first."""
    labels = read_labels(outputs.zip)
    flat = labels[0] if len(labels) == 1 else labels
    write_labels(outputs.labels, flat, "ZYX"[-flat.ndim :])
    write_picture(outputs.picture, overlay(read_image(sample.path).pixels[0, ..., 0], labels[0]))
    result = None if sample.truth is None else score(labels[0], sample.truth)
    return Found(extent(flat.shape), count(labels), result)


KIND = Kind(
    queue="segmentation",
    workers=(Worker("segmentation", "segmentation"),),
    settings={"NUCLEAR_MODEL": "NuclearSegmentation:1"},
    objects="nuclei",
    beside="the outlines as *_overlay.png, the label image as *_labels.tif",
    draw=draw,
    show=show,
)
