"""A picture of an image and the spots in it, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.spots.detect import Points

    Plane = npt.NDArray[np.floating]
    Picture = npt.NDArray[np.uint8]

RADIUS = 4  # pixels: the ring leaves the spot itself in sight
COLOR = (255, 48, 48)
DARKEST, BRIGHTEST = 1, 99.8
"""Percentiles of the grey values that become black and white."""


def spot_picture(image: Plane, points: Points) -> Picture:
    """Return `image` (Y, X) in grey, contrast stretched, with a red ring around each of `points` (N, 2).

    The picture is (Y, X, 3).  Of a ring at the border, what lies inside is drawn.
    """
    picture = np.repeat(_grey(image)[..., None], 3, axis=-1)
    rows, columns = (np.rint(points)[:, None, :] + _ring()).reshape(-1, 2).T
    inside = (rows >= 0) & (rows < image.shape[0]) & (columns >= 0) & (columns < image.shape[1])
    picture[rows[inside].astype(np.intp), columns[inside].astype(np.intp)] = COLOR
    return picture


def _grey(image: Plane) -> Picture:
    low, high = np.percentile(image, (DARKEST, BRIGHTEST))
    return np.asarray(255 * np.clip((image - low) / ((high - low) or 1), 0, 1), np.uint8)


def _ring() -> npt.NDArray[np.int64]:
    """Return the places of a circle's pixels, (M, 2), from its centre."""
    offsets: npt.NDArray[np.int64] = np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1].reshape(2, -1).T
    return offsets.compress(np.rint(np.hypot(*offsets.T)) == RADIUS, axis=0)
