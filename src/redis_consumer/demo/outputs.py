"""Files of the demonstration: what each image's results are called, and how they come out of the zip."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from PIL import Image

from redis_consumer.demo.pictures.outlines import overlay
from redis_consumer.images import read_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from redis_consumer.demo.simulation.nuclei import FieldOfView

    LabelStack = npt.NDArray[np.uint16 | np.uint32]


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of the demonstration."""

    path: Path
    name: str
    """What its results are called: no other image's are called so."""
    truth: npt.NDArray[np.int32] | None = None
    """The true label image (Y, X), where it is known."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """The files that an image leaves in the folder of results."""

    zip: Path
    labels: Path
    overlay: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> Outputs:
        """Return the paths for an image of this name; nothing is written."""
        return cls(folder / f"{name}.zip", folder / f"{name}_labels.tif", folder / f"{name}_overlay.png")

    def __iter__(self) -> Iterator[Path]:
        return iter((self.zip, self.labels, self.overlay))


def named(paths: Sequence[Path], folder: Path) -> list[Picture]:
    """Return the images with names of their own, so that no result overwrites another one, or an input."""
    taken = {str(path.resolve()).casefold() for path in paths}
    pictures = []
    for path in paths:
        name = free_name(path.stem, folder, taken)
        taken |= {_same(file) for file in Outputs.of(folder, name)}
        pictures.append(Picture(path, name))
    return pictures


def free_name(stem: str, folder: Path, taken: set[str]) -> str:
    """Return `stem`, or with a number behind it where one of its files is taken."""
    name, number = stem, 1
    while any(_same(file) in taken for file in Outputs.of(folder, name)):
        number += 1
        name = f"{stem}-{number}"
    return name


def _same(path: Path) -> str:
    """Return what two names of one file have in common; some disks do not tell capitals."""
    return str(path.resolve()).casefold()


def drawn(fields: Sequence[FieldOfView], folder: Path) -> list[Picture]:
    """Write simulated fields of view as TIFF into ``folder``; return them with their truth."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for field in fields:
        path = folder / f"{field.name}.tif"
        tifffile.imwrite(path, field.image, compression="zlib", metadata={"axes": "YX"})
        pictures.append(Picture(path, field.name, field.labels))
    return pictures


def unpack(outputs: Outputs, image: Path) -> LabelStack:
    """Write the label image and the picture with outlines beside the zip; return the labels (planes, Y, X).

    Of several planes the picture shows the first.
    """
    labels = read_labels(outputs.zip)
    flat = labels[0] if len(labels) == 1 else labels
    tifffile.imwrite(
        outputs.labels, flat, compression="zlib", photometric="minisblack", metadata={"axes": "ZYX"[-flat.ndim :]}
    )
    shown = overlay(read_image(image).pixels[0, ..., 0], labels[0])
    Image.fromarray(shown).save(outputs.overlay, optimize=False, compress_level=4)
    return labels


def read_labels(path: Path) -> LabelStack:
    """Return the label images of a result zip as (planes, Y, X), uint16 if their values fit, else uint32.

    Archives hold labels as float32, as the Kiosk's readers expect.
    """
    with zipfile.ZipFile(path) as archive:
        planes = [tifffile.imread(BytesIO(archive.read(entry))) for entry in archive.namelist()]
    labels = np.stack([plane.reshape(plane.shape[-2:]) for plane in planes])
    fits = labels.max(initial=0) <= np.iinfo(np.uint16).max
    return labels.astype(np.uint16 if fits else np.uint32)


def count(labels: LabelStack) -> int:
    """Return the number of objects in all planes together."""
    return sum(int(np.count_nonzero(np.unique(plane))) for plane in labels)
