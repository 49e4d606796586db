"""A movie: frames with tails and divisions, and the tree of all tracks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from redis_consumer.demo.kinds.base import Found, Kind, Sample, Worker, extent
from redis_consumer.demo.kinds.files import members, read_labels, write_image, write_labels, write_picture
from redis_consumer.demo.pictures.tracks import montage
from redis_consumer.demo.score_tracks import score_tracks
from redis_consumer.demo.simulation.movie import Movie, builtin_movies
from redis_consumer.images import read_image

if TYPE_CHECKING:
    from pathlib import Path

    from redis_consumer.demo.kinds.base import Outputs

LINEAGE: Final = "lineage.json"


def draw(folder: Path) -> list[Sample[Movie]]:
    """Write simulated movies."""
    return [
        Sample(write_image(folder / f"{movie.name}.tif", movie.image, "TYX"), movie.name, movie)
        for movie in builtin_movies()
    ]


def show(outputs: Outputs, sample: Sample[Movie]) -> Found:
    """Write the labels of all frames, and the picture."""
    labels = read_labels(outputs.zip)
    lineage = json.loads(members(outputs.zip, LINEAGE)[LINEAGE])
    parents = {int(label): track["parent"] for label, track in lineage.items() if track["parent"] is not None}
    write_labels(outputs.labels, labels, "TYX")
    write_picture(outputs.picture, montage(read_image(sample.path).pixels[..., 0], labels, parents))
    result = None
    if sample.truth is not None:
        result = score_tracks(labels, parents, sample.truth.labels, sample.truth.parents)
    return Found(extent(labels.shape), len(lineage), result)


KIND = Kind(
    queue="caliban",
    workers=(Worker("caliban", "caliban"), Worker("segmentation", "segmentation")),
    settings={"NUCLEAR_MODEL": "NuclearSegmentation:1", "SEGMENTATION_QUEUE": "segmentation", "CALIBAN_MODEL": "none"},
    objects="tracks",
    beside="frames with tracks and divisions as *_overlay.png, the labels of all frames as *_labels.tif",
    draw=draw,
    show=show,
)
