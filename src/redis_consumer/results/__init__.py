"""Results as files: label images as TIFFs, named and written the way the readers of the Kiosk expect.

A label image is a float32 TIFF, uncompressed, as tifffile writes it by default; each label a whole number, exact up
to 2**24.  Spots are an NPY file, and a picture of them.  Knows no jobs and no models; tifffile is imported with the
first file.
"""

from __future__ import annotations

import math
import tempfile
import unicodedata
from bisect import bisect_right
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.archives import Entry, Made
from redis_consumer.canvas import Canvas
from redis_consumer.errors import JobRejected, RetryJob
from redis_consumer.spots.picture import spot_picture

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis_consumer.arrays import AnyArray, Labels, Spots
    from redis_consumer.processing.planes import Plane

    MadeFile = tuple[Made, str]
    """A file, and its name in the archive."""

PER_FEATURE = "{name}_feature_{feature}.tif"
PER_BATCH_AND_FEATURE = "{name}_batch_{batch}_feature_{feature}.tif"
MOST_LABELS = 2**24
"""The largest whole number that float32 tells from its neighbours."""
BAND = 256
"""Rows of a large label image that are written at a time."""
NAME_BYTES = 900
"""Of a name with its folders: disks and unpackers end somewhere above."""
MOST_CHARACTERS = 10_000
"""That are looked at: a name may come with ten million."""
UNWANTED = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories of letters that no name has here; none of them is printable."""
STEM_BYTES = 200
"""Leaves room for what a pattern adds: a file name has at most 255 bytes."""


def label_files(labels: Labels, name: str, *, pattern: str = PER_FEATURE, stack: bool = False) -> list[MadeFile]:
    """Return label images as `map_files` does.  JobRejected above 2**24 labels."""
    if labels.array.size and int(labels.array.max()) > MOST_LABELS:
        raise too_many_labels()
    return map_files(labels.array, name, pattern=pattern, stack=stack)


def save_labels(
    labels: Labels, name: str, folder: str | Path, *, pattern: str = PER_FEATURE, stack: bool = False
) -> list[Entry]:
    """Write `label_files` into `folder`, which their names cannot lead out of.  RetryJob if the disk is full."""
    return [_written(made, name, folder) for made, name in label_files(labels, name, pattern=pattern, stack=stack)]


def too_many_labels() -> JobRejected:
    """Return the error for labels that a float32 TIFF cannot tell apart."""
    return JobRejected(f"The result has labels above {MOST_LABELS}, more than a float32 TIFF can tell apart")


def map_files(array: AnyArray, name: str, *, pattern: str = PER_FEATURE, stack: bool = False) -> list[MadeFile]:
    """Return one TIFF for each feature (last axis) of `array`, shape (T, Y, X, C), made when it is written.

    With ``{batch}`` in `pattern` it is one for each frame and feature, frames first; without, all frames of a
    feature are one stack (T, Y, X), but a single frame a plain (Y, X) image unless `stack`.  `name` is the
    user's file name: its folders are kept inside the archive, its last extension is dropped, and it cannot lead
    out of where it is put.  Returned are the files and their names in the archive, in the order in which readers want
    them.
    """
    stem = entry_stem(name)
    images = np.moveaxis(array, -1, 0)
    if "{batch}" in pattern:
        return [
            (_tiff(image), pattern.format(name=stem, batch=batch, feature=feature))
            for batch, features in enumerate(np.moveaxis(images, 1, 0))
            for feature, image in enumerate(features)
        ]
    return [
        (_tiff(frames if stack or len(frames) > 1 else frames[0]), pattern.format(name=stem, feature=feature))
        for feature, frames in enumerate(images)
    ]


def save_large_labels(
    planes: Sequence[Sequence[Plane]], name: str, folder: str | Path, *, pattern: str = PER_FEATURE, stack: bool = False
) -> list[Entry]:
    """Write label images as `save_labels` does, from planes (Y, X) by frame and feature, a band of rows at a time."""
    stem = entry_stem(name)
    if "{batch}" in pattern:
        return [
            _save_large([plane], pattern.format(name=stem, batch=batch, feature=feature), folder, stack=False)
            for batch, features in enumerate(planes)
            for feature, plane in enumerate(features)
        ]
    return [
        _save_large(frames, pattern.format(name=stem, feature=feature), folder, stack=stack or len(frames) > 1)
        for feature, frames in enumerate(zip(*planes, strict=True))
    ]


def save_spots(spots: Spots, name: str, folder: str | Path) -> list[Entry]:
    """Write two files for each frame of `spots`: a picture ``<name>_<frame>.tif``, the points ``<name>_<frame>.npy``.

    The picture (Y, X, 3), uint8, is for people.  The points are float64 (N, 2), row and column, N may be 0.  Names,
    order and errors as for `save_labels`.
    """
    stem = entry_stem(name)
    return [
        entry
        for frame, points in enumerate(spots.points)
        for entry in (
            _save_picture(spot_picture(spots.image[frame, ..., 0], points), f"{stem}_{frame}.tif", folder),
            _save_points(points, f"{stem}_{frame}.npy", folder),
        )
    ]


def save_channels(array: AnyArray | Sequence[AnyArray], name: str, folder: str | Path) -> list[str]:
    """Write each channel (last axis) of `array` as ``<name>_feature_<channel>.tif``; return the paths in order.

    An array of rank 2 is one channel.  Of several arrays the channels are counted on.  `name` has no extension;
    it cannot lead out of `folder`.
    """
    arrays = [array] if isinstance(array, np.ndarray) else array
    planes = [plane for one in arrays for plane in _channels(one)]
    stem = safe_name(name)
    return [
        _written(_tiff(plane), PER_FEATURE.format(name=stem, feature=c), folder).path for c, plane in enumerate(planes)
    ]


def _channels(array: AnyArray) -> Sequence[AnyArray]:
    return [array] if array.ndim == 2 else [array[..., c] for c in range(array.shape[-1])]  # noqa: PLR2004 - rows, columns


def entry_stem(name: str) -> str:
    """Return the user's file name without its last extension, as a relative path that stays where it is put."""
    safe = PurePosixPath(safe_name(name) or "image")
    # Of "..tif" the stem is ".", which is no name.
    return str(safe.with_name(safe.stem if safe.stem.strip(".") else "image"))


