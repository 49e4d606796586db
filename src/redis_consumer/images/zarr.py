"""One array of Zarr, version 2 or 3 (https://zarr-specs.readthedocs.io): its header, and its chunks one at a time.

Read by hand, as `redis_consumer.results.ngff` writes it by hand: the official library would bring 37 MB and a thread of
its own.  An array is a folder of objects; a chunk that is not there holds the fill value.  Knows no buckets: the caller
gives a function that reads an object.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from redis_consumer.errors import JobRejected

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis_consumer.arrays import AnyArray

Objects = Callable[[str, int], bytes | None]
"""Returns an object by its path below a folder, None where there is none.

JobRejected where it has more than so many bytes.  Called by several threads.
"""
MOST_JSON_BYTES = 2**22
MOST_SPARE = 2**24
"""Values that a chunk may have beyond what the array has."""
MOST_CHUNKS = 2**18
"""Each costs a request."""
CODECS = ("blosc", "gzip", "lz4", "zlib", "zstd")
CHECKSUM = "crc32c"
CHECKSUM_BYTES = 4


def read_json(objects: Objects, path: str) -> dict[str, Any] | None:
    """Return the JSON object that stands there, None where none does."""
    content = objects(path, MOST_JSON_BYTES)
    if content is None:
        return None
    found = json.loads(content)
    if not isinstance(found, dict):
        raise TypeError(f"{path} is no JSON object")
    return found


@dataclass(frozen=True, slots=True)
class ZarrArray:
    """An array as its header describes it."""

    image: str
    """What errors call it."""
    path: str
    """Its folder."""
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    stored: np.dtype[np.generic]
    """Type of the values, in the byte order of the chunks."""
    fill: object
    codecs: tuple[str, ...]
    """In the order of the writer."""
    prefix: str
    """What stands in the name of a chunk before its place."""
    separator: str
    order: Literal["C", "F"] = "C"

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the values, in the byte order of the machine."""
        return self.stored.newbyteorder("=")

    def filled(self, *shape: int) -> AnyArray:
        """Return an array of the fill value."""
        return np.full(shape, self.fill, self.dtype)

    def chunk(self, objects: Objects, place: Sequence[int]) -> AnyArray | None:
        """Return a whole chunk, also where the array ends within it; None for one that was left out."""
        name = f"{self.path}/{self.prefix}{self.separator.join(map(str, place))}"
        size = math.prod(self.chunks) * self.stored.itemsize
        content = objects(name, 2 * size + MOST_JSON_BYTES)
        if content is None:
            return None
        for codec in reversed(self.codecs):
            content = _undone(codec, content, size + CHECKSUM_BYTES)
        if len(content) != size:
            raise JobRejected(f"The image {self.image!r} cannot be read: its chunk {name!r} is damaged")
        return np.frombuffer(content, self.stored).reshape(self.chunks, order=self.order)


def _undone(codec: str, content: bytes, most: int) -> bytes:
    """Return what was encoded; an error where that is more than so many bytes."""
    import imagecodecs

    if codec == CHECKSUM:
        return content[:-CHECKSUM_BYTES]
    options = {"header": True} if codec == "lz4" else {}
    decoded: bytes = getattr(imagecodecs, f"{codec}_decode")(content, out=most, **options)
    return decoded


def open_array(image: str, objects: Objects, path: str) -> ZarrArray:
    """Read the header of an array; JobRejected where there is none that can be read."""
    if header := read_json(objects, f"{path}/zarr.json"):
        array = _version_3(image, path, header)
    elif header := read_json(objects, f"{path}/.zarray"):
        array = _version_2(image, path, header)
    else:
        raise JobRejected(f"The image {image!r} cannot be read: its array {path!r} is missing")
    _check(array)
    return array


def _version_2(image: str, path: str, header: Mapping[str, Any]) -> ZarrArray:
    encoders = [*(header.get("filters") or []), header.get("compressor")]
    return ZarrArray(
        image=image,
        path=path,
        shape=tuple(header["shape"]),
        chunks=tuple(header["chunks"]),
        stored=np.dtype(header["dtype"]),
        fill=header.get("fill_value") or 0,
        codecs=tuple(str(encoder["id"]) for encoder in encoders if encoder),
        prefix="",
        separator=header.get("dimension_separator", "."),
        order="F" if header.get("order") == "F" else "C",
    )


def _version_3(image: str, path: str, header: Mapping[str, Any]) -> ZarrArray:
    codecs = {str(codec["name"]): codec.get("configuration", {}) for codec in header["codecs"]}
    is_little = codecs.pop("bytes", {}).get("endian", "little") == "little"
    naming = header.get("chunk_key_encoding", {"name": "default"})
    is_default = naming["name"] == "default"
    separator = naming.get("configuration", {}).get("separator", "/" if is_default else ".")
    return ZarrArray(
        image=image,
        path=path,
        shape=tuple(header["shape"]),
        chunks=tuple(header["chunk_grid"]["configuration"]["chunk_shape"]),
        stored=np.dtype(header["data_type"]).newbyteorder("<" if is_little else ">"),
        fill=header.get("fill_value") or 0,
        codecs=tuple(codecs),
        prefix=f"c{separator}" if is_default else "",
        separator=separator,
    )


def _check(array: ZarrArray) -> None:
    if unknown := [codec for codec in array.codecs if codec not in (*CODECS, CHECKSUM)]:
        known = ", ".join(CODECS)
        raise JobRejected(f"The image {array.image!r} has chunks stored with {unknown[0]!r}: allowed are {known}")
    if len(array.chunks) != len(array.shape) or min(array.chunks, default=1) < 1:
        raise ValueError(f"chunks of {array.chunks}")
    values, allowed = math.prod(array.chunks), max(math.prod(array.shape), MOST_SPARE)
    if values > allowed:
        raise JobRejected(f"The image {array.image!r} has chunks of {values} values: allowed are {allowed}")
    chunks = math.prod(math.ceil(size / chunk) for size, chunk in zip(array.shape, array.chunks, strict=True))
    if chunks > MOST_CHUNKS:
        raise JobRejected(f"The image {array.image!r} has {chunks} chunks: allowed are {MOST_CHUNKS}")
