"""A table of the objects of a label image: size, place, brightness; as CSV and as Parquet.

One pass over the pixels, whatever the number of objects.  Knows no jobs; arro3, of the extra `outputs`, is imported
with the first Parquet file.
"""

from __future__ import annotations

import csv
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from redis_consumer.arrays import Image, Labels

    Column = npt.NDArray[np.generic]
    Table = dict[str, Column]
    Numbers = npt.NDArray[np.int64]

WIDEST_RANGE = 2**24
"""Of labels, up to which a look-up table is made; it has a few bytes for each."""


def label_table(labels: Labels, image: Image | None = None) -> Table:
    """Return the columns of a table with a row for each object of each frame and feature, in this order.

    `frame`, `feature` (indexes), `feature_name`, `label`, `area_px`, `centroid_y_px` and `centroid_x_px` (the middle
    of the first pixel is 0), `top`, `left`, `bottom`, `right` (px; the last two are one beyond the object), and for
    each channel c of `image` (T, Y, X, C) `mean_intensity_<c>` and `max_intensity_<c>`.  An object is all pixels of a
    label in one frame.  Without intensities if there is no image, or one of another size than the labels.  A pixel
    that is no number makes the intensities of its object so.
    """
    fits = image is not None and image.shape[:3] == labels.array.shape[:3]
    parts = []
    for frame, feature, plane in labels.planes():
        measured = measure(plane, image[frame] if image is not None and fits else None)
        rows = len(measured["label"])
        place: Table = {
            "frame": np.full(rows, frame),
            "feature": np.full(rows, feature),
            "feature_name": np.full(rows, labels.name_of(feature)),
        }
        parts.append(place | measured)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measure(labels: npt.NDArray[np.integer], pixels: Image | None = None) -> Table:
    """Return the columns of `label_table` from `label` on, for one label image (Y, X) and its pixels (Y, X, C)."""
    where = np.flatnonzero(labels)
    ids, index = distinct(labels.ravel()[where])
    rows, columns = np.divmod(where, labels.shape[1])
    area = np.bincount(index, minlength=len(ids))
    top, bottom = _extremes(rows, index, len(ids))
    left, right = _extremes(columns, index, len(ids))
    table: Table = {
        "label": ids,
        "area_px": area,
        "centroid_y_px": _sums(rows, index, len(ids)) / area,
        "centroid_x_px": _sums(columns, index, len(ids)) / area,
        "top": top,
        "left": left,
        "bottom": bottom + 1,
        "right": right + 1,
    }
    for channel in range(0 if pixels is None else pixels.shape[-1]):
        values = pixels[..., channel].ravel()[where].astype(np.float64)  # type: ignore[index] # none without pixels
        most = np.full(len(ids), -np.inf)
        with np.errstate(invalid="ignore"):  # what is no number is passed on
            np.maximum.at(most, index, values)
        table[f"mean_intensity_{channel}"] = _sums(values, index, len(ids)) / area
        table[f"max_intensity_{channel}"] = most
    return table


def distinct(values: npt.NDArray[np.integer]) -> tuple[Numbers, Numbers]:
    """Return the different values, ascending, and for each value its index among them."""
    if not values.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if high - low > WIDEST_RANGE:
        ids, index = np.unique(values, return_inverse=True)
        return ids.astype(np.int64), index
    offset = values.astype(np.int64) - low
    present = np.zeros(high - low + 1, bool)
    present[offset] = True
    return np.flatnonzero(present) + low, (np.cumsum(present) - 1)[offset]


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
