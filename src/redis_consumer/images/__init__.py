"""Image files in: one file to one array of the layout (T, Y, X, C), with what was found out on the way.

Everything that can be told from the header is checked before a pixel is decoded.  Knows no jobs and no buckets;
the libraries that decode are imported with the first file that needs them.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.arrays import laid_out
from redis_consumer.errors import ConsumerError, JobRejected, kind_of
from redis_consumer.images.axes import CHANNELS, FRAMES, Origin, resolve
from redis_consumer.images.pictures import open_npy, open_npz, open_picture, pillow_image
from redis_consumer.images.tiff import open_tiff

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray, Image
    from redis_consumer.images.source import Source

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CEILING = 2**31
"""Values (frames x rows x columns x channels) that no file may declare, whatever the limits."""
SEED_CEILING = 2**28
"""The same where nobody gave limits: 60 frames of 2048 x 2048 pixels, 1 GB as float32, fit in."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest image that is taken; the names of the settings are those of the Kiosk."""

    height: int = 2048
    width: int = 2048
    frames: int = 60
    pixels: int = 2**29
    """Values in all: frames x rows x columns x channels."""


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image as it was read."""

    stored: AnyArray
    """The values, (T, Y, X, C), as they were decoded."""
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

    @cached_property
    def pixels(self) -> Image:
        """float32, (T, Y, X, C)."""
        return np.ascontiguousarray(self.stored, dtype=np.float32)

    def channels(self, indexes: Sequence[int]) -> Image:
        """Return these channels, float32, (T, Y, X, C); the others cost no copy."""
        everything = list(indexes) == list(range(self.stored.shape[-1]))
        return np.ascontiguousarray(self.stored if everything else self.stored[..., list(indexes)], dtype=np.float32)

    @property
    def is_color(self) -> bool:
        """Whether it is a picture in colours: RGB, and not one grey value three times."""
        return self.is_rgb and any(
            not np.array_equal(self.stored[..., 0], self.stored[..., c]) for c in range(1, self.stored.shape[-1])
        )


def read_image(path: str | Path, *, axes: str = "", limits: ImageLimits | None = None) -> ImageFile:
    """Read an image file: TIFF of every common kind, PNG, JPEG, BMP, GIF, WebP, JPEG 2000, PPM, NPY, NPZ.

    `axes` are the job's letters (`dimension_order`); `redis_consumer.images.axes` says who wins where.  JobRejected,
    in one line with the file's base name, for what is empty, damaged, cut short, too large or of an unknown kind, and
    for axes that do not fit.  NaN and infinite values are passed on, and grey values are those of the file.
    """
    path = Path(path)
    with _readable(path), _opened(path) as source:
        _check_values_of(path.name, source)
        letters, origin = resolve(path.name, source.shape, source.axes, axes)
        kept = [i for i, size in enumerate(source.shape) if size > 1 or letters[i] in "YX"]
        layout, sizes = "".join(letters[i] for i in kept), [source.shape[i] for i in kept]
        _check_layout(path.name, layout, sizes)
        remark = "" if origin == "metadata" else f"; its shape {source.shape} was taken for {letters}"
        _check(path.name, layout, sizes, limits, remark)
        stored = laid_out(source.decode().reshape(sizes), layout)
    is_rgb = source.is_rgb and "S" in layout
    names = source.channel_names if len(source.channel_names) == stored.shape[-1] else ()
    return ImageFile(stored, letters, origin, source.shape, source.dtype, is_rgb, path.name, names, source.others)


def read_image_seed(path: str | Path) -> npt.NDArray[np.float32]:
    """Read an image file the way `utils.get_image` always did: float32, channels last, nothing rearranged.

    TIFF: the axes of the first series as they are, with one more of length 1 behind them, RGB and one-page stacks
    included.  Others: (rows, columns, channels) with 1 channel for grey, 2 with alpha, 3 for RGB and palettes, 4
    for RGBA and CMYK.  Errors as for `read_image`.
    """
    path = Path(path)
    with _readable(path):
        if _start_of(path).startswith(TIFF_STARTS):
            with open_tiff(path, first=True) as source:
                _check_type(path.name, source)
                _check_values(path.name, source.shape, SEED_CEILING)
                return source.decode().astype(np.float32)[..., np.newaxis]
        with pillow_image(path) as image:
            _check_values(path.name, (image.height, image.width), SEED_CEILING)
            array = np.asarray(image.convert("RGB") if image.mode in ("P", "PA") else image, dtype=np.float32)
    return array[..., np.newaxis] if array.ndim == 2 else array  # noqa: PLR2004 - rows and columns only


def _opened(path: Path) -> AbstractContextManager[Source]:
    """Return the reader for what the file is; its name says nothing."""
    start = _start_of(path)
    if start.startswith(TIFF_STARTS):
        return open_tiff(path)
    if start.startswith(b"\x93NUMPY"):
        return open_npy(path)
    if start.startswith(b"PK\x03\x04"):
        return open_npz(path)
    return open_picture(path)


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise JobRejected(f"The image {path.name!r} cannot be read: it is empty")
    return start


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Make one clear line of whatever a decoder throws at a damaged file; a file that is not there is a bug."""
    try:
        yield
    except (ConsumerError, MemoryError, FileNotFoundError):
        raise
    except Exception as error:
        fault = f"it is damaged or no image{kind_of(error)}"
        raise JobRejected(f"The image {path.name!r} cannot be read: {fault}") from error