def safe_name(name: str) -> str:
    """Return a name or folder of the user's as a relative path that stays where it is put.

    Folders are kept; ``..``, ``.``, drive letters and control characters are not, long parts are shortened, and of
    many folders the last ones stay.  Empty if nothing is left.
    """
    name = name[-MOST_CHARACTERS:].replace("\\", "/")
    is_clean = name.isprintable()  # which most names are, and one look tells
    clean = name if is_clean else "".join("_" if unicodedata.category(c) in UNWANTED else c for c in name)
    parts = [part for part in clean.split("/") if part.strip() not in ("", ".", "..")]
    if clean[1:3] == ":/":
        parts = parts[1:]
    return "/".join(_last([_shortened(part) for part in parts]))


def _last(parts: list[str]) -> list[str]:
    """Return the parts at the end that fit into NAME_BYTES; the file itself always does."""
    sizes = list(accumulate(len(part.encode()) + 1 for part in reversed(parts)))
    return parts[len(parts) - bisect_right(sizes, NAME_BYTES) :]


def _shortened(part: str) -> str:
    if len(part.encode()) <= STEM_BYTES:
        return part
    suffix = PurePosixPath(part).suffix[:8]
    return part.encode()[: STEM_BYTES - len(suffix.encode())].decode(errors="ignore") + suffix


@contextmanager
def writing(folder: str | Path, name: str) -> Iterator[Path]:
    """Give the path of a result in `folder`, which is there then.  RetryJob if the disk is full."""
    path = Path(folder, name)
    with _on_disk(name):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path


@contextmanager
def _on_disk(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RetryJob(f"The worker cannot write the result {name!r}: {error.strerror}") from error


def _written(made: Made, name: str, folder: str | Path) -> Entry:
    with writing(folder, name) as path, path.open("wb") as file:
        made.write(file)
    return Entry(str(path), name)


def _tiff(image: AnyArray) -> Made:
    """Return an image (..., Y, X) as a float32 TIFF."""
    head, tail = _around(image.shape)

    def pieces() -> Iterator[bytes | memoryview]:
        yield head
        # One plane at a time: of a movie, float32 would be a second copy of it all.
        for at in np.ndindex(image.shape[:-2]):
            yield image[at].astype(np.float32, order="C").data.cast("B")
        yield tail

    return Made(len(head) + 4 * image.size + len(tail), pieces)


@lru_cache(maxsize=32)
def _around(shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """Return what stands before and behind the pixels in a TIFF of this shape.

    It is the same in every one, and tifffile takes half a millisecond to write it.
    """
    # Takes no room on the disk: where the pixels would be, nothing is written.
    with _on_disk("a temporary file"), tempfile.NamedTemporaryFile(prefix="redis-consumer-") as file:
        offset = _write_without_pixels(Path(file.name), shape)
        head = file.read(offset)
        file.seek(offset + 4 * math.prod(shape))
        return head, file.read()


def _write_without_pixels(path: Path, shape: tuple[int, ...]) -> int:
    """Write a TIFF that has room for pixels, one array of all rows of all frames; return where they begin."""
    import tifffile

    # Said, because three or four frames or columns would be taken for red, green and blue.
    tifffile.imwrite(path, shape=shape, dtype=np.float32, photometric="minisblack", metadata=_explained(shape))
    with tifffile.TiffFile(path) as written:
        return int(written.pages.first.dataoffsets[0])


def _save_large(frames: Sequence[Plane], name: str, folder: str | Path, *, stack: bool) -> Entry:
    height, width = frames[0].shape
    shape = (len(frames), height, width) if stack else (height, width)
    with writing(folder, name) as path:
        offset = _write_without_pixels(path, shape)
        rows = Canvas.over(path, (len(frames) * height, width), np.dtype(np.float32), offset)
        for number, plane in enumerate(frames):
            for top in range(0, height, BAND):
                band = slice(top, min(top + BAND, height))
                values = plane[band, slice(0, width)]
                if values.max() > MOST_LABELS:
                    raise too_many_labels()
                rows[number * height + band.start : number * height + band.stop, 0:width] = values
    return Entry(str(path), name)


def _explained(shape: tuple[int, ...]) -> dict[str, str]:
    """Return what a file says about its axes: short ones would be taken for others by readers that have to guess."""
    return {"axes": "TYX"[-len(shape) :]} if len(shape) <= len("TYX") else {}


def _save_picture(image: AnyArray, name: str, folder: str | Path) -> Entry:
    import tifffile

    with writing(folder, name) as path:
        tifffile.imwrite(path, image, photometric="rgb")
    return Entry(str(path), name)


def _save_points(points: AnyArray, name: str, folder: str | Path) -> Entry:
    with writing(folder, name) as path:
        np.save(path, points, allow_pickle=False)
    return Entry(str(path), name)
