"""Label images as OME-Zarr, version 0.4 of OME-NGFF (https://ngff.openmicroscopy.org/0.4), on Zarr version 2.

0.4 and not 0.5, since napari, QuPath, Fiji and Vizarr all open it.  Written by hand: it is folders, JSON and zlib;
the official library would bring 37 MB and a thread of its own.  Tests read the files with it.  Knows no jobs.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from redis_consumer import __version__
from redis_consumer.processing.planes import SIDE, blocks
from redis_consumer.results.label_images import walk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from redis_consumer.processing.planes import Plane, Rectangle
    from redis_consumer.results.label_images import LabelImages

VERSION = "0.4"
CHUNK = 1024
"""Side of a chunk in pixels."""
SMALLEST = 256
"""A level whose longer side is no longer than this is the last one."""
LEVEL = 1
"""Of zlib: label images shrink a hundredfold at any."""


def write_labels_zarr(
    labels: LabelImages,
    folder: Path,
    *,
    frame_axis: str = "t",
    pixel_size_um: tuple[float, float] | None = None,
) -> None:
    """Write a group of labels: ``<folder>/<name of the feature>/<level>``, each feature a multiscale label image.

    Axes are y and x, before them `frame_axis` (``t`` or ``z``) where there are several frames.  Level 0 is the label
    image, in the smallest integer type that holds it; each further one has every second row and column.
    `pixel_size_um` are the height and width of a pixel.  Chunks of background alone are left out, as Zarr allows.
    No more than a block of a label image is in memory at once.
    """
    frames, height, width, features = labels.shape
    names = [labels.name_of(feature) for feature in range(features)]
    _write_group(folder, {"labels": names})
    levels, rank = _levels(max(height, width)), 3 if frames > 1 else 2
    for feature, name in enumerate(names):
        planes = [plane for _, index, plane in labels.planes() if index == feature]
        _write_group(folder / name, _attributes(name, levels, rank, frame_axis, pixel_size_um))
        dtype = _smallest_type(planes)
        for level in range(levels):
            _write_array(folder / name / str(level), [Thinned(plane, 2**level) for plane in planes], dtype)


def _levels(side: int) -> int:
    """Return the number of levels of an image whose longer side this is."""
    levels = 1
    while side > SMALLEST:
        side, levels = -(-side // 2), levels + 1
    return levels


def _smallest_type(planes: Sequence[Plane]) -> np.dtype[Any]:
    extents = [(values.min(initial=0), values.max(initial=0)) for plane in planes for _, values in walk(plane)]
    lowest, highest = min(low for low, _ in extents), max(high for _, high in extents)
    return np.promote_types(np.min_scalar_type(lowest), np.min_scalar_type(highest))


class Thinned:
    """Every `step`-th row and column of a label plane: a label is a name, so none is ever averaged."""

    def __init__(self, plane: Plane, step: int) -> None:
        self.shape = tuple(-(-size // step) for size in plane.shape)
        self._plane = plane
        self._step = step

    def __getitem__(self, place: Rectangle) -> npt.NDArray[Any]:
        pieces = [[self._piece(rows, columns) for columns in self._spans(place[1])] for rows in self._spans(place[0])]
        return np.block(pieces)

    def _spans(self, span: slice) -> list[slice]:
        """Return a span in pieces of which each is made of no more than a block."""
        side = max(SIDE // self._step, 1)
        return [slice(start, min(start + side, span.stop)) for start in range(span.start, span.stop, side)]

    def _piece(self, rows: slice, columns: slice) -> npt.NDArray[Any]:
        step = self._step
        tall, wide = (slice(span.start * step, (span.stop - 1) * step + 1) for span in (rows, columns))
        return self._plane[tall, wide][::step, ::step].copy()  # a view would keep the whole piece


def _attributes(
    name: str, levels: int, rank: int, frame_axis: str, pixel_size_um: tuple[float, float] | None
) -> dict[str, object]:
    unit = {"unit": "micrometer"} if pixel_size_um else {}
    axes: list[dict[str, str]] = [{"name": axis, "type": "space", **unit} for axis in "yx"]
    if rank > len(axes):
        axes.insert(0, {"name": frame_axis, "type": "time" if frame_axis == "t" else "space"})
    height, width = pixel_size_um or (1.0, 1.0)
    datasets = []
    for level in range(levels):
        # Pixel (0, 0) of each level is pixel (0, 0) of the first: no translation.
        scale = [1.0] * (rank - 2) + [height * 2**level, width * 2**level]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    return {
        "multiscales": [
            {
                "version": VERSION,
                "name": name,
                "axes": axes,
                "datasets": datasets,
                "type": "nearest",
                "metadata": {"method": "every second row and column", "redis_consumer": __version__},
            }
        ],
        "image-label": {"version": VERSION},
    }


def _write_group(folder: Path, attributes: Mapping[str, object]) -> None:
    folder.mkdir(parents=True)
    _write_json(folder / ".zgroup", {"zarr_format": 2})
    _write_json(folder / ".zattrs", attributes)


def _write_array(folder: Path, frames: Sequence[Plane], dtype: np.dtype[Any]) -> None:
    """Write planes as one array of Zarr version 2, a chunk to a frame and `CHUNK` x `CHUNK` pixels."""
    size = tuple(frames[0].shape)
    several = len(frames) > 1
    chunk = tuple(min(side, CHUNK) for side in size)
    header = {
        "zarr_format": 2,
        "shape": (len(frames), *size) if several else size,
        "chunks": (1, *chunk) if several else chunk,
        "dtype": dtype.newbyteorder("<").str,
        "compressor": {"id": "zlib", "level": LEVEL},
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }
    folder.mkdir(parents=True)
    _write_json(folder / ".zarray", header)
    for number, plane in enumerate(frames):
        for rows, columns in blocks(size, CHUNK):
            part = plane[rows, columns]
            if part.any():
                place = rows.start // CHUNK, columns.start // CHUNK
                path = folder.joinpath(*map(str, (number, *place) if several else place))
                _write_chunk(path, part.astype(dtype.newbyteorder("<")), chunk)


def _write_chunk(path: Path, part: npt.NDArray[Any], chunk: tuple[int, ...]) -> None:
    """Write one chunk, filled up to its full size where the array ends before it."""
    whole = np.zeros(chunk, part.dtype)
    whole[tuple(map(slice, part.shape))] = part
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zlib.compress(whole.tobytes(), LEVEL))


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
