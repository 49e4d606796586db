"""Pre-processing of planes too large for the memory: each step is a view of the plane before it.

A view walks over the whole plane once or a few times when it is made, and then gives any part of the result: what the
function of the same name in `redis_consumer.processing` gives for the plane in memory.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from redis_consumer.processing.checks import require_finite
from redis_consumer.processing.clahe import Histograms
from redis_consumer.processing.moments import Moments
from redis_consumer.processing.planes import Plane, blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy.typing as npt

    from redis_consumer.processing.planes import Rectangle

    Floats = npt.NDArray[np.floating[Any]]

_log = logging.getLogger(__name__)


class AsFloat:
    """The same plane as float32."""

    def __init__(self, plane: Plane) -> None:
        self.shape = plane.shape
        self._plane = plane

    def __getitem__(self, place: Rectangle) -> Floats:
        return self._plane[place].astype(np.float32)


class Constant:
    """Zeros."""

    def __init__(self, plane: Plane) -> None:
        self.shape = plane.shape

    def __getitem__(self, place: Rectangle) -> Floats:
        return np.zeros([span.stop - span.start for span in place], np.float32)


class Standardized:
    """A plane of mean 0 and standard deviation 1, float32."""

    def __init__(self, plane: Plane, moments: Moments, epsilon: float) -> None:
        self.shape = plane.shape
        self._plane = plane
        self._moments, self._epsilon = moments, epsilon

    def __getitem__(self, place: Rectangle) -> Floats:
        return self._moments.standardized(self._plane[place].astype(np.float32), self._epsilon)


class Limited:
    """A plane in which nothing exceeds `highest`, float32."""

    def __init__(self, plane: Plane, highest: float) -> None:
        self.shape = plane.shape
        self._plane = plane
        self._highest = np.float32(highest)

    def __getitem__(self, place: Rectangle) -> Floats:
        return np.minimum(self._plane[place].astype(np.float32), self._highest)


class Equalized:
    """A plane that is not constant, its contrast equalized as in `redis_consumer.processing.clahe`."""

    def __init__(self, plane: Plane, lowest: float, highest: float, kernel_size: int | None = None) -> None:
        self.shape = plane.shape
        self._plane = plane
        histograms = Histograms(plane.shape, lowest, highest, kernel_size)
        for place, values in _walk(plane):
            histograms.add(*place, values)
        self._equalizer = histograms.equalizer()
        self._span = self._equalizer.span(lambda rows, columns: plane[rows, columns])

    def __getitem__(self, place: Rectangle) -> Floats:
        return self._equalizer.apply(*place, self._plane[place], self._span)


def extent(plane: Plane) -> tuple[float, float]:
    """Return the lowest and the highest value of a plane as float32; ValueError where a value is not finite there."""
    extents = []
    for _, values in _walk(plane):
        # As an image in memory has them: what float32 cannot tell apart is one grey value.
        ends = np.array([values.min(), values.max()]).astype(np.float32)
        require_finite(ends, "the image")
        extents.append((float(ends[0]), float(ends[1])))
    return min(low for low, _ in extents), max(high for _, high in extents)


def normalize(plane: Plane, epsilon: float = 1e-7) -> Plane:
    """Return a view of mean 0 and standard deviation 1; a constant plane becomes zeros."""
    moments = Moments()
    for _, values in _walk(plane):
        seen = values.astype(np.float32)
        require_finite(seen, "the image")
        moments = moments.joined(seen)
    return Standardized(plane, moments, epsilon)


def histogram_normalization(plane: Plane, kernel_size: int | None = None) -> Plane:
    """Return a view whose grey values span 0 to 1, contrast equalized locally; a constant plane is zeros."""
    lowest, highest = extent(plane)
    if lowest == highest:
        _log.warning("A plane of the image is constant; it is normalized to zeros")
        return Constant(plane)
    return Equalized(plane, lowest, highest, kernel_size)


def percentile_threshold(plane: Plane, percentile: float = 99.9) -> Plane:
    """Return a view in which nothing exceeds the percentile of the plane's non-zero pixels."""
    highest = nonzero_percentile(plane, percentile)
    return AsFloat(plane) if highest is None else Limited(plane, highest)


def multiplex_preprocess(plane: Plane) -> Plane:
    """Return a view with bright specks cut off, then contrast equalized: what the multiplex model expects."""
    extent(plane)
    return histogram_normalization(percentile_threshold(plane), 128)


VIEWS: Mapping[str, Callable[[Plane], Plane]] = {
    "none": AsFloat,
    "normalize": normalize,
    "histogram_normalization": histogram_normalization,
    "phase_preprocess": histogram_normalization,
    "multiplex_preprocess": multiplex_preprocess,
}
"""By the names of `redis_consumer.processing.PRE_PROCESSES`."""


def nonzero_percentile(plane: Plane, percentile: float) -> float | None:
    """Return a percentile of the pixels that are not zero, as float32; None where all are.

    Exact, like numpy's: the two values around it are found bit by bit, in two walks.
    """
    upper = np.zeros(2**16, np.int64)
    for keys in _keys(plane):
        upper += np.bincount(keys >> 16, minlength=upper.size)
    count = int(upper.sum())
    if not count:
        return None
    rank = (count - 1) * percentile / 100
    below, above = (_ranked(plane, upper, min(int(rank) + step, count - 1)) for step in (0, 1))
    return float(np.percentile(np.array([below, above], np.float32), 100 * (rank - int(rank))))


def _ranked(plane: Plane, upper: npt.NDArray[np.int64], rank: int) -> np.float32:
    """Return the value of this rank, from 0; `upper` are the numbers of values by the first half of their keys."""
    ends = np.cumsum(upper)
    half = int(np.searchsorted(ends, rank, side="right"))
    lower = np.zeros(2**16, np.int64)
    for keys in _keys(plane):
        lower += np.bincount(keys[keys >> 16 == half] & 0xFFFF, minlength=lower.size)
    rest = int(np.searchsorted(np.cumsum(lower), rank - (ends[half] - upper[half]), side="right"))
    key = np.array([half << 16 | rest], np.uint32)
    bits = np.where(key >> 31, key ^ np.uint32(1 << 31), ~key)
    return np.float32(bits.view(np.float32)[0])


def _keys(plane: Plane) -> Iterator[npt.NDArray[np.uint32]]:
    """Yield for the pixels that are not zero, as float32, whole numbers that sort as they do."""
    for _, values in _walk(plane):
        bits = values[values != 0].astype(np.float32).view(np.uint32)
        yield np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _walk(plane: Plane) -> Iterator[tuple[Rectangle, npt.NDArray[Any]]]:
    return ((place, plane[place]) for place in blocks(plane.shape))
