"""Files of samples and results: pictures written, label images and arrays read from a zip."""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from redis_consumer.demo.pictures.canvas import Picture

LabelStack: TypeAlias = npt.NDArray[np.uint16 | np.uint32]


def write_image(path: Path, image: npt.NDArray[np.generic], axes: str, channels: Sequence[str] = ()) -> Path:
    """Write an OME-TIFF, its channels named; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, Any] = {"axes": axes}
    if channels:
        metadata["Channel"] = {"Name": list(channels)}
    tifffile.imwrite(path, image, ome=True, compression="zlib", photometric="minisblack", metadata=metadata)
    return path


def write_labels(path: Path, labels: LabelStack, axes: str) -> None:
    """Write a label image that every viewer opens."""
    tifffile.imwrite(path, labels, compression="zlib", photometric="minisblack", metadata={"axes": axes})


def write_picture(path: Path, picture: Picture) -> None:
    """Write a PNG."""
    Image.fromarray(picture).save(path, optimize=False, compress_level=4)


def members(path: Path, suffix: str) -> dict[str, bytes]:
    """Return the entries of a zip whose names end so, in their order."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.endswith(suffix)}


def read_labels(path: Path) -> LabelStack:
    """Return the label images of a result zip as (planes, Y, X), uint16 if their values fit, else uint32.

    Archives hold labels as float32, as the Kiosk's readers expect.
    """
    return labels_of([tifffile.imread(BytesIO(content)) for content in members(path, ".tif").values()])


def labels_of(images: Sequence[npt.NDArray[np.generic]]) -> LabelStack:
    """Return label images of one size, (Y, X) or (planes, Y, X), as one stack of integers (planes, Y, X)."""
    labels = np.concatenate([image.reshape(-1, *image.shape[-2:]) for image in images])
    fits = labels.max(initial=0) <= np.iinfo(np.uint16).max
    return labels.astype(np.uint16 if fits else np.uint32)


def count(labels: LabelStack) -> int:
    """Return the number of objects in all planes together."""
    return sum(int(np.count_nonzero(np.unique(plane))) for plane in labels)
