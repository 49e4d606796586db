"""Image files in: one file to one array of the layout (T, Y, X, C), with what was found out on the way.

Everything that can be told from the header is checked before a pixel is decoded.  Knows no jobs and no buckets;
the libraries that decode are imported with the first file that needs them.
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from redis_consumer.arrays import laid_out
from redis_consumer.errors import JobRejected
from redis_consumer.images.axes import CHANNELS, FRAMES, Origin, resolve
from redis_consumer.images.blocks import Plane, check_together, cut
from redis_consumer.images.checks import (
    ImageLimits,
    check_layout,
    check_sizes,
    check_type,
    check_values,
    check_values_of,
)
from redis_consumer.images.ngff import open_ngff
from redis_consumer.images.pictures import open_npy, open_npz, open_picture, pillow_image
from redis_consumer.images.source import BinaryFile, Content, Source, readable
from redis_consumer.images.tiff import open_tiff

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray, Image
    from redis_consumer.images.blocks import Block
    from redis_consumer.images.zarr import Objects

__all__ = [
    "ImageFile",
    "ImageHeader",
    "ImageLimits",
    "OpenImage",
    "open_image",
    "open_ome_zarr",
    "read_image",
    "read_image_seed",
]

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SEED_CEILING = 2**28
"""Values that no file may declare where nobody gave limits: 60 frames of 2048 x 2048 pixels fit in, 1 GB as float32."""


@dataclass(frozen=True, eq=False)
class ImageHeader(ABC):
    """What is known of an image, whether or not its pixels were read."""

    axes: str
    """The axes of the file, one letter each, in its order: Y rows, X columns, T, Z, B or I frames, C or S channels."""
    axes_from: Origin
    """Who named them: the file's metadata, the job, or the rule of `redis_consumer.images.axes`."""
    shape: tuple[int, ...]
    """Shape in the file, alpha dropped."""
    dtype: np.dtype[np.generic]
    """Type in the file."""
    is_rgb: bool
    """Whether the file calls its channels red, green and blue."""
    name: str = ""
    """Base name of the file."""
    channel_names: tuple[str, ...] = ()
    """One for each channel, where the file (OME) names them; else empty."""
    others: int = 0
    """Further images of the file, which were not read."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int, int, int]:
        """Frames, rows, columns and channels."""

    @property
    @abstractmethod
    def is_color(self) -> bool:
        """Whether it is a picture in colours: RGB, and not one grey value three times."""


@dataclass(frozen=True, eq=False)
class ImageFile(ImageHeader):
    """An image as it was read."""

    stored: AnyArray = field(kw_only=True)
    """The values, (T, Y, X, C), as they were decoded."""

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Frames, rows, columns and channels."""
        return cast("tuple[int, int, int, int]", self.stored.shape)

    @cached_property
    def pixels(self) -> Image:
        """float32, (T, Y, X, C)."""
        return np.ascontiguousarray(self.stored, dtype=np.float32)

    def channels(self, indexes: Sequence[int]) -> Image:
        """Return these channels, float32, (T, Y, X, C); the others cost no copy."""
        image = np.empty((*self.stored.shape[:-1], len(indexes)), np.float32)
        for place, index in enumerate(indexes):
            image[..., place] = self.stored[..., index]
        return image

    @property
    def is_color(self) -> bool:
        """Whether it is a picture in colours: RGB, and not one grey value three times."""
        return self.is_rgb and any(
            not np.array_equal(self.stored[..., 0], self.stored[..., c]) for c in range(1, self.stored.shape[-1])
        )


