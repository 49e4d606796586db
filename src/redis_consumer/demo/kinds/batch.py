"""An archive of fields of view in folders: a contact sheet of all of them, with outlines."""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from redis_consumer.archives import archive_limits, open_archive
from redis_consumer.demo.kinds.base import Found, Kind, Sample, Worker
from redis_consumer.demo.kinds.files import count, labels_of, members, write_picture
from redis_consumer.demo.pictures.outlines import overlay
from redis_consumer.demo.pictures.sheet import contact_sheet
from redis_consumer.demo.score import Score, score
from redis_consumer.demo.simulation.batch import builtin_batch
from redis_consumer.images import read_image
from redis_consumer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis_consumer.demo.kinds.base import Outputs
    from redis_consumer.demo.kinds.files import LabelStack

Truths = dict[str, npt.NDArray[np.int32]]

MOST: Final = 48
"""Images on the contact sheet: the first ones."""
ENTRY: Final = "_batch_0_feature_0.tif"
"""How the label image of an image is called in the result, behind the image's name without its extension."""


@dataclass(frozen=True)
class Total:
    """The scores of several images together."""

    scores: tuple[Score, ...]

    @property
    def f1(self) -> float:
        """Over all objects of all images."""
        matched, found, true = (sum(getattr(one, name) for one in self.scores) for name in ("matched", "found", "true"))
        return Score(matched, found, true).f1


def draw(folder: Path) -> list[Sample[Truths]]:
    """Write one archive; the truth is a label image (Y, X) for each of its images, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "plates.zip"
    fields = builtin_batch()
    with zipfile.ZipFile(path, "w") as archive:
        for name, field in fields.items():
            archive.writestr(name, encoded(name, field.image))
    return [Sample(path, path.stem, {name: field.labels for name, field in fields.items()})]


def encoded(name: str, image: npt.NDArray[np.uint16]) -> bytes:
    """Return an image (Y, X) as a file of the format that its name has."""
    file = BytesIO()
    if name.endswith(".png"):
        Image.fromarray(image).save(file, "PNG")
    else:
        tifffile.imwrite(file, image, compression="zlib", metadata={"axes": "YX"})
    return file.getvalue()


def show(outputs: Outputs, sample: Sample[Truths]) -> Found:
    """Write the contact sheet."""
    labels = {name: labels_of([tifffile.imread(BytesIO(file))]) for name, file in members(outputs.zip, ENTRY).items()}
    write_picture(outputs.picture, contact_sheet(pictures(sample.path, labels)))
    objects = sum(count(stack) for stack in labels.values())
    return Found(f"{len(labels)} images", objects, None if sample.truth is None else total(labels, sample.truth))


def pictures(archive: Path, labels: Mapping[str, LabelStack]) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    """Return the first images with their outlines, each with its name and how many objects it has."""
    drawn = []
    with (
        tempfile.TemporaryDirectory(prefix="redis-consumer-") as folder,
        open_archive(archive, archive_limits(Settings())) as opened,
    ):
        done = [name for name in opened.names if entry_of(name) in labels]
        for number, name in enumerate(done[:MOST]):
            found = labels[entry_of(name)]
            image = read_image(opened.unpack(name, Path(folder, str(number)))).pixels[0, ..., 0]
            drawn.append((f"{name}: {count(found)}", overlay(image, found[0])))
    return drawn


def total(labels: Mapping[str, LabelStack], truths: Truths) -> Total:
    """Compare all images; one without a result counts as one in which nothing was found."""
    nothing = [(labels.get(entry_of(name)), truth) for name, truth in truths.items()]
    return Total(tuple(score(np.zeros_like(truth) if found is None else found[0], truth) for found, truth in nothing))


def entry_of(name: str) -> str:
    """Return what the label image of an image is called in the result."""
    return f"{PurePosixPath(name).with_suffix('')}{ENTRY}"


KIND = Kind(
    queue="segmentation",
    workers=(Worker("segmentation", "segmentation"), Worker("segmentation", "zip")),
    settings={"NUCLEAR_MODEL": "NuclearSegmentation:1"},
    objects="nuclei",
    beside="all images with outlines as *_overlay.png",
    draw=draw,
    show=show,
    archives=True,
)
