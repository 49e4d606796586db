"""A picture for people: the image in grey, and around each object a coloured line.  Knows no jobs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    GreyPlane = npt.NDArray[np.uint8]
    Picture = npt.NDArray[np.uint8]
    LabelPlane = npt.NDArray[np.integer]
    Mask = npt.NDArray[np.bool_]

Plane = TypeVar("Plane", bound=np.generic)

DARKEST, BRIGHTEST = 1.0, 99.8
"""Percentiles of the image that become black and the lightest grey."""
PEAK = 190
"""The lightest grey: a coloured line on white is hard to see."""
GAMMA = 0.7
"""Below 1: dim nuclei beside bright ones are seen too."""
SMALL, LARGE = 768, 2048
"""Sides in pixels: smaller images are enlarged, larger ones reduced, by whole numbers."""
THICK_FROM = 1280
"""From this side on a line is two pixels wide: such a picture is looked at reduced."""
LARGEST_ZOOM = 4
PALETTE = np.array(
    [
        (255, 82, 82),
        (64, 196, 255),
        (255, 215, 64),
        (105, 240, 174),
        (255, 128, 255),
        (255, 158, 64),
        (140, 158, 255),
        (178, 255, 89),
    ],
    np.uint8,
)
"""Bright on grey; neighbours get different ones."""


def overlay(image: npt.NDArray[np.floating | np.integer], labels: LabelPlane) -> Picture:
    """Return ``image`` (Y, X) with the outlines of ``labels`` (Y, X), uint8 (rows, columns, RGB).

    The picture's sides are those of the image, or a whole multiple or fraction: see `SMALL` and `LARGE`.
    """
    grey, labels = resized(stretched(image), labels)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    lines = outlines(labels, 2 if max(grey.shape) >= THICK_FROM else 1)
    picture[lines] = PALETTE[colours(labels)[labels[lines]]]
    return picture


def stretched(image: npt.NDArray[np.floating | np.integer]) -> GreyPlane:
    """Return ``image`` with its contrast stretched to 0..`PEAK`; what is not finite is black."""
    finite = np.isfinite(image)
    if not finite.any():
        return np.zeros(image.shape, np.uint8)
    dark, bright = np.percentile(image[finite], (DARKEST, BRIGHTEST))
    part = (np.where(finite, image, dark) - dark) / max(bright - dark, np.finfo(np.float32).tiny)
    return np.asarray(np.rint(PEAK * np.clip(part, 0, 1) ** GAMMA), np.uint8)


def resized(grey: GreyPlane, labels: LabelPlane) -> tuple[GreyPlane, LabelPlane]:
    """Return both at a size that is good to look at; labels are never mixed."""
    side = max(grey.shape)
    zoom = min(SMALL // side, LARGEST_ZOOM)
    if zoom > 1:
        return enlarged(grey, zoom), enlarged(labels, zoom)
    step = math.ceil(side / LARGE)
    return (grey[::step, ::step], labels[::step, ::step]) if step > 1 else (grey, labels)


def enlarged(plane: npt.NDArray[Plane], zoom: int) -> npt.NDArray[Plane]:
    """Return ``plane`` with each pixel as a square of ``zoom`` x ``zoom``."""
    return plane.repeat(zoom, axis=0).repeat(zoom, axis=1)


def outlines(labels: LabelPlane, width: int = 1) -> Mask:
    """Return the pixels of objects that are less than ``width`` + 1 steps along an axis from another value.

    With a width of 1 these are the objects' border pixels.  The edge of the image is no border: an object that
    it cuts goes on beyond it.
    """
    lines: Mask = np.zeros(labels.shape, bool)
    for step in range(1, width + 1):
        for axis in (0, 1):
            before, after = np.moveaxis(labels, axis, 0)[:-step], np.moveaxis(labels, axis, 0)[step:]
            differ = before != after
            np.moveaxis(lines, axis, 0)[:-step] |= differ
            np.moveaxis(lines, axis, 0)[step:] |= differ
    lines &= labels != 0
    return lines


def colours(labels: LabelPlane) -> npt.NDArray[np.intp]:
    """Return a palette index for each label from 0 to the largest; objects that touch get different ones.

    Greedy: a colour that no neighbour has, from a start that walks through the palette.  An object with as many
    neighbours as there are colours may share one.
    """
    chosen = np.zeros(int(labels.max(initial=0)) + 1, np.intp)
    neighbours = touching(labels)
    for label in np.unique(labels[labels != 0]).tolist():
        taken = {int(chosen[other]) for other in neighbours.get(label, ()) if other < label}
        wheel = [(label + turn) % len(PALETTE) for turn in range(len(PALETTE))]
        chosen[label] = next((colour for colour in wheel if colour not in taken), wheel[0])
    return chosen


def touching(labels: LabelPlane) -> dict[int, set[int]]:
    """Return, for each object that has any, the objects that share a side or a corner with it."""
    shifted = ((labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:]))
    corners = ((labels[:-1, :-1], labels[1:, 1:]), (labels[1:, :-1], labels[:-1, 1:]))
    found: dict[int, set[int]] = {}
    for one, other in (*shifted, *corners):
        both = (one != other) & (one != 0) & (other != 0)
        for left, right in np.unique(np.stack([one[both], other[both]], axis=1), axis=0).tolist():
            found.setdefault(left, set()).add(right)
            found.setdefault(right, set()).add(left)
    return found
