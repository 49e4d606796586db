"""The old names for consumers written against the original: each a line or two that points to its real home.

Nothing else in this package uses them.  New consumers read `redis_consumer.images`, `results` and `archives`.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from redis_consumer import archives, results
from redis_consumer.images import read_image_seed
from redis_consumer.images.tracks import read_track_file
from redis_consumer.processing.old import cut_square, pad_reflected, rescale_nearest
from redis_consumer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray

    StrPath = str | os.PathLike[str]


@contextmanager
def get_tempdir() -> Iterator[str]:
    """Give the absolute path of a new folder, removed afterwards.

    The original also made it the working directory; here lanes are threads and share theirs, so build paths
    from the one that is given.
    """
    with tempfile.TemporaryDirectory(prefix="redis-consumer-") as folder:
        yield str(Path(folder).resolve())


def get_image(filepath: StrPath) -> npt.NDArray[np.float32]:
    """Read an image as float32 with a trailing channel axis: (Y, X, C), multi-page TIFFs (T, Y, X, 1)."""
    return read_image_seed(Path(filepath))


def save_numpy_array(
    arr: AnyArray | Sequence[AnyArray], name: str = "", subdir: str = "", output_dir: StrPath | None = None
) -> list[str]:
    """Write each channel as ``<output_dir>/<subdir>/<name>_feature_<channel>.tif``, float32; return the paths.

    What `grpc_image` gives can be saved as it is: a list of outputs too, their channels counted on.
    """
    return results.save_channels(arr, name, Path(output_dir or Path.cwd(), results.safe_name(subdir)))


def zip_files(files: Iterable[StrPath], dest: StrPath | None = None, prefix: str | None = None) -> str:
    """Zip `files` into ``<dest>/[<prefix>_]<uuid4>.zip``, named relative to `dest`; return the archive's path.

    `dest` defaults to the working directory.  A file from elsewhere is put at the archive's root.
    """
    base = Path(dest or Path.cwd()).resolve()
    name = "_".join(part for part in (prefix, str(uuid.uuid4())) if part)
    paths = [Path(file).resolve() for file in files]
    names = [path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name for path in paths]
    return archives.zip_files(zip(paths, names, strict=True), base / f"{name}.zip")


def rescale(image: AnyArray, scale: float, channel_axis: int = -1) -> AnyArray:
    """Resize by the nearest pixel; see `redis_consumer.processing.old.rescale_nearest`."""
    return rescale_nearest(image, scale, channel_axis)


def iter_image_archive(zip_path: StrPath, destination: StrPath) -> Iterator[str]:
    """Unpack a zip into `destination`, safely, and yield the paths of the files that have an extension.

    The limits are those of the environment, `MAX_ARCHIVE_BYTES` and its like.
    """
    limits = archives.archive_limits(Settings.from_environ(os.environ))
    yield from (str(path) for path in archives.iter_archive(Path(zip_path), Path(destination), limits) if path.suffix)


def get_image_files_from_dir(fname: StrPath, destination: StrPath | None = None) -> Iterator[str]:
    """Yield the files of a zip, unpacked into `destination` (default: beside it), or `fname` if it is no zip."""
    if Path(fname).suffix.lower() == ".zip":
        yield from iter_image_archive(fname, destination or Path(fname).resolve().parent)
    else:
        yield str(fname)


def load_track_file(filename: StrPath) -> dict[str, AnyArray]:
    """Return ``{"X": raw, "y": tracked}`` of a .trk file."""
    return read_track_file(Path(filename))


def strip_bucket_path(path: str) -> str:
    """Return `path` without slashes at its ends."""
    return path.strip("/")


def pad_image(image: AnyArray, field: int) -> AnyArray:
    """Mirror rows and columns outwards by half a receptive field."""
    return pad_reflected(image, field)


def reshape_matrix(
    X: AnyArray,  # noqa: N803 - the old name of the argument
    y: AnyArray,
    reshape_size: int = 256,
    is_channels_first: bool = False,  # noqa: FBT001, FBT002 - the old signature
) -> tuple[AnyArray, AnyArray]:
    """Cut images and labels, (B, Y, X, C), into square tiles without overlap, the last ones end-aligned."""
    return tuple(cut_square(a, reshape_size, channels_first=is_channels_first) for a in (X, y))  # type: ignore[return-value] # two in, two out
