"""Track files (.trk): a tar with the raw movie, its labels and their lineage.  Only the two arrays are read here."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.errors import JobRejected

if TYPE_CHECKING:
    from redis_consumer.arrays import AnyArray

MEMBERS = {"X": "raw.npy", "y": "tracked.npy"}


def read_track_file(path: str | Path) -> dict[str, AnyArray]:
    """Return ``{"X": raw movie, "y": labels}``, each (T, Y, X, C), of a tar of any compression.

    JobRejected if it is no such file.  Nothing is unpacked to disk, and no pickle is loaded.
    """
    path = Path(path)
    try:
        with tarfile.open(path) as archive:
            return {key: _array(path, archive, member) for key, member in MEMBERS.items()}
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        kind = type(error).__name__
        raise JobRejected(
            f"The track file {path.name!r} cannot be read: it is damaged or no track file ({kind})"
        ) from error


def _array(path: Path, archive: tarfile.TarFile, member: str) -> AnyArray:
    try:
        file = archive.extractfile(member)
    except KeyError:
        file = None
    if file is None:
        raise JobRejected(f"The track file {path.name!r} has no member {member!r}")
    with file:
        array: AnyArray = np.load(io.BytesIO(file.read()), allow_pickle=False)
    return array
