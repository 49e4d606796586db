"""Peaks of a map: the seeds of a watershed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy  # both load their parts at their first use

from redis_consumer.processing import kernels
from redis_consumer.processing.kernels.plain import lowered
from redis_consumer.processing.labels import label_places
from redis_consumer.scikit import ski

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[Any]  # float32 or float64
    Indices = npt.NDArray[np.intp]
    Mask = npt.NDArray[np.bool_]

# In pixels looked at:
_CHUNK = 1024  # how many a flood expands at a time: bounds its memory, and lets it end early
_FLOOD = 5000  # what a flood costs beyond those
_AT_ONCE = 4096  # peaks whose rings are looked at together: bounds memory
_LEAST_SPAN = 8  # how wide a top may be, beyond the radius, to be recognised without a flood
_SHAPES = 32  # of maps, whose steps are kept: making them is a dozen short calls


def h_maxima(values: Floats, h: float, radius: int) -> Mask:
    """Return where `values` (any rank, float32 or float64) has a maximum that stands `h` above its surroundings.

    Pixels up to `radius` apart count as neighbours: every path of such steps from the maximum to something higher
    goes down by `h` at least.  "Higher" allows for rounding (two parts in a million for float32).  A map that
    spans less than `h` has none.  ValueError unless `h` is positive.

    The definition is scikit-image's `h_maxima` with a disk as footprint (Soille, "Morphological Image Analysis",
    2003, 6.3), to the last bit.  Reconstruction, its way to get there, visits the whole disk at every pixel; here
    only the few pixels that are highest in their own disk are looked at.
    """
    if not h > 0:
        raise ValueError(f"the height of a maximum is {h}: allowed is more than 0")
    if values.size == 0 or h > values.max() - (lowest := values.min()):
        return np.zeros(values.shape, bool)
    if values.ndim != 2 or radius < 2:  # noqa: PLR2004 - the shortcuts below are about disks that hold a 3x3 square
        return _by_reconstruction(values, h, radius)
    margin = radius + max(radius, _LEAST_SPAN)
    padded, inside = np.full(np.add(values.shape, 2 * margin), lowest, values.dtype), (slice(margin, -margin),) * 2
    padded[inside] = values
    found = _by_floods(padded, values.dtype.type(h), radius, margin)
    return _by_reconstruction(values, h, radius) if found is None else found[inside]


def peaks(
    values: Floats, threshold: float, radius: int, *, exclude_border: bool = False, mask: Mask | None = None
) -> Mask:
    """Return the single pixels that are the highest within `radius` rows and columns, above `threshold`.

    Of two peaks closer than `radius` the higher one stays.  A constant map has none.  With `exclude_border`,
    peaks within `radius` of the border do not count; with `mask`, nothing outside it does.
    """
    if not values.size:
        return np.zeros(values.shape, bool)
    labels = None if mask is None else mask.astype(np.uint8)
    places = ski.feature.peak_local_max(
        values, min_distance=radius, threshold_abs=threshold, exclude_border=exclude_border, labels=labels
    )
    found = np.zeros(values.shape, bool)
    found[tuple(places.T)] = True
    return found


def _by_reconstruction(values: Floats, h: float, radius: int) -> Mask:
    """Return the h-maxima by their definition."""
    footprint = ski.morphology.disk(radius) if values.ndim == 2 else ski.morphology.ball(radius)  # noqa: PLR2004 - axes
    mask: Mask = ski.morphology.h_maxima(values, float(h), footprint=footprint).astype(bool)
    return mask


def _by_floods(values: Floats, h: Any, radius: int, margin: int) -> Mask | None:
    """Return the h-maxima of `values`, whose border of `margin` pixels is as low as its lowest pixel.

    None where the map has so many candidates that reconstruction is the faster way.
    """
    half = isqrt(radius * radius // 2)  # of the largest square in the disk: its filter is separable
    found, places = kernels.candidates(values, h, _allowance(values), half)
    disk, ring, rest = _steps(radius, half, values.shape[1])
    budget = values.size * (disk.size + 80) // 5
    relief = _Relief(values.ravel(), h, radius, disk, ring, _rings(margin, values.shape[1]), budget)
    places = kernels.without_higher(relief.values, h, _allowance(values), places, rest)
    if places.size:
        standing = relief.standing(places, values.shape)
        if standing is None:
            return None
        found.flat[places] = standing
    return found


def _allowance(values: Floats) -> float:
    """Return what share of a value rounding may have cost it."""
    return float(2 * np.finfo(values.dtype).resolution)


@lru_cache(maxsize=_SHAPES)
def _steps(radius: int, half: int, width: int) -> tuple[Indices, Indices, Indices]:
    """Return steps in a flat map of `width` columns: a disk, the eight neighbours, the disk but for a square."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    steps, distance = y * width + x, np.maximum(abs(y), abs(x))
    disk = y * y + x * x <= radius * radius
    return steps[disk], steps[distance == 1], steps[disk & (distance > half)]


