"""TIFF in all its kinds, through tifffile: OME, ImageJ, LSM, STK, BigTIFF, tiled, pyramids, every usual codec.

Of several images in a file the largest one is read (the first of equals), of a pyramid its first level.  tifffile is
imported when the first file is opened.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from redis_consumer.errors import JobRejected
from redis_consumer.images.blocks import Plane
from redis_consumer.images.embedded import DECLARED_PIXELS
from redis_consumer.images.ome import channel_names, files, promised_planes
from redis_consumer.images.source import Source
from redis_consumer.images.tiff_planes import READ_BYTES, check_embedded, check_values, plane_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis_consumer.arrays import AnyArray
    from redis_consumer.images.blocks import Block
    from redis_consumer.images.source import Content

Colormap = npt.NDArray[np.uint16]
"""A palette, (3, n)."""

PALETTE = 3
RGB_LIKE = (2, 6)  # RGB, and YCbCr, which tifffile decodes to RGB where the codec is one of pictures
YCBCR = 6
FOREIGN_COLORS = (5, 8, 9, 10, 32803, 32845)
"""Inks (CMYK), the three kinds of CIE L*a*b*, the mosaic of a camera, CIE Log2(L): samples that are no grey values."""
ALPHA = (1, 2)  # associated and unassociated; other extra samples are channels
UNCOMPRESSED = 1
MOST_PAGES = 2**16
"""Each costs a millisecond and a kilobyte before the first pixel is read."""
_UNBOUNDED = frozenset({22610, 34887, 34934, 50002, 52546})
"""LERC, JPEG XR, JPEG XL: rare in TIFFs, and nobody can say how large they are before they are decoded."""


@contextmanager
def open_tiff(content: Content, *, first: bool = False) -> Iterator[Source]:
    """Give the largest image of the file, or its `first`; JobRejected where it promises data that are not there."""
    import tifffile

    quiet = logging.getLogger("tifffile")
    if quiet.level == logging.NOTSET:
        quiet.setLevel(logging.CRITICAL)  # what matters of its warnings is told to the user by us
    with tifffile.TiffFile(cast("IO[bytes]", content.file), name=content.name, offset=0) as file:
        _check_pages(content.name, file)
        images = [series for series in file.series if not (series.keyframe.is_reduced or series.keyframe.is_mask)]
        images = images or file.series
        if not images:
            raise JobRejected(f"The image {content.name!r} cannot be read: the TIFF holds no image")
        series = file.series[0] if first else max(images, key=_plane_pixels)
        number = next(i for i, other in enumerate(file.series) if other is series)
        page, ome = series.keyframe, (file.ome_metadata or "") if file.is_ome else ""
        painted = page.photometric == PALETTE and not file.is_imagej and not is_ramp(_colormap(page))
        colormap = _colormap(page) if painted else None
        samples = _kept_samples(page, series.axes)
        yield Source(
            shape=_declared_shape(series, samples, painted=painted),
            axes=series.axes + ("S" if painted else ""),
            dtype=np.dtype(series.dtype),
            is_rgb=painted or (page.photometric in RGB_LIKE and len(samples or ()) >= 3),  # noqa: PLR2004 - R, G, B
            decode=lambda: _decoded(content, series, samples, colormap),
            check=lambda: _check(content, series, files(ome)),
            blocks=lambda plane: _blocks(content, series, samples, colormap, plane),
            channel_names=channel_names(ome, number, len(file.series)),
            foreign_colors=_foreign_colors(page),
            others=len(images) - 1,
        )


def _plane_pixels(series: Any) -> int:
    return math.prod(_sizes(series, "YX"))


def _sizes(series: Any, letters: str) -> list[int]:
    return [size for axis, size in zip(series.axes, series.shape, strict=True) if axis in letters]


def _foreign_colors(page: Any) -> str:
    """Return the name of the colours where they are neither grey values nor RGB, nor decoded to these."""
    is_raw_ycbcr = page.photometric == YCBCR and page.compression not in DECLARED_PIXELS
    return page.photometric.name if is_raw_ycbcr or page.photometric in FOREIGN_COLORS else ""


def _check_pages(name: str, file: Any) -> None:
    """Refuse more pages, real or promised, than it is sensible to list."""
    pages = len(file.pages)
    if pages and file.is_ome:
        pages = max(pages, promised_planes(file.ome_metadata or "", file.pages.first.size))
    if pages > MOST_PAGES:
        raise JobRejected(f"The image {name!r} has {pages} pages: allowed are {MOST_PAGES}")


def _colormap(page: Any) -> Colormap:
    """Return the palette, (3, n); a palette image without one is damaged."""
    if page.colormap is None:
        raise ValueError("no palette")
    return np.asarray(page.colormap, dtype=np.uint16)


def is_ramp(colormap: Colormap) -> bool:
    """Return whether a palette (3, n) only paints intensities: black to one hue, in proportion to the index.

    ImageJ and microscopes store grey images with such a table; their indices are the measured values.
    """
    steps = np.linspace(0, 1, colormap.shape[1])
    top = colormap[:, -1:].astype(np.float64)
    return bool(top.max() > 0) and bool(np.all(np.abs(colormap - top * steps) <= 0.01 * top.max()))


def _kept_samples(page: Any, axes: str) -> list[int] | None:
    """Return the samples that are not alpha; None where there is no axis of samples."""
    if "S" not in axes:
        return None
    first_extra = page.samplesperpixel - len(page.extrasamples)
    alpha = {first_extra + i for i, kind in enumerate(page.extrasamples) if kind in ALPHA}
    return [i for i in range(page.samplesperpixel) if i not in alpha]


def _declared_shape(series: Any, samples: list[int] | None, *, painted: bool) -> tuple[int, ...]:
    sizes = [len(samples) if a == "S" and samples else n for a, n in zip(series.axes, series.shape, strict=True)]
    return (*sizes, 3) if painted else tuple(sizes)


def _decoded(content: Content, series: Any, samples: list[int] | None, colormap: Colormap | None) -> AnyArray:
    _check_pictures(content, series)
    array: AnyArray = series.asarray(buffersize=READ_BYTES)
    if array.shape != tuple(series.shape):
        # A damaged header can make tifffile return an empty array, without an error.
        raise ValueError(f"decoded shape {array.shape}, declared {series.shape}")
    if samples is not None and len(samples) < array.shape[series.axes.index("S")]:
        array = array.take(samples, axis=series.axes.index("S"))
    if colormap is not None:
        array = np.moveaxis(colormap[:, array.astype(np.intp)], 0, -1)
    return array


def _blocks(
    content: Content, series: Any, samples: list[int] | None, colormap: Colormap | None, plane: Plane
) -> Iterator[Block] | None:
    """Return the blocks of a plane of what `_decoded` returns."""
    at = list(plane.at[: len(series.axes)])
    if samples is not None:
        at[series.axes.index("S")] = samples[at[series.axes.index("S")]]
    found = plane_blocks(content, series, Plane(tuple(at), plane.rows, plane.columns))
    if found is None or colormap is None:
        return found
    colors = colormap[plane.at[-1]]
    return ((rows, columns, colors[values.astype(np.intp)]) for rows, columns, values in found)


def _check(content: Content, series: Any, parts: int) -> None:
    _check_extent(content, series, parts)
    _check_segments(content, series)


def _check_extent(content: Content, series: Any, parts: int) -> None:
    """Refuse what is not wholly in the file, before anything of the declared size is allocated.

    `parts` are the files that the metadata distribute the image over.
    """
    if series.dataoffset is not None:
        missing = series.dataoffset + series.nbytes > content.size
    else:
        missing = any(page is None or _reaches_beyond(page, content.size) for page in series.pages)
    if missing and parts > 1:
        raise JobRejected(
            f"The image {content.name!r} is one of {parts} files of an OME-TIFF: save it as a single file"
        )
    if missing:
        raise JobRejected(f"The image {content.name!r} cannot be read: parts of it are missing, the file is cut short")


def _reaches_beyond(page: Any, size: int) -> bool:
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    declared = page.keyframe.nbytes if page.keyframe.compression == UNCOMPRESSED else 1
    stored = sum(page.databytecounts)
    is_sub_byte = page.keyframe.bitspersample % 8 != 0
    return max(ends, default=0) > size or stored < (1 if is_sub_byte else declared)


def _check_segments(content: Content, series: Any) -> None:
    """Refuse codecs that may write any amount, and tiles that are far larger than the image."""
    page = series.keyframe
    is_known = page.compression in DECLARED_PIXELS
    if page.compression in _UNBOUNDED or (page.jpegheader is not None and not is_known):
        raise JobRejected(f"The image {content.name!r} is compressed with {page.compression.name}, which is not read")
    check_values(content.name, page, math.prod(page.tile) * page.samplesperpixel if page.is_tiled else 0)


def _check_pictures(content: Content, series: Any) -> None:
    """Refuse strips and tiles that hold pictures far larger than the image, before any is decoded."""
    if series.keyframe.compression in DECLARED_PIXELS:
        for page in series.pages:
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
                content.file.seek(offset)
                if count:
                    check_embedded(content.name, series.keyframe, content.file.read(count))
