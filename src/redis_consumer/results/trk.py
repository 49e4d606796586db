"""Track files (.trk, .trks): a movie, its labels and their lineage in one tar, as DeepCell Label opens them.

The same tracks give the same bytes: no times, owners or names of the worker are in them.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.arrays import Tracks
from redis_consumer.errors import JobRejected
from redis_consumer.images.tracks import LINEAGES, read_parents, read_track_file
from redis_consumer.results import writing
from redis_consumer.results.tracks import lineage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray

OF_SEVERAL, OF_ONE = LINEAGES
MOVIE_AXES = 4


def save_trk(movie: AnyArray, tracks: Tracks, path: str | Path) -> None:
    """Write a movie (T, Y, X, C) and its tracks.  RetryJob if the disk is full."""
    _save(Path(path), (OF_ONE, lineage(tracks)), movie, tracks.array[..., None])


def save_trks(movies: Sequence[tuple[AnyArray, Tracks]], path: str | Path) -> None:
    """Write several movies of one shape (T, Y, X, C), each with its tracks.  RetryJob if the disk is full."""
    lineages = [lineage(tracks) for _, tracks in movies]
    labels = np.stack([tracks.array[..., None] for _, tracks in movies])
    _save(Path(path), (OF_SEVERAL, lineages), np.stack([movie for movie, _ in movies]), labels)


def load_trk(path: str | Path) -> list[tuple[AnyArray, Tracks]]:
    """Return the movies (T, Y, X, C) of a .trk or .trks, each with its tracks.

    JobRejected if it is no such file, or its labels and its lineage contradict each other.
    """
    movies, parents = load_movies(path), read_parents(path)
    with _consistent(path):
        return [(movie, Tracks(labels, p)) for (movie, labels), p in zip(movies, parents, strict=True)]


def load_movies(path: str | Path) -> list[tuple[AnyArray, npt.NDArray[np.int32]]]:
    """Return the movies (T, Y, X, C) of a .trk or .trks, each with its labels (T, Y, X), whatever its lineage says.

    JobRejected if it is no such file, or a movie and its labels do not fit.
    """
    arrays = read_track_file(path)
    several = arrays["X"].ndim > MOVIE_AXES
    movies, labels = (arrays[key] if several else arrays[key][None] for key in ("X", "y"))
    with _consistent(path):
        return [(movie, _labels(movie, theirs)) for movie, theirs in zip(movies, labels, strict=True)]


@contextmanager
def _consistent(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, IndexError) as error:
        raise JobRejected(f"The track file {Path(path).name!r} contradicts itself: {error}") from error


def _labels(movie: AnyArray, labels: AnyArray) -> npt.NDArray[np.int32]:
    if movie.ndim != MOVIE_AXES or movie.shape[:3] != labels.shape[:3]:
        raise ValueError(f"the movie has shape {movie.shape}, the labels {labels.shape}")
    return _int32(labels[..., 0])


def _int32(labels: AnyArray) -> npt.NDArray[np.int32]:
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype}")
    result = labels.astype(np.int32)
    if not np.array_equal(result, labels):
        raise ValueError("labels are beyond 32 bits")
    return result


def _save(path: Path, lineages: tuple[str, object], movie: AnyArray, labels: AnyArray) -> None:
    """Write the three members, in the order in which the Kiosk's own files have them."""
    with (
        writing(path.parent, path.name),
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        name, content = lineages
        _add(archive, name, json.dumps(content).encode())
        _add(archive, "raw.npy", _npy(movie))
        _add(archive, "tracked.npy", _npy(labels))


def _npy(array: AnyArray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
