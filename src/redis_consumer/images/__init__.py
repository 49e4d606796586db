"""Image files in: one file to one array of the layout (T, Y, X, C), with what was found out on the way.

Everything that can be told from the header is checked before a pixel is decoded.  Knows no jobs and no buckets;
the libraries that decode are imported with the first file that needs them.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.arrays import as_image
from redis_consumer.errors import ConsumerError, JobRejected
from redis_consumer.images.axes import FRAMES, Origin, resolve
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

    pixels: Image
    """float32, (T, Y, X, C)."""
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

    @property
    def is_color(self) -> bool:
        """Whether it is a picture in colours: RGB, and not one grey value three times."""
        first = self.pixels[..., :1]
        return self.is_rgb and not np.array_equal(self.pixels, np.broadcast_to(first, self.pixels.shape))


def read_image(path: str | Path, *, axes: str = "", limits: ImageLimits | None = None) -> ImageFile:
    """Read an image file: TIFF of every common kind, PNG, JPEG, BMP, GIF, WebP, JPEG 2000, PPM, NPY, NPZ.

    `axes` are the job's letters (`dimension_order`), used where the file does not name its axes; the first of X
    and Y are the rows.  JobRejected, in one line with the file's base name, for what is empty, damaged, cut short,
    too large or of an unknown kind.  NaN and infinite values are passed on.
    """
    path = Path(path)
    with _readable(path), _opened(path) as source:
        letters, origin = resolve(path.name, source.shape, source.axes, axes)
        kept = [i for i, size in enumerate(source.shape) if size > 1 or letters[i] in "YX"]
        layout, sizes = "".join(letters[i] for i in kept), [source.shape[i] for i in kept]
        _check(path.name, source, layout, sizes, limits)
        pixels = _laid_out(path.name, source.decode().reshape(sizes), layout)
    return ImageFile(pixels, letters, origin, source.shape, source.dtype, source.is_rgb)


def read_image_seed(path: str | Path) -> npt.NDArray[np.float32]:
    """Read an image file the way `utils.get_image` always did: float32, channels last, nothing rearranged.

    TIFF: the axes of the first series as they are, with one more of length 1 behind them, RGB and one-page stacks
    included.  Others: (rows, columns, channels) with 1 channel for grey, 2 with alpha, 3 for RGB and palettes, 4
    for RGBA and CMYK.  Errors as for `read_image`.
    """
    path = Path(path)
    with _readable(path):
        if _start_of(path).startswith(TIFF_STARTS):
            with open_tiff(path) as source:
                _check(path.name, source, "", source.shape, None)
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
        kind = type(error).__name__
        raise JobRejected(f"The image {path.name!r} cannot be read: it is damaged or no image ({kind})") from error


def _check(name: str, source: Source, layout: str, sizes: Sequence[int], limits: ImageLimits | None) -> None:
    """Reject what the header declares, where it is too large or no numbers at all; `layout` names `sizes`."""
    if source.dtype.kind not in "buif":
        raise JobRejected(f"The image {name!r} has values of type {source.dtype}: allowed are real numbers")
    if limits:
        axes = dict(zip(layout, sizes, strict=True))
        height, width = axes.get("Y", 1), axes.get("X", 1)
        if height > limits.height or width > limits.width:
            raise JobRejected(
                f"The image {name!r} has {height} x {width} pixels: "
                f"allowed are {limits.height} x {limits.width} (MAX_IMAGE_HEIGHT, MAX_IMAGE_WIDTH)"
            )
        frames = math.prod(size for axis, size in axes.items() if axis in FRAMES)
        if frames > limits.frames:
            raise JobRejected(f"The image {name!r} has {frames} frames: allowed are {limits.frames} (MAX_IMAGE_FRAMES)")
    _check_values(name, sizes, limits.pixels if limits else CEILING)


def _check_values(name: str, sizes: Sequence[int], allowed: int) -> None:
    values = math.prod(sizes)
    if not values:
        raise JobRejected(f"The image {name!r} cannot be read: it declares no pixels, shape {tuple(sizes)}")
    if values > allowed:
        times = " x ".join(map(str, sizes))
        raise JobRejected(f"The image {name!r} has {values} values ({times}): allowed are {allowed}")


def _laid_out(name: str, array: AnyArray, layout: str) -> Image:
    try:
        return as_image(array, layout)
    except ValueError as error:
        raise JobRejected(f"The image {name!r}: {error}") from error
