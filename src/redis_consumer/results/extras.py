"""What may stand beside a result's zip, never inside: a table of which type of result has which files.

Adding one is a function in a file of this package, a line in `WRITERS`, and a word of the setting `EXTRA_OUTPUTS`.
Knows no jobs and no buckets.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from redis_consumer.arrays import Labels
from redis_consumer.errors import MissingExtra
from redis_consumer.results import writing
from redis_consumer.results.geojson import write_geojson
from redis_consumer.results.ngff import write_labels_zarr
from redis_consumer.results.tables import label_table, write_csv, write_parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from redis_consumer.arrays import Image
    from redis_consumer.settings.schema import ExtraOutput

    Writer = Callable[[Any, "Seen", Path], None]

PROVENANCE = "provenance"
"""The one that every result has: its writer is the job's, which knows what was done."""
FILES: Mapping[ExtraOutput, str] = {
    "labels-zarr": "labels.zarr",
    "geojson": "outlines.geojson",
    "table-csv": "objects.csv",
    "table-parquet": "objects.parquet",
    "provenance": "provenance.json",
}
"""What each is called beside the others of its job; `labels.zarr` is a folder."""
PACKAGES: Mapping[ExtraOutput, str] = {"table-parquet": "arro3"}
"""Those that need a package of the extra `outputs`."""


@dataclass(frozen=True, eq=False)
class Seen:
    """The image that the result is of."""

    pixels: Image
    """float32, (T, Y, X, C): every channel of the file."""
    frame_axis: str = "t"
    """What its frames are: ``t``, times or entries of a batch, or ``z``, depths."""
    pixel_size_um: tuple[float, float] | None = None
    """Height and width, where the file says so."""


def _zarr(labels: Labels, seen: Seen, path: Path) -> None:
    write_labels_zarr(labels, path, frame_axis=seen.frame_axis, pixel_size_um=seen.pixel_size_um)


def _geojson(labels: Labels, seen: Seen, path: Path) -> None:
    write_geojson(labels, path, frame_axis=seen.frame_axis)


def _csv(labels: Labels, seen: Seen, path: Path) -> None:
    write_csv(label_table(labels, seen.pixels), path)


def _parquet(labels: Labels, seen: Seen, path: Path) -> None:
    write_parquet(label_table(labels, seen.pixels), path)


WRITERS: Mapping[type, Mapping[ExtraOutput, Writer]] = {
    Labels: {"labels-zarr": _zarr, "geojson": _geojson, "table-csv": _csv, "table-parquet": _parquet},
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
