"""Track files (.trk): a tar with the raw movie, its labels and their lineage.  Only the two arrays are read here."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import tarfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from redis_consumer.errors import ConsumerError, JobRejected

if TYPE_CHECKING:
    from redis_consumer.arrays import AnyArray

MEMBERS = {"raw.npy": "X", "tracked.npy": "y"}
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

    JobRejected if it is no such file.  Nothing is unpacked to disk, no link is followed, and no pickle is loaded.
    """
    path = Path(path)
    try:
        with _opened(path) as file, tarfile.open(fileobj=cast("IO[bytes]", _Pieces(file)), mode="r:") as archive:
            return _arrays(path, archive)
    except (ConsumerError, MemoryError, FileNotFoundError):
        raise
    except Exception as error:
        kind = type(error).__name__
        raise JobRejected(
            f"The track file {path.name!r} cannot be read: it is damaged or no track file ({kind})"
        ) from error


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        opener: Any = OPENERS.get(file.read(2), Path.open)
    opened: IO[bytes] = opener(path, "rb")
    return opened


def _arrays(path: Path, archive: tarfile.TarFile) -> dict[str, AnyArray]:
    """Return the arrays in the order of `MEMBERS`; what stands behind both is not looked at."""
    found: dict[str, AnyArray] = {}
    for number, member in enumerate(archive):
        if number >= MOST_MEMBERS:
            raise JobRejected(f"The track file {path.name!r} has more than {MOST_MEMBERS} members")
        if member.name in MEMBERS and member.name not in found:
            found[member.name] = _array(path, archive, member)
        if len(found) == len(MEMBERS):
            return {key: found[name] for name, key in MEMBERS.items()}
    missing = next(name for name in MEMBERS if name not in found)
    raise JobRejected(f"The track file {path.name!r} has no member {missing!r}")


def _array(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> AnyArray:
    file = archive.extractfile(member) if member.isreg() and not member.issparse() else None
    if file is None:
        raise JobRejected(f"The track file {path.name!r} has a member {member.name!r} that is no plain file")
    with file:
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