def _check_values_of(name: str, source: Source) -> None:
    """Reject values that are no intensities."""
    _check_type(name, source)
    if source.foreign_colors:
        raise JobRejected(
            f"The image {name!r} has colours of the kind {source.foreign_colors}: allowed are grey values and RGB"
        )


def _check_type(name: str, source: Source) -> None:
    if source.dtype.kind not in "buif":
        raise JobRejected(f"The image {name!r} has values of type {source.dtype}: allowed are real numbers")


def _check_layout(name: str, layout: str, sizes: Sequence[int]) -> None:
    """Reject two axes of frames, or channels of colours."""
    if not set("YX") <= set(layout):
        raise JobRejected(f"The image {name!r} cannot be read: it is damaged, nothing says how large it is")
    kinds = (set(layout) & set(FRAMES), set(layout) & set(CHANNELS))
    if any(len(kind) > 1 for kind in kinds) or len(set(layout)) != len(layout):
        times = " x ".join(map(str, sizes))
        raise JobRejected(
            f"The image {name!r} has the axes {layout} ({times}): allowed are Y and X, one of T, Z, B and one of C, S"
        )


def _check(name: str, layout: str, sizes: Sequence[int], limits: ImageLimits | None, remark: str) -> None:
    """Reject what the header declares, where it is too large; `layout` names `sizes`."""
    if limits:
        axes = dict(zip(layout, sizes, strict=True))
        height, width = axes["Y"], axes["X"]
        if height > limits.height or width > limits.width:
            raise JobRejected(
                f"The image {name!r} has {height} x {width} pixels: "
                f"allowed are {limits.height} x {limits.width} (MAX_IMAGE_HEIGHT, MAX_IMAGE_WIDTH){remark}"
            )
        frames = math.prod(size for axis, size in axes.items() if axis in FRAMES)
        if frames > limits.frames:
            allowed = f"allowed are {limits.frames} (MAX_IMAGE_FRAMES){remark}"
            raise JobRejected(f"The image {name!r} has {frames} frames: {allowed}")
    _check_values(name, sizes, limits.pixels if limits else CEILING)


def _check_values(name: str, sizes: Sequence[int], allowed: int) -> None:
    values = math.prod(sizes)
    if not values:
        raise JobRejected(f"The image {name!r} cannot be read: it declares no pixels, shape {tuple(sizes)}")
    if values > allowed:
        times = " x ".join(map(str, sizes))
        raise JobRejected(f"The image {name!r} has {values} values ({times}): allowed are {allowed}")
