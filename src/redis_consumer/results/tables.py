"""A table of the objects of a label image: size, place, brightness; as CSV and as Parquet.

One pass over the labels and one over each channel, block by block, whatever the number of objects.  Knows no jobs;
arro3, of the extra `outputs`, is imported with the first Parquet file.
"""

from __future__ import annotations

import csv
from io import BytesIO
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from redis_consumer.errors import MissingExtra
from redis_consumer.results.label_images import distinct, walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from redis_consumer.arrays import Image
    from redis_consumer.processing.planes import Plane, Rectangle
    from redis_consumer.results.label_images import LabelImages

    Column = npt.NDArray[np.generic]
    Table = dict[str, Column]
    Numbers = npt.NDArray[np.int64]


class BlockedImage(Protocol):
    """An image that is read block by block."""

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Frames, rows, columns and channels."""

    def blocks(self, frame: int, channel: int, /) -> Iterator[tuple[slice, slice, npt.NDArray[Any]]]:
        """Yield pieces that cover one plane: rows, columns and the values there."""


def label_table(labels: LabelImages, image: Image | BlockedImage | None = None) -> Table:
    """Return the columns of a table with a row for each object of each frame and feature, in this order.

    `frame`, `feature` (indexes), `feature_name`, `label`, `area_px`, `centroid_y_px` and `centroid_x_px` (the middle
    of the first pixel is 0), `top`, `left`, `bottom`, `right` (px; the last two are one beyond the object), and for
    each channel c of `image` (T, Y, X, C) `mean_intensity_<c>` and `max_intensity_<c>`.  An object is all pixels of a
    label in one frame.  Without intensities if there is no image, or one of another size than the labels.  A pixel
    that is no number makes the intensities of its object so.
    """
    parts = []
    for frame, features in groupby(labels.planes(), itemgetter(0)):
        indexes, planes = zip(*((feature, plane) for _, feature, plane in features), strict=True)
        measured = [measure(plane) for plane in planes]
        if image is not None and sizes_of(image)[:3] == labels.shape[:3]:
            _measure_intensities(measured, planes, image, frame)
        for feature, table in zip(indexes, measured, strict=True):
            rows = len(table["label"])
            place: Table = {
                "frame": np.full(rows, frame),
                "feature": np.full(rows, feature),
                "feature_name": np.full(rows, labels.name_of(feature)),
            }
            parts.append(place | table)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measure(labels: Plane) -> Table:
    """Return the columns of `label_table` from `label` to `right`, for one label image (Y, X)."""
    parts = [_measured(values, place) for place, values in walk(labels)]
    found, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    areas, rows_sum, columns_sum, top, left, bottom, right = columns
    ids, index = distinct(found)
    area = _sums(areas, index, len(ids)).astype(np.int64)
    return {
        "label": ids,
        "area_px": area,
        "centroid_y_px": _sums(rows_sum, index, len(ids)) / area,
        "centroid_x_px": _sums(columns_sum, index, len(ids)) / area,
        "top": _extremes(top, index, len(ids))[0],
        "left": _extremes(left, index, len(ids))[0],
        "bottom": _extremes(bottom, index, len(ids))[1],
        "right": _extremes(right, index, len(ids))[1],
    }


def _measured(labels: npt.NDArray[np.integer], place: Rectangle) -> tuple[npt.NDArray[Any], ...]:
    """Return for each label of a block: itself, area, sums of rows and of columns, top, left, bottom, right."""
    where = np.flatnonzero(labels)
    ids, index = distinct(labels.ravel()[where])
    rows, columns = np.divmod(where, labels.shape[1])
    rows += place[0].start
    columns += place[1].start
    top, bottom = _extremes(rows, index, len(ids))
    left, right = _extremes(columns, index, len(ids))
    area = np.bincount(index, minlength=len(ids))
    sums = _sums(rows, index, len(ids)), _sums(columns, index, len(ids))
    return ids, area, *sums, top, left, bottom + 1, right + 1


def _measure_intensities(
    tables: Sequence[Table], labels: Sequence[Plane], image: Image | BlockedImage, frame: int
) -> None:
    """Add the intensities of one frame to the tables of its label images."""
    for channel in range(sizes_of(image)[3]):
        intensities = [_Intensities(plane, table) for plane, table in zip(labels, tables, strict=True)]
        for rows, columns, values in _blocks(image, frame, channel):
            for one in intensities:
                one.add((rows, columns), values)
        for one, table in zip(intensities, tables, strict=True):
            table[f"mean_intensity_{channel}"] = one.mean()
            table[f"max_intensity_{channel}"] = one.most


class _Intensities:
    """Of one channel over each object of a label image."""

    def __init__(self, labels: Plane, table: Table) -> None:
        self.most = np.full(len(table["label"]), -np.inf)
        self._total = np.zeros(len(table["label"]))
        self._labels = labels
        self._table = table

    def mean(self) -> npt.NDArray[np.float64]:
        """Return the mean over each object."""
        return self._total / self._table["area_px"].astype(np.float64)

    def add(self, place: Rectangle, values: npt.NDArray[Any]) -> None:
        """Take the values of a block."""
        labels = self._labels[place]
        where = np.flatnonzero(labels)
        ids, index = distinct(labels.ravel()[where])
        # By way of float32, which is what an image in memory has.
        inside = values.ravel()[where].astype(np.float32, copy=False).astype(np.float64)
        objects = np.searchsorted(self._table["label"], ids)
        self._total[objects] += _sums(inside, index, len(ids))
        with np.errstate(invalid="ignore"):  # what is no number is passed on
            np.maximum.at(self.most, objects[index], inside)


def sizes_of(image: Image | BlockedImage) -> tuple[int, ...]:
    """Return frames, rows, columns and channels."""
    return image.shape if isinstance(image, np.ndarray) else image.sizes


def _blocks(image: Image | BlockedImage, frame: int, channel: int) -> Iterator[tuple[slice, slice, npt.NDArray[Any]]]:
    if isinstance(image, np.ndarray):
        yield from ((*place, values) for place, values in walk(image[frame, ..., channel]))
    else:
        yield from image.blocks(frame, channel)


def write_csv(table: Mapping[str, Column], path: Path) -> None:
    """Write a table as CSV (RFC 4180): a header, numbers with all their digits."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*(column.tolist() for column in table.values()), strict=True))


def write_parquet(table: Mapping[str, Column], path: Path) -> None:
    """Write a table as Parquet: int64, float64 and text.  MissingExtra where arro3 is not installed."""
    try:
        from arro3.core import Array, DataType, Table as ArrowTable
        from arro3.io import write_parquet as write
    except ImportError as error:
        raise MissingExtra("A table as Parquet", "outputs") from error
    columns = [
        Array(column.tolist(), DataType.string()) if column.dtype.kind == "U" else Array.from_numpy(column)
        for column in table.values()
    ]
    content = BytesIO()
    write(ArrowTable.from_arrays(columns, names=list(table)), content, compression="snappy")
    path.write_bytes(content.getvalue())  # Python's own errors tell a full disk


def _extremes(values: Numbers, index: Numbers, count: int) -> tuple[Numbers, Numbers]:
    least, most = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(least, index, values)
    np.maximum.at(most, index, values)
    return least, most


def _sums(values: Column, index: Numbers, count: int) -> npt.NDArray[np.float64]:
    # Of nothing at all numpy counts whole numbers.
    return np.bincount(index, weights=values, minlength=count).astype(np.float64, copy=False)
