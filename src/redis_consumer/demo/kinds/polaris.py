"""Spots in cells: each in its cell's colour, and their number in each cell."""

from __future__ import annotations

import csv
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Final

import numpy as np
import tifffile

from redis_consumer.demo.kinds.base import Found, Kind, Sample, Worker, extent
from redis_consumer.demo.kinds.files import labels_of, members, write_image, write_labels, write_picture
from redis_consumer.demo.pictures.spots import counted
from redis_consumer.demo.score import counterparts
from redis_consumer.demo.score_points import score_assigned
from redis_consumer.demo.simulation.spots import SpotField, builtin_spots
from redis_consumer.images import read_image

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from redis_consumer.demo.kinds.base import Outputs
    from redis_consumer.spots import Points

CHANNELS: Final = ("spots", "nuclei", "cytoplasm")


def draw(folder: Path) -> list[Sample[SpotField]]:
    """Write simulated fields of spots in cells, with all three channels."""
    return [
        Sample(write_image(folder / f"{field.name}.tif", field.image, "CYX", CHANNELS), field.name, field)
        for field in builtin_spots()
    ]


def show(outputs: Outputs, sample: Sample[SpotField]) -> Found:
    """Write the label image of cells, and the picture; a spot is right if it is in the right cell."""
    cells = labels_of([tifffile.imread(BytesIO(next(iter(members(outputs.zip, ".tif").values()))))])[0]
    points, assigned = read_table(next(iter(members(outputs.zip, ".csv").values())).decode())
    write_labels(outputs.labels, cells, "YX")
    image = read_image(sample.path).pixels[0, ..., 0]
    write_picture(outputs.picture, counted(image, points, cells, assigned))
    result = None
    if sample.truth is not None:
        truly = counterparts(cells, sample.truth.cells)[assigned]
        result = score_assigned(points, truly, sample.truth.points, sample.truth.cell_of_points)
    return Found(extent(image.shape), len(points), result)


def read_table(text: str) -> tuple[Points, npt.NDArray[np.intp]]:
    """Return the points (N, 2: row, column) of a table ``x,y,cellID0``, and their cells (N,)."""
    rows = list(csv.DictReader(StringIO(text)))
    points = np.array([(float(row["y"]), float(row["x"])) for row in rows]).reshape(-1, 2)
    return points, np.array([int(float(row["cellID0"])) for row in rows], np.intp)


KIND = Kind(
    queue="polaris",
    workers=(Worker("polaris", "polaris"), Worker("spot", "spot"), Worker("mesmer", "mesmer")),
    settings={
        "POLARIS_MODEL": "SpotDetection:1",
        "MESMER_MODEL": "MultiplexSegmentation:1",
        "POLARIS_SCALE": "1",
    },
    objects="spots",
    beside="spots in their cells' colours as *_overlay.png, the cells as *_labels.tif",
    draw=draw,
    show=show,
    fields={"segmentation_type": "tissue", "channels": "0,1,2"},
)
