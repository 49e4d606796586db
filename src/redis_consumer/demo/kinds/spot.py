"""Spots: each with a circle around it."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.demo.kinds.base import Found, Kind, Sample, Worker, extent
from redis_consumer.demo.kinds.files import members, write_image, write_picture
from redis_consumer.demo.pictures.spots import circled
from redis_consumer.demo.score_points import score_points
from redis_consumer.demo.simulation.spots import builtin_spots
from redis_consumer.images import read_image

if TYPE_CHECKING:
    from pathlib import Path

    from redis_consumer.demo.kinds.base import Outputs
    from redis_consumer.spots import Points


def draw(folder: Path) -> list[Sample[Points]]:
    """Write the first channels of simulated fields of spots; the truth is (N, 2), row and column."""
    return [
        Sample(write_image(folder / f"{field.name}.tif", field.image[0], "YX"), field.name, field.points)
        for field in builtin_spots()
    ]


def show(outputs: Outputs, sample: Sample[Points]) -> Found:
    """Write the picture; of several images it shows the first."""
    found: list[Points] = [np.load(BytesIO(file)) for file in members(outputs.zip, ".npy").values()]
    images = read_image(sample.path).pixels[..., 0]
    write_picture(outputs.picture, circled(images[0], found[0]))
    size = extent(images.shape if len(images) > 1 else images.shape[1:])
    result = None if sample.truth is None else score_points(found[0], sample.truth)
    return Found(size, sum(map(len, found)), result)


KIND = Kind(
    queue="spot",
    workers=(Worker("spot", "spot"),),
    settings={"POLARIS_MODEL": "SpotDetection:1"},
    objects="spots",
    beside="the spots circled as *_overlay.png",
    draw=draw,
    show=show,
)
