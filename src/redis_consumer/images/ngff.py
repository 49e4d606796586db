"""OME-Zarr images, versions 0.4 and 0.5 (https://ngff.openmicroscopy.org): level 0 of the first multiscale.

An image is a folder of objects, not a file.  Knows no buckets, and of Zarr only what `zarr` beside it gives.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import TYPE_CHECKING, Any

from redis_consumer.errors import JobRejected
from redis_consumer.images.blocks import tiled_blocks
from redis_consumer.images.source import UNKNOWN, Source
from redis_consumer.images.zarr import open_array, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis_consumer.arrays import AnyArray
    from redis_consumer.images.blocks import Block, Plane
    from redis_consumer.images.zarr import Objects, ZarrArray

REQUESTS = 8
"""Under way at once for the chunks of one block."""
KNOWN_AXES = frozenset("TCZYX")
SEVERAL = "bioformats2raw.layout"
"""The attribute of a folder with several images, each in a folder of its own."""


def open_ngff(name: str, objects: Objects) -> Source:
    """Give the image of a folder; JobRejected where there is none that can be read."""
    attributes = _attributes(name, objects)
    images = attributes.get("multiscales") or []
    if not images:
        hint = "its images are folders within, name one, for example the folder 0" if SEVERAL in attributes else ""
        raise JobRejected(f"The image {name!r} cannot be read: it is no OME-Zarr image ({hint or 'no multiscales'})")
    array = open_array(name, objects, str(images[0]["datasets"][0]["path"]))
    letters = _letters(images[0])
    if len(letters) != len(array.shape):
        raise ValueError(f"{len(letters)} axes for {len(array.shape)}")
    labels = tuple(str(channel.get("label") or "") for channel in (attributes.get("omero") or {}).get("channels", []))
    return Source(
        shape=array.shape,
        axes="".join(letters),
        dtype=array.dtype,
        is_rgb=False,
        decode=lambda: _decoded(objects, array),
        blocks=lambda plane: _blocks(objects, array, plane),
        channel_names=labels if any(labels) else (),
        others=len(images) - 1,
    )


def _attributes(name: str, objects: Objects) -> dict[str, Any]:
    """Return the attributes of the folder, whichever the version of Zarr."""
    if group := read_json(objects, "zarr.json"):
        attributes: dict[str, Any] = group.get("attributes") or {}
        return attributes.get("ome") or attributes
    found = read_json(objects, ".zattrs")
    if found is None:
        raise JobRejected(f"The image {name!r} cannot be read: it is no OME-Zarr image (no zarr.json, no .zattrs)")
    return found


def _letters(image: dict[str, Any]) -> list[str]:
    """Return the letter of each axis; before version 0.3 nobody named them, since all images had the same."""
    names = [str(axis["name"] if isinstance(axis, dict) else axis).upper() for axis in image.get("axes", "tczyx")]
    return [name if name in KNOWN_AXES else UNKNOWN for name in names]


def _decoded(objects: Objects, array: ZarrArray) -> AnyArray:
    values = array.filled(*array.shape)
    counts = [math.ceil(size / chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)]
    for place in product(*map(range, counts)):
        part = tuple(slice(i * chunk, (i + 1) * chunk) for i, chunk in zip(place, array.chunks, strict=True))
        _put(values[part], array.chunk(objects, place))
    return values


def _put(target: AnyArray, chunk: AnyArray | None) -> None:
    """Copy as much of a chunk as the array has there."""
    if chunk is not None:
        target[:] = chunk[tuple(map(slice, target.shape))]


def _blocks(objects: Objects, array: ZarrArray, plane: Plane) -> Iterator[Block] | None:
    """Return the blocks of a plane: each chunk that it cuts through is decoded whole."""
    if plane.rows > plane.columns:
        return None
    high, wide = array.chunks[plane.rows], array.chunks[plane.columns]
    inside = tuple(index % chunk for index, chunk in zip(plane.at, array.chunks, strict=True))
    cut_through = plane.within(inside)

    def chunk_at(corner: tuple[int, int]) -> AnyArray | None:
        place = [index // chunk for index, chunk in zip(plane.at, array.chunks, strict=True)]
        place[plane.rows], place[plane.columns] = corner[0] // high, corner[1] // wide
        chunk = array.chunk(objects, place)
        return None if chunk is None else chunk[cut_through]

    def decoded(rows: slice, columns: slice) -> AnyArray:
        values = array.filled(rows.stop - rows.start, columns.stop - columns.start)
        corners = list(product(range(rows.start, rows.stop, high), range(columns.start, columns.stop, wide)))
        with ThreadPoolExecutor(REQUESTS) as pool:
            for (top, left), chunk in zip(corners, pool.map(chunk_at, corners), strict=True):
                y, x = top - rows.start, left - columns.start
                _put(values[y : y + high, x : x + wide], chunk)
        return values

    depth = math.prod(array.chunks) // (high * wide)
    return tiled_blocks((array.shape[plane.rows], array.shape[plane.columns]), (high, wide), depth, decoded)
