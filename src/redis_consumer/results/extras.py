"""What may stand beside a result's zip, never inside: a table of which type of result has which files.

Adding one is a function in a file of this package, a line in `WRITERS`, and a word of the setting `EXTRA_OUTPUTS`.
Knows no jobs and no buckets.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from redis_consumer.arrays import Labels, Tracks
from redis_consumer.errors import MissingExtra
from redis_consumer.results import writing
from redis_consumer.results.ctc import save_ctc
from redis_consumer.results.geojson import write_geojson
from redis_consumer.results.label_images import LabelPlanes
from redis_consumer.results.ngff import write_labels_zarr
from redis_consumer.results.tables import label_table, write_csv, write_parquet
from redis_consumer.results.trk import save_trk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from redis_consumer.arrays import Image
    from redis_consumer.results.label_images import LabelImages
    from redis_consumer.results.tables import BlockedImage
    from redis_consumer.settings.schema import ExtraOutput

    Writer = Callable[[Any, "Seen", Path], None]

PROVENANCE = "provenance"
"""The one that every result has: its writer is the job's, which knows what was done."""
FILES: Mapping[ExtraOutput, str] = {
    "labels-zarr": "labels.zarr",
    "geojson": "outlines.geojson",
    "table-csv": "objects.csv",
    "table-parquet": "objects.parquet",
    "tracks-ctc": "01_RES",
    "tracks-trk": "tracks.trk",
    "provenance": "provenance.json",
}
"""What each is called beside the others of its job; `labels.zarr` and `01_RES` are folders."""
PACKAGES: Mapping[ExtraOutput, str] = {"table-parquet": "arro3"}
"""Those that need a package of the extra `outputs`."""


@dataclass(frozen=True, eq=False)
class Seen:
    """The image that the result is of."""

    pixels: Image | BlockedImage
    """Every channel of the file: float32, (T, Y, X, C), or what has them by blocks, where labels are `LabelPlanes`."""
    frame_axis: str = "t"
    """What its frames are: ``t``, times or entries of a batch, or ``z``, depths."""
    pixel_size_um: tuple[float, float] | None = None
    """Height and width, where the file says so."""


def _zarr(labels: LabelImages, seen: Seen, path: Path) -> None:
    write_labels_zarr(labels, path, frame_axis=seen.frame_axis, pixel_size_um=seen.pixel_size_um)


def _geojson(labels: LabelImages, seen: Seen, path: Path) -> None:
    write_geojson(labels, path, frame_axis=seen.frame_axis)


def _csv(labels: LabelImages, seen: Seen, path: Path) -> None:
    write_csv(label_table(labels, seen.pixels), path)


def _parquet(labels: LabelImages, seen: Seen, path: Path) -> None:
    write_parquet(label_table(labels, seen.pixels), path)


def _of_labels(write: Writer) -> Writer:
    """Return the writer for tracks of one for labels: a cell has the same label in all frames."""

    def write_tracks(tracks: Tracks, seen: Seen, path: Path) -> None:
        write(Labels(tracks.array[..., None], ("cells",)), seen, path)

    return write_tracks


def _ctc(tracks: Tracks, _: Seen, path: Path) -> None:
    save_ctc(tracks, path)


def _trk(tracks: Tracks, seen: Seen, path: Path) -> None:
    save_trk(cast("Image", seen.pixels), tracks, path)  # tracks are in memory, and so is their movie


_OF_LABELS: Mapping[ExtraOutput, Writer] = {
    "labels-zarr": _zarr,
    "geojson": _geojson,
    "table-csv": _csv,
    "table-parquet": _parquet,
}
WRITERS: Mapping[type, Mapping[ExtraOutput, Writer]] = {
    Labels: _OF_LABELS,
    LabelPlanes: _OF_LABELS,
    Tracks: {
        **{kind: _of_labels(write) for kind, write in _OF_LABELS.items()},
        "tracks-ctc": _ctc,
        "tracks-trk": _trk,
    },
}
"""By the type of the result.  Any other array has none: nobody knows what its values mean."""


def write_extras(result: object, seen: Seen, wanted: Iterable[ExtraOutput], folder: Path) -> dict[ExtraOutput, Path]:
    """Write those of the `wanted` that the result has; return the file, or folder, of each.

    RetryJob if the disk is full.
    """
    writers = WRITERS.get(type(result), {})
    written: dict[ExtraOutput, Path] = {}
    for kind in wanted:
        if kind in writers:
            with writing(folder, FILES[kind]) as path:
                writers[kind](result, seen, path)
            written[kind] = path
    return written


def check_packages(wanted: Iterable[ExtraOutput]) -> None:
    """Raise MissingExtra for one that needs a package which is not installed."""
    for kind in wanted:
        if kind in PACKAGES and find_spec(PACKAGES[kind]) is None:
            raise MissingExtra(f"EXTRA_OUTPUTS with {kind!r}", "outputs")
