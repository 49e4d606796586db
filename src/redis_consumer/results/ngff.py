"""Label images as OME-Zarr, version 0.4 of OME-NGFF (https://ngff.openmicroscopy.org/0.4), on Zarr version 2.

0.4 and not 0.5, since napari, QuPath, Fiji and Vizarr all open it.  Written by hand: it is folders, JSON and zlib;
the official library would bring 37 MB and a thread of its own.  Tests read the files with it.  Knows no jobs.
"""

from __future__ import annotations

import json
import zlib
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from redis_consumer.arrays import Labels

    Stack = npt.NDArray[np.integer]

VERSION = "0.4"
CHUNK = 1024
"""Side of a chunk in pixels."""
SMALLEST = 256
"""A level whose longer side is no longer than this is the last one."""
LEVEL = 1
"""Of zlib: label images shrink a hundredfold at any."""


def write_labels_zarr(
    labels: Labels,
    folder: Path,
    *,
    frame_axis: str = "t",
    pixel_size_um: tuple[float, float] | None = None,
) -> None:
    """Write a group of labels: ``<folder>/<name of the feature>/<level>``, each feature a multiscale label image.

    Axes are y and x, before them `frame_axis` (``t`` or ``z``) where there are several frames.  Level 0 is the label
    image, in the smallest integer type that holds it; each further one has every second row and column.
    `pixel_size_um` are the height and width of a pixel.  Chunks of background alone are left out, as Zarr allows.
    """
    names = [labels.name_of(feature) for feature in range(labels.array.shape[-1])]
    _write_group(folder, {"labels": names})
    for feature, name in enumerate(names):
        stack = labels.array[..., feature]
        levels = list(_pyramid(stack if len(stack) > 1 else stack[0]))
        _write_group(folder / name, _attributes(name, len(levels), levels[0].ndim, frame_axis, pixel_size_um))
        for level, array in enumerate(levels):
            _write_array(folder / name / str(level), array)


def _pyramid(stack: Stack) -> Iterator[Stack]:
    """Yield the levels of a label image, (Y, X) or (T, Y, X): a label is a name, so none is ever averaged."""
    lowest, highest = stack.min(initial=0), stack.max(initial=0)
    level = stack.astype(np.promote_types(np.min_scalar_type(lowest), np.min_scalar_type(highest)))
    yield level
    while max(level.shape[-2:]) > SMALLEST:
        level = level[..., ::2, ::2]
        yield level


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


def _write_array(folder: Path, array: Stack) -> None:
    """Write an array as Zarr version 2, a chunk to a frame and `CHUNK` x `CHUNK` pixels."""
    chunks = (*[1] * (array.ndim - 2), *(min(size, CHUNK) for size in array.shape[-2:]))
    header = {
        "zarr_format": 2,
        "shape": array.shape,
        "chunks": chunks,
        "dtype": array.dtype.newbyteorder("<").str,
        "compressor": {"id": "zlib", "level": LEVEL},
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }
    folder.mkdir(parents=True)
    _write_json(folder / ".zarray", header)
    counts = [-(-size // chunk) for size, chunk in zip(array.shape, chunks, strict=True)]
    for place in product(*map(range, counts)):
        corner = [index * chunk for index, chunk in zip(place, chunks, strict=True)]
        part = array[tuple(slice(at, at + chunk) for at, chunk in zip(corner, chunks, strict=True))]
        if part.any():
            _write_chunk(folder.joinpath(*map(str, place)), part, chunks)


def _write_chunk(path: Path, part: Stack, chunks: tuple[int, ...]) -> None:
    """Write one chunk, filled up to its full size where the array ends before it."""
    whole = np.zeros(chunks, part.dtype.newbyteorder("<"))
    whole[tuple(map(slice, part.shape))] = part
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zlib.compress(whole.tobytes(), LEVEL))


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
