"""What the Kiosk's tracking models see of the cells of a movie: looks, shape, place and neighbours.

The figures, quirks included, are those that the models were trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy  # loads its parts at their first use

from redis_consumer.processing import resize

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.arrays import Image

    Integers = npt.NDArray[np.integer]
    Floats = npt.NDArray[np.float32]

CropMode = Literal["resize", "fixed"]


@dataclass(frozen=True, slots=True)
class Crops:
    """How a cell is cut out of its frame."""

    side: int = 32
    """Rows and columns of a crop."""
    mode: CropMode = "resize"
    """`resize`: the cell's box, resized.  `fixed`: a window around the centroid, zero beyond the border."""
    norm: bool = True
    """In fixed crops: only the cell itself, with mean 0 and deviation 1."""

    def __post_init__(self) -> None:
        if self.mode == "fixed" and self.side % 2:
            raise ValueError(f"a fixed crop has an even side, not {self.side}")


@dataclass(frozen=True, eq=False)
class Features:
    """The n cells of one frame, by ascending id."""

    ids: npt.NDArray[np.intp]
    appearances: Floats
    """(n, side, side, C)."""
    morphologies: Floats
    """(n, 3): area and perimeter in pixels, eccentricity."""
    centroids: Floats
    """(n, 2): row and column, both with `side` added where crops are fixed, as the models know it."""


def features_of(image: Image, labels: Integers, crops: Crops) -> Features:
    """Return the features of the cells in one frame, (Y, X, C) and (Y, X)."""
    from redis_consumer.scikit import ski

    fixed = crops.mode == "fixed"
    margin = crops.side if fixed else 0
    image, labels = np.pad(image, ((margin, margin), (margin, margin), (0, 0))), np.pad(labels, margin)
    cells = ski.measure.regionprops(labels)
    looks = [(_window if fixed else _box)(image, labels, cell, crops) for cell in cells]
    return Features(
        ids=np.array([cell.label for cell in cells], np.intp),
        appearances=np.array(looks, np.float32).reshape(-1, crops.side, crops.side, image.shape[-1]),
        morphologies=_rows([(cell.area, cell.perimeter, cell.eccentricity) for cell in cells], 3),
        centroids=_rows([cell.centroid for cell in cells], 2),
    )


def padded(rows: Floats, count: int) -> Floats:
    """Return `rows` with rows of zeros behind them, `count` in all."""
    return np.pad(rows, ((0, count - len(rows)), *((0, 0),) * (rows.ndim - 1)))


def adjacency(centroids: Floats, distance: float) -> Floats:
    """Return who is nearer than `distance` to whom, (n, n), each cell to itself too, normalized by the degrees."""
    return normalized(scipy.spatial.distance.cdist(centroids, centroids) < distance)


def normalized(adjacent: npt.NDArray[np.generic]) -> Floats:
    """Return D^(-1/2) A D^(-1/2), D the degrees plus 0.00001 (Kipf and Welling 2017), of matrices (..., n, n)."""
    matrix = adjacent.astype(np.float32)
    root = 1 / np.sqrt(matrix.sum(axis=-1) + np.float32(1e-5))
    weights: Floats = matrix * root[..., :, None] * root[..., None, :]
    return weights


def _rows(rows: list[tuple[float, ...]], columns: int) -> Floats:
    return np.array(rows, np.float32).reshape(-1, columns)


def _box(image: Image, _: Integers, cell: Any, crops: Crops) -> Floats:
    """Return the cell's box, whatever else it shows, as a square."""
    crop = image[cell.slice]
    if crop.shape[0] == crop.shape[-1] == 1:
        crop = crop.swapaxes(0, 1)  # one row of one channel was taken for a column when the models were trained
    return np.asarray(resize(crop, (crops.side, crops.side)), np.float32)


def _window(image: Image, labels: Integers, cell: Any, crops: Crops) -> Floats:
    """Return the window around the cell's centroid; with `norm` only what is the cell."""
    start = [int(place) - crops.side // 2 for place in cell.centroid]
    window = tuple(slice(first, first + crops.side) for first in start)
    if not crops.norm:
        return image[window]
    crop = np.where((labels[window] == cell.label)[..., None], image[window], 0)
    inside = crop != 0
    values = crop[inside]
    if values.size:
        crop[inside] = (values - values.mean()) / (values.std() + 1e-4)
    return crop