@dataclass(frozen=True, eq=False)
class OpenImage(ImageHeader):
    """An image whose header was read and checked; its pixels are to be had while its file is open.  For one thread."""

    source: Source = field(kw_only=True, repr=False)
    """What decodes it."""
    places: Mapping[str, int] = field(kw_only=True)
    """The axes of `shape`: rows (Y), columns (X), and, where they are longer than 1, frames (T) and channels (C)."""

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Frames, rows, columns and channels."""
        return cast(
            "tuple[int, int, int, int]", tuple(self.shape[self.places[k]] if k in self.places else 1 for k in "TYXC")
        )

    @cached_property
    def is_color(self) -> bool:
        """Whether it is a picture in colours: RGB, and not one grey value three times.

        Read are the pixels up to the first that is not grey.
        """
        return self.is_rgb and any(
            not np.array_equal(grey, other)
            for frame in range(self.sizes[0])
            for channel in range(1, self.sizes[-1])
            for (*_, grey), (*_, other) in zip(self.blocks(frame, 0), self.blocks(frame, channel), strict=True)
        )

    def read(self) -> ImageFile:
        """Read all of it.  JobRejected where it is damaged."""
        header = {field.name: getattr(self, field.name) for field in fields(ImageHeader)}
        with readable(self.name):
            return ImageFile(**header, stored=self._decoded())

    def blocks(self, frame: int, channel: int) -> Iterator[Block]:
        """Yield one plane of `read().stored` in pieces: rows, columns, and the values there, (rows, columns).

        Each pixel comes once, blocks in the order of their first rows, then of their first columns.  A block has at
        most `redis_consumer.images.blocks.BLOCK_VALUES` values, or is one row or one tile of the file.  No more than
        a few blocks are in memory at once where the file allows: a TIFF, by its strips or tiles, uncompressed ones by
        rows, an NPY file, and OME-Zarr, by its chunks; any other is decoded as a whole with the first block.
        JobRejected where it is damaged, or more than `MOST_TOGETHER` values have to be decoded at once.
        """
        for index, size in ((frame, self.sizes[0]), (channel, self.sizes[-1])):
            if not 0 <= index < size:
                raise IndexError(f"there is no frame {frame} with a channel {channel}: sizes are {self.sizes}")
        return self._blocks(frame, channel)

    def _blocks(self, frame: int, channel: int) -> Iterator[Block]:
        chosen = {self.places.get("T"): frame, self.places.get("C"): channel}
        at = tuple(chosen.get(axis, 0) for axis in range(len(self.shape)))
        with readable(self.name):
            found = self.source.blocks(Plane(at, self.places["Y"], self.places["X"]))
            yield from found if found is not None else cut(self._whole[frame, :, :, channel])

    @cached_property
    def _whole(self) -> AnyArray:
        """The values of an image that is only to be had as a whole, (T, Y, X, C)."""
        check_together(self.name, math.prod(self.shape))
        return self._decoded()

    def _decoded(self) -> AnyArray:
        kinds = {axis: kind for kind, axis in self.places.items()}
        long = sorted(kinds)
        array = self.source.decode().reshape([self.shape[axis] for axis in long])
        return laid_out(array, "".join(kinds[axis] for axis in long))


class _Alone(io.FileIO):
    """A file without a number: tifffile takes it for no file of a folder, and opens none of its neighbours.

    OME metadata may name any path of the disk as the place of their pixels.
    """

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def read_image(path: str | Path, *, axes: str = "", limits: ImageLimits | None = None) -> ImageFile:
    """Read an image file: TIFF of every common kind, PNG, JPEG, BMP, GIF, WebP, JPEG 2000, PPM, NPY, NPZ.

    `axes` are the job's letters (`dimension_order`); `redis_consumer.images.axes` says who wins where.  JobRejected,
    in one line with the file's base name, for what is empty, damaged, cut short, too large or of an unknown kind, and
    for axes that do not fit.  NaN and infinite values are passed on, and grey values are those of the file.
    """
    with open_image(path, axes=axes, limits=limits) as image:
        return image.read()


@contextmanager
def open_image(
    file: str | Path | BinaryFile, *, axes: str = "", limits: ImageLimits | None = None, name: str = ""
) -> Iterator[OpenImage]:
    """Give an image whose header was read and checked, as `read_image` does it: same arguments, same errors.

    `file` is a path, or a file that is open for reading and can go to any place; then errors call it `name`.  The
    pixels are read when they are asked for, as long as the context lasts.
    """
    with ExitStack() as stack:
        content = stack.enter_context(_content(file, name))
        with readable(content.name):
            image = _checked(content.name, stack.enter_context(_opened(content)), axes, limits)
        yield image


def open_ome_zarr(objects: Objects, *, name: str, axes: str = "", limits: ImageLimits | None = None) -> OpenImage:
    """Return an OME-Zarr image (0.4, 0.5) whose metadata were read and checked, as `open_image` does it.

    `objects` returns an object of the image's folder by its path in it, None where there is none; it is asked for the
    chunks when they are needed.
    """
    with readable(name):
        return _checked(name, open_ngff(name, objects), axes, limits)


def _checked(name: str, source: Source, axes: str, limits: ImageLimits | None) -> OpenImage:
    check_values_of(name, source)
    letters, origin = resolve(name, source.shape, source.axes, axes)
    kept = [i for i, size in enumerate(source.shape) if size != 1 or letters[i] in "YX"]
    layout, sizes = "".join(letters[i] for i in kept), [source.shape[i] for i in kept]
    check_layout(name, layout, sizes)
    remark = "" if origin == "metadata" else f"; its shape {source.shape} was taken for {letters}"
    check_sizes(name, layout, sizes, limits, remark)
    source.check()
    places = {_kind(letters[i]): i for i in kept}
    channels = source.shape[places["C"]] if "C" in places else 1
    return OpenImage(
        axes=letters,
        axes_from=origin,
        shape=source.shape,
        dtype=source.dtype,
        is_rgb=source.is_rgb and "S" in layout,
        name=name,
        channel_names=source.channel_names if len(source.channel_names) == channels else (),
        others=source.others,
        source=source,
        places=places,
    )


def _kind(letter: str) -> str:
    """Return the axis of the layout (T, Y, X, C) that a letter belongs to."""
    return "T" if letter in FRAMES else "C" if letter in CHANNELS else letter


def read_image_seed(path: str | Path) -> npt.NDArray[np.float32]:
    """Read an image file the way `utils.get_image` always did: float32, channels last, nothing rearranged.

    TIFF: the axes of the first series as they are, with one more of length 1 behind them, RGB and one-page stacks
    included.  Others: (rows, columns, channels) with 1 channel for grey, 2 with alpha, 3 for RGB and palettes, 4
    for RGBA and CMYK.  Errors as for `read_image`.
    """
    with _content(path) as content, readable(content.name):
        if _start_of(content).startswith(TIFF_STARTS):
            with open_tiff(content, first=True) as source:
                check_type(content.name, source)
                check_values(content.name, source.shape, SEED_CEILING)
                source.check()
                return source.decode().astype(np.float32)[..., np.newaxis]
        with pillow_image(content) as image:
            check_values(content.name, (image.height, image.width), SEED_CEILING)
            array = np.asarray(image.convert("RGB") if image.mode in ("P", "PA") else image, dtype=np.float32)
    return array[..., np.newaxis] if array.ndim == 2 else array  # noqa: PLR2004 - rows and columns only


@contextmanager
def _content(file: str | Path | BinaryFile, name: str = "") -> Iterator[Content]:
    """Give the bytes of a file; one that was opened here is closed."""
    if isinstance(file, (str, Path)):
        with io.BufferedReader(_Alone(file)) as opened:
            yield Content(opened, name or Path(file).name, Path(file).stat().st_size)
    else:
        yield Content(file, name, file.seek(0, io.SEEK_END))


def _opened(content: Content) -> AbstractContextManager[Source]:
    """Return the reader for what the file is; its name says nothing."""
    start = _start_of(content)
    if start.startswith(TIFF_STARTS):
        return open_tiff(content)
    if start.startswith(b"\x93NUMPY"):
        return open_npy(content)
    if start.startswith(b"PK\x03\x04"):
        return open_npz(content)
    return open_picture(content)


def _start_of(content: Content) -> bytes:
    content.file.seek(0)
    start = content.file.read(8)
    if not start:
        raise JobRejected(f"The image {content.name!r} cannot be read: it is empty")
    return start