class _Rings(NamedTuple):
    """Steps by distance: up to 1, up to 2, and so on."""

    steps: Indices
    distances: npt.NDArray[np.float64]
    ends: Indices
    """Where each ring ends among the steps."""


@lru_cache(maxsize=_SHAPES)
def _rings(span: int, width: int) -> _Rings:
    """Return the steps in a flat map of `width` columns that lead no farther than `span`."""
    y, x = np.mgrid[-span : span + 1, -span : span + 1]
    steps, distance = (y * width + x).ravel(), np.hypot(y, x).ravel()
    order = np.argsort(distance, kind="stable")[1:]  # without the step to itself
    order = order[distance[order] <= span]
    return _Rings(steps[order], distance[order], np.searchsorted(distance[order], np.arange(1, span + 1), "right"))


@dataclass(slots=True)
class _Relief:
    """A flat map to flood: from a peak over all pixels that are less than `h` below it."""

    values: Floats
    h: Any
    radius: int
    disk: Indices
    ring: Indices
    rings: _Rings
    budget: int
    """How many pixels may be looked at, before reconstruction is due."""

    def standing(self, places: Indices, shape: tuple[int, ...]) -> Mask | None:
        """Return for each of `places`, highest in their disks, whether it is an h-maximum; None without budget."""
        plateau, value, starts, group = label_places(places, shape), self.values[places], places, None
        if (count := int(plateau.max())) < places.size:  # some touch
            low, high, _, _ = scipy.ndimage.extrema(value, plateau, np.arange(1, count + 1))
            if (np.subtract(high, low) >= self.h).any():
                return None
            # On one so flat all of one height reach each other: one flood for them.  Complex numbers sort as pairs.
            _, first, group = np.unique(plateau + 1j * value, return_index=True, return_inverse=True)
            starts = places[first]
        alone = np.concatenate([self._apart(starts[i : i + _AT_ONCE]) for i in range(0, starts.size, _AT_ONCE)])
        seen = np.zeros(self.values.size, np.int32)
        for i in np.flatnonzero(~alone).tolist():
            alone[i] = self._stands_alone(starts[i], seen, i + 1)
            if self.budget < 0:
                return None
        return alone if group is None else alone[group]

    def _apart(self, starts: Indices) -> Mask:
        """Return which of `starts` are seen to stand alone by a look around: most of them, where cells are alike."""
        mask, looked = kernels.apart(self.values, self.h, _allowance(self.values), self.radius, *self.rings, starts)
        self.budget -= looked
        return mask

    def _stands_alone(self, start: np.intp, seen: npt.NDArray[np.int32], mark: int) -> bool:
        """Flood from `start`; return whether it meets nothing higher.  `seen` holds `mark` where it has been.

        Without budget the flood ends early, and its answer counts for nothing.

        A pixel amid the flood reaches nothing with its disk that a pixel on the straight way there does not
        reach with its own: only pixels at the flood's edge need all of the disk.
        """
        self.budget -= _FLOOD
        peak = self.values[start]
        seen[start] = mark
        waiting = [np.array([start])]
        while waiting and self.budget >= 0:
            pixels = waiting.pop()
            if pixels.size > _CHUNK:
                waiting.append(pixels[_CHUNK:])
                pixels = pixels[:_CHUNK]
            around = pixels[:, None] + self.ring
            edge = (peak - self.values[around] >= self.h).any(axis=1)
            near = np.concatenate([around[~edge].ravel(), (pixels[edge, None] + self.disk).ravel()])
            self.budget -= near.size
            near = near[peak - self.values[near] < self.h]
            near = np.unique(near[seen[near] != mark])
            if (peak - lowered(self.values[near], self.h, _allowance(self.values)) < self.h).any():
                return False
            seen[near] = mark
            if near.size:
                waiting.append(near)
        return True
