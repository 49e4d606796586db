"""What the network learns to draw, computed from a label image. Knows nothing of images or files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage as ndi

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEPTH_PIXELS: Final = 8.0
"""Depth is 1 at this distance (pixels) from a nucleus' outline and beyond."""

_CROWDED_WEIGHT: Final = 3.0


@dataclass(frozen=True)
class Targets:
    """The three maps and a loss weight, each float32 ``(Y, X)``; the maps lie in 0..1."""

    centre: NDArray[np.float32]
    foreground: NDArray[np.float32]
    depth: NDArray[np.float32]
    weight: NDArray[np.float32]


def of_labels(labels: NDArray[np.integer]) -> Targets:
    """Return the targets of a label image ``(Y, X)``, background 0."""
    labels = np.ascontiguousarray(labels, dtype=np.int32)
    foreground = labels > 0
    return Targets(
        centre=inner_distance(labels),
        foreground=foreground.astype(np.float32),
        depth=np.clip(outline_distance(labels) / DEPTH_PIXELS, 0, 1).astype(np.float32),
        weight=np.where(_crowded(labels), _CROWDED_WEIGHT, 1).astype(np.float32),
    )


def inner_distance(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return a cone over every nucleus: 1 at the centroid, 0 at its equivalent radius and outside nuclei."""
    flat = labels.ravel()
    area = np.maximum(np.bincount(flat), 1)
    rows, columns = np.indices(labels.shape)
    centre_y = np.bincount(flat, rows.ravel()) / area
    centre_x = np.bincount(flat, columns.ravel()) / area
    distance = np.hypot(rows - centre_y[labels], columns - centre_x[labels])
    cone = np.clip(1 - distance / np.sqrt(area / np.pi)[labels], 0, 1)
    return np.where(labels > 0, cone, 0).astype(np.float32)


def outline_distance(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return each nuclear pixel's distance to its own outline, pixels: 0.5 on the rim, 0 outside nuclei."""
    padded = np.pad(labels, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    rim = (labels > 0) & np.logical_or.reduce([labels != n for n in neighbours])
    if not rim.any():
        return np.where(labels > 0, DEPTH_PIXELS, 0).astype(np.float32)
    return np.where(labels > 0, ndi.distance_transform_edt(~rim) + 0.5, 0).astype(np.float32)


def _crowded(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return where two nuclei are within two pixels of each other."""
    highest = ndi.maximum_filter(labels, size=5)
    beyond = np.iinfo(np.int32).max
    lowest = ndi.minimum_filter(np.where(labels > 0, labels, beyond), size=5)
    crowded: NDArray[np.bool_] = (highest > 0) & (lowest != highest) & (lowest != beyond)
    return crowded
