"""Star-shaped outlines, and how they become pixels of a label image.  Knows no light."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

LabelPlane = NDArray[np.int32]

SMALLEST: Final = 4  # pixels; what is left of a nucleus at the border may be this small
_DIRECTIONS: Final = 360  # in which an outline is computed; the Fourier series for each pixel is slow


@dataclass(frozen=True)
class Outline:
    """A star-shaped outline: radius as a Fourier series of the angle."""

    y: float
    x: float
    radius: float
    elongation: float
    angle: float
    dividing: bool
    amplitudes: NDArray[np.float64] = field(repr=False)
    phases: NDArray[np.float64] = field(repr=False)

    def radius_at(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the outline's distance from the centre in the directions theta, pixels."""
        along, across = np.cos(theta - self.angle), np.sin(theta - self.angle)
        ellipse = self.radius / np.hypot(along / self.elongation, across * self.elongation)
        orders = np.arange(2, 2 + len(self.amplitudes))
        ripple = np.cos(theta[..., None] * orders + self.phases) @ self.amplitudes
        wavy: NDArray[np.float64] = ellipse * np.clip(1 + ripple, 0.6, 1.4)
        return wavy


def draw(labels: LabelPlane, nucleus: Outline, label: int, *, least: float = 0.85) -> bool:
    """Write a nucleus into free pixels, one piece of them.

    Return False, and write nothing, where less than the part ``least`` of it is free.
    """
    window, inside = raster(labels.shape, nucleus)
    area = int(inside.sum())
    if area < SMALLEST:
        return False
    free = inside & (labels[window] == 0)
    pieces, count = ndi.label(free)
    if count == 0:
        return False
    largest = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    if largest.sum() < max(SMALLEST, least * area):
        return False
    labels[window][largest] = label
    return True


def raster(shape: tuple[int, ...], nucleus: Outline) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """Return the window of the field that a nucleus needs, and its pixels there."""
    reach = int(np.ceil(nucleus.radius * nucleus.elongation * 1.4)) + 1
    window = window_of(shape, nucleus.y, nucleus.x, reach)
    dy = np.arange(window[0].start, window[0].stop)[:, None] - nucleus.y
    dx = np.arange(window[1].start, window[1].stop)[None, :] - nucleus.x
    outline = nucleus.radius_at(np.linspace(-np.pi, np.pi, _DIRECTIONS + 1))
    direction = np.round((np.arctan2(dy, dx) + np.pi) * (_DIRECTIONS / (2 * np.pi))).astype(np.intp)
    return window, dy**2 + dx**2 <= outline[direction] ** 2


def window_of(shape: tuple[int, ...], y: float, x: float, reach: int) -> tuple[slice, slice]:
    """Return the square of half width ``reach`` around a point, cut to the field (possibly empty)."""
    rows, columns = (
        slice(min(max(int(c) - reach, 0), n), min(max(int(c) + reach + 1, 0), n))
        for c, n in zip((y, x), shape, strict=True)
    )
    return rows, columns


def bell(shape: tuple[int, ...], y: float, x: float, sigma: float) -> tuple[tuple[slice, slice], NDArray[np.float64]]:
    """Return a window of the field and a Gaussian of height 1 in it."""
    window = window_of(shape, y, x, int(3 * sigma) + 1)
    dy = np.arange(window[0].start, window[0].stop)[:, None] - y
    dx = np.arange(window[1].start, window[1].stop)[None, :] - x
    return window, np.exp(-(dy**2 + dx**2) / (2 * sigma**2))
