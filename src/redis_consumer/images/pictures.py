"""PNG, JPEG and the few others that Pillow reads without starting a program; NPY and NPZ through numpy.

Pillow and imagecodecs are imported when the first picture is opened.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from redis_consumer.errors import JobRejected
from redis_consumer.images.blocks import flat_blocks, read_values
from redis_consumer.images.gif import frame_pixels
from redis_consumer.images.source import UNKNOWN, Content, Source
from redis_consumer.zips import METHODS, open_zip

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterator

    from redis_consumer.arrays import AnyArray
    from redis_consumer.images.blocks import Block, Plane

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
"""Pillow's others are documents, fonts' bitmaps and EPS, which starts Ghostscript."""
KEPT = {"1": "1", "L": "L", "I;16": "I;16", "I;16B": "I;16B", "I": "I", "F": "F", "LA": "L", "La": "L"}
"""Pillow's modes of one channel, and what they are converted to; every other one becomes RGB."""
MOST_OF_GIF = 2**26
"""Pixels of a frame, which is painted when the file is opened."""
MOST_ARRAYS = 1000
"""In an NPZ."""
DEEP_PNG = 16
SAMPLES_OF_PNG = {0: 1, 2: 3, 4: 1, 6: 3}
"""Colour type of a PNG without a palette: samples that are not alpha."""


@contextmanager
def open_picture(content: Content) -> Iterator[Source]:
    """Give a picture as grey (Y, X) or RGB (Y, X, S); alpha is dropped, palettes and CMYK become RGB."""
    if deep := _deep_png_samples(content):
        content.file.seek(16)
        width, height = (int.from_bytes(content.file.read(4)) for _ in range(2))
        shape = (height, width) if deep == 1 else (height, width, deep)
        yield Source(shape, "YXS"[: len(shape)], np.dtype(np.uint16), deep > 1, lambda: _deep_png(content, deep))
        return
    with pillow_image(content) as image:
        mode = _kept_mode(image)
        shape = (image.height, image.width, 3) if mode == "RGB" else (image.height, image.width)
        dtype = np.dtype({"1": "bool", "I": "int32", "F": "float32"}.get(mode, "uint16" if ";16" in mode else "uint8"))
        yield Source(shape, "YXS"[: len(shape)], dtype, mode == "RGB", lambda: _converted(image, mode))


def _converted(image: Any, mode: str) -> AnyArray:
    image.info.pop("transparency", None)  # Pillow warns where a palette has it, and it is dropped all the same
    array: AnyArray = np.asarray(image.convert(mode))
    return array


def _kept_mode(image: Any) -> str:
    if image.mode == "P" and image.palette:
        # Asked for its palette, the image would decode its pixels first, however many there are.
        colors = np.reshape(_with_palette(image.palette).getpalette("RGB"), (-1, 3))
        return "L" if np.array_equal(colors.min(axis=1), colors.max(axis=1)) else "RGB"
    return KEPT.get(image.mode, "RGB")


def _with_palette(palette: Any) -> Any:
    """Return an image of one pixel that has this palette."""
    from PIL import Image

    image = Image.new("P", (1, 1))
    image.putpalette(palette)
    return image


@contextmanager
def pillow_image(content: Content) -> Iterator[Any]:
    """Give Pillow's image, its header read; JobRejected if it is none of `FORMATS`."""
    from PIL import Image, UnidentifiedImageError

    # Pillow's own guard warns on stderr before we can say anything; ours reads the same header.
    Image.MAX_IMAGE_PIXELS = None
    _check_gif(content)
    content.file.seek(0)
    try:
        opened = Image.open(cast("IO[bytes]", content.file), formats=FORMATS)
    except UnidentifiedImageError as error:
        known = ", ".join(("TIFF", *FORMATS, "NPY", "NPZ"))
        raise JobRejected(f"The image {content.name!r} cannot be read: allowed are {known} files") from error
    with opened as image:
        yield image


def _check_gif(content: Content) -> None:
    """Refuse a GIF that opening alone would blow up."""
    pixels = frame_pixels(content.file) if _start_of(content, 4) == b"GIF8" and not content.file.seek(0) else 0
    if pixels > MOST_OF_GIF:
        raise JobRejected(f"The image {content.name!r} has {pixels} pixels: allowed are {MOST_OF_GIF} in a GIF")


def _start_of(content: Content, size: int) -> bytes:
    content.file.seek(0)
    return content.file.read(size)


def _deep_png_samples(content: Content) -> int:
    """Return the samples of a PNG of 16 bits, which Pillow cuts down to 8 where it has colours; else 0."""
    header = _start_of(content, 26)
    is_deep = header.startswith(b"\x89PNG") and header[24:25] == bytes([DEEP_PNG])
    return SAMPLES_OF_PNG.get(header[25], 0) if is_deep and len(header) > 25 else 0  # noqa: PLR2004 - the colour type


def _deep_png(content: Content, samples: int) -> AnyArray:
    import imagecodecs

    array: AnyArray = imagecodecs.png_decode(_start_of(content, content.size))
    array = np.atleast_3d(array)[..., :samples]
    return array[..., 0] if samples == 1 else array


@contextmanager
def open_npy(content: Content) -> Iterator[Source]:
    """Give the array of an NPY file; objects (pickles) are refused."""
    yield _npy_source(content)


@contextmanager
def open_npz(content: Content) -> Iterator[Source]:
    """Give the one array of an NPZ file, or its array ``X``."""
    with open_zip(content.file, MOST_ARRAYS) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        chosen = "X.npy" if "X.npy" in names else names[0] if len(names) == 1 else ""
        if not chosen:
            found = f"an archive with {len(names)} arrays"
            raise JobRejected(f"The image {content.name!r} is {found}: expected is one array, or one named 'X'")
        info = archive.getinfo(chosen)
        if info.compress_type not in METHODS:
            raise JobRejected(f"The image {content.name!r} cannot be read: allowed are arrays stored or deflated")
        with archive.open(info) as file:
            yield replace(
                _npy_source(Content(cast("zipfile.ZipExtFile", file), content.name, info.file_size)),
                blocks=lambda _: None,
            )


def _npy_source(content: Content) -> Source:
    content.file.seek(0)
    version = np.lib.format.read_magic(content.file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(content.file)
    if dtype.hasobject:
        raise JobRejected(f"The image {content.name!r} cannot be read: it holds Python objects, allowed are numbers")
    start = content.file.tell()

    def check() -> None:
        if start + math.prod(shape) * dtype.itemsize > content.size:
            raise JobRejected(f"The image {content.name!r} cannot be read: the file is cut short")

    def decode() -> AnyArray:
        values = read_values(content.file, start, dtype, math.prod(shape))
        return values.reshape(shape, order="F" if by_columns else "C")

    def blocks(plane: Plane) -> Iterator[Block] | None:
        steps = plane.steps(shape)
        return flat_blocks(content.file, start, dtype, steps) if steps.is_by_rows and not by_columns else None

    return Source(shape, UNKNOWN * len(shape), dtype, is_rgb=False, decode=decode, check=check, blocks=blocks)
