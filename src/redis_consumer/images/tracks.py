"""Track files (.trk, .trks): a tar with the raw movie, its labels and their lineage."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import math
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from redis_consumer.errors import ConsumerError, JobRejected, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from redis_consumer.arrays import AnyArray

MEMBERS = {"raw.npy": "X", "tracked.npy": "y"}
LINEAGES = ("lineages.json", "lineage.json")
"""A list of lineages, for the movies of a .trks; or the one of a .trk."""
MOST_LINEAGE_BYTES = 2**26
MOST_MEMBERS = 1000
MOST_VALUES = 2**28
"""In one array: 60 frames of 2048 x 2048 pixels fit in."""
MOST_PIECE_BYTES = 2**20
"""Read at once: the names and attributes of a member may claim any length."""
MOST_BYTES = 2**33
"""Unpacked, as far as the arrays are looked for."""
OPENERS = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}


class _Pieces:
    """A stream that gives neither more than MOST_PIECE_BYTES at once, nor anything beyond MOST_BYTES."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell, self.seekable = file.tell, file.seekable

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_PIECE_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, position: int) -> int:
        if position > MOST_BYTES:
            raise tarfile.ReadError(f"a member at {position}")
        return self._file.seek(position)


def read_track_file(path: str | Path) -> dict[str, AnyArray]:
    """Return ``{"X": raw movie, "y": labels}``, each (T, Y, X, C), of a tar, plain or with gzip, bzip2 or xz.

    A .trks has several movies, and so an axis in front.  JobRejected if it is no such file.  Nothing is unpacked to
    disk, no link is followed, and no pickle is loaded.
    """
    path = Path(path)
    with _archive(path) as archive:
        return _arrays(path, archive)


def read_parents(path: str | Path) -> list[dict[int, int]]:
    """Return the parent of each daughter, for each movie of a track file.  JobRejected as for `read_track_file`."""
    path = Path(path)
    with _archive(path) as archive:
        for member in _members(path, archive):
            if member.name in LINEAGES:
                lineages = json.loads(_plain(path, archive, member).read(MOST_LINEAGE_BYTES))
                return [_parents(path, lineage) for lineage in (lineages if isinstance(lineages, list) else [lineages])]
    raise JobRejected(f"The track file {path.name!r} has no member {LINEAGES[-1]!r}")


def _parents(path: Path, lineage: Mapping[str, Mapping[str, Any]]) -> dict[int, int]:
    """Return who is whose parent: both sides say it, and must agree."""
    pairs = {(int(label), int(cell["parent"])) for label, cell in lineage.items() if cell["parent"] is not None}
    pairs |= {(int(daughter), int(label)) for label, cell in lineage.items() for daughter in cell["daughters"]}
    parents = dict(sorted(pairs))
    if len(parents) < len(pairs):
        raise JobRejected(f"The track file {path.name!r} has a cell with two parents")
    return parents


@contextmanager
def _archive(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with _opened(path) as file, tarfile.open(fileobj=cast("IO[bytes]", _Pieces(file)), mode="r:") as archive:
            yield archive
    except (ConsumerError, MemoryError, FileNotFoundError):
        raise
    except Exception as error:
        fault = f"it is damaged or no track file{kind_of(error)}"
        raise JobRejected(f"The track file {path.name!r} cannot be read: {fault}") from error


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        opener: Any = OPENERS.get(file.read(2), Path.open)
    opened: IO[bytes] = opener(path, "rb")
    return opened


def _members(path: Path, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for number, member in enumerate(archive):
        if number >= MOST_MEMBERS:
            raise JobRejected(f"The track file {path.name!r} has more than {MOST_MEMBERS} members")
        yield member


def _arrays(path: Path, archive: tarfile.TarFile) -> dict[str, AnyArray]:
    """Return the arrays in the order of `MEMBERS`; what stands behind both is not looked at."""
    found: dict[str, AnyArray] = {}
    for member in _members(path, archive):
        if member.name in MEMBERS and member.name not in found:
            found[member.name] = _array(path, archive, member)
        if len(found) == len(MEMBERS):
            return {key: found[name] for name, key in MEMBERS.items()}
    missing = next(name for name in MEMBERS if name not in found)
    raise JobRejected(f"The track file {path.name!r} has no member {missing!r}")


def _plain(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member) if member.isreg() and not member.issparse() else None
    if file is None:
        raise JobRejected(f"The track file {path.name!r} has a member {member.name!r} that is no plain file")
    return file


def _array(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> AnyArray:
    with _plain(path, archive, member) as file:
        pieces = cast("IO[bytes]", _Pieces(file))
        version = np.lib.format.read_magic(pieces)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(pieces)
        values = math.prod(shape)
        if values > MOST_VALUES:
            raise JobRejected(f"The track file {path.name!r} has {values} values: allowed are {MOST_VALUES}")
        if file.tell() + values * dtype.itemsize > member.size:
            raise JobRejected(f"The track file {path.name!r} cannot be read: {member.name!r} is cut short")
        file.seek(0)
        array: AnyArray = np.lib.format.read_array(pieces, allow_pickle=False)
    return array
