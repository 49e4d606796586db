"""Images and label images of another size, pixel for pixel as the models saw them in training.

The rules for one channel and for several differ: so do the models, which were trained with either.  Planes are
resized one by one, along one axis after the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy  # loads its parts at their first use

from redis_consumer.processing.planes import SIDE

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray
    from redis_consumer.processing.planes import Plane, Rectangle

    Floats = npt.NDArray[np.floating]
    Doubles = npt.NDArray[np.float64]
    Indices = npt.NDArray[np.intp]

_TRUNCATE = 4.0
"""How many sigmas away the Gaussian ends."""


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return rows and columns times `scale`, cut down to whole pixels, at least 1."""
    rows, columns = (max(int(n * scale), 1) for n in size)
    return rows, columns


def resize(data: AnyArray, shape: tuple[int, int], *, labels: bool = False) -> AnyArray:
    """Return `data`, (Y, X, C) or (T, Y, X, C), with `shape` rows and columns; dtype kept.

    Images of one channel: bilinear at half-pixel centres, edges repeated, not smoothed.  Images of several
    channels: smoothed by a Gaussian of sigma (in/out - 1)/2 where they shrink, bilinear, zero beyond the
    border (so an enlarged image gets a dark rim), no darker or brighter than the image was.  Integers are truncated.

    `labels`: nearest pixel, so ids stay ids; of one channel corner-aligned, of several centre-aligned.

    Where the size is the same already, `data` itself is returned.
    """
    if data.ndim not in {3, 4} or min(shape) < 1:
        raise ValueError(f"cannot resize an array of shape {data.shape} to {shape} rows and columns")
    first = data.ndim - 3
    sizes = data.shape[first : first + 2]
    if sizes == tuple(shape):
        return data
    single = data.shape[-1] == 1
    if labels:
        rows, columns = (_nearest(n, m, single=single) for n, m in zip(sizes, shape, strict=True))
        return data.take(rows, axis=first).take(columns, axis=first + 1)
    result = np.empty((*data.shape[:first], *shape, data.shape[-1]), data.dtype)
    frames = zip(data, result, strict=True) if first else [(data, result)]
    for frame, out in frames:
        for channel in range(data.shape[-1]):
            plane = frame[..., channel].astype(np.float32)
            axes = _axes(plane.shape, shape)
            out[..., channel] = _clamped(plane, axes) if single else _smoothed(plane, axes)
        if not single:
            np.clip(out, np.fmin.reduce(frame, axis=None), np.fmax.reduce(frame, axis=None), out=out)
    return result


def _nearest(size: int, new: int, *, single: bool) -> Indices:
    """Return for every new pixel the old one."""
    # One over the inverse, as OpenCV has it: it may round down, and then whole multiples fall on the pixel before.
    position = np.arange(new) * (1 / (new / size)) if single else (np.arange(new) + 0.5) * size / new
    return np.minimum(position.astype(np.intp), size - 1)


class _InPieces(ABC):
    """A plane (Y, X) at another size, made in parts.

    A part is made in pieces, each of no more than a block of the old plane or of the new one: a zoom of a tenth would
    have to read a hundred blocks at once.
    """

    def __init__(self, plane: Plane, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._plane = plane
        self._sides = [max(min(SIDE, SIDE * new // old), 1) for old, new in zip(plane.shape, shape, strict=True)]

    def __getitem__(self, place: Rectangle) -> npt.NDArray[Any]:
        rows, columns = (_spans(span, side) for span, side in zip(place, self._sides, strict=True))
        if len(rows) == len(columns) == 1:
            return self._made(place)
        return np.block([[self._made((tall, wide)) for wide in columns] for tall in rows])

    @abstractmethod
    def _made(self, place: Rectangle) -> npt.NDArray[Any]:
        """Return a piece."""


class Resized(_InPieces):
    """A plane (Y, X) at another size, made in parts: float32, what `resize` makes of an image of one channel."""

    def __init__(self, plane: Plane, shape: tuple[int, int]) -> None:
        super().__init__(plane, shape)
        self._axes = _axes(plane.shape, shape)

    def _made(self, place: Rectangle) -> Floats:
        rows, columns = (axis.part(span) for axis, span in zip(self._axes, place, strict=True))
        needed = rows.needed(), columns.needed()
        return _clamped(self._plane[needed].astype(np.float32), (rows.read(needed[0]), columns.read(needed[1])))


class ResizedStain(_InPieces):
    """A plane (Y, X) at another size, made in parts: float32, what `resize` makes of one of several channels.

    `lowest` and `highest` are those of all channels together.
    """

    def __init__(self, plane: Plane, shape: tuple[int, int], lowest: float, highest: float) -> None:
        super().__init__(plane, shape)
        self._extent = lowest, highest
        self._axes = _axes(plane.shape, shape)

    def _made(self, place: Rectangle) -> Floats:
        rows, columns = (axis.part(span) for axis, span in zip(self._axes, place, strict=True))
        # As far as the Gaussian looks; what it does at the end of what is read ends before what is used.
        needed = rows.needed(_reach(rows.sigma)), columns.needed(_reach(columns.sigma))
        made = _smoothed(self._plane[needed].astype(np.float32), (rows.read(needed[0]), columns.read(needed[1])))
        return np.clip(made.astype(np.float32), *self._extent)


class ResizedLabels(_InPieces):
    """A label plane (Y, X) at another size, made in parts: what `resize` makes of it, `single` or one of several."""

    def __init__(self, plane: Plane, shape: tuple[int, int], *, single: bool) -> None:
        super().__init__(plane, shape)
        self._nearest = [_nearest(n, m, single=single) for n, m in zip(plane.shape, shape, strict=True)]

    def _made(self, place: Rectangle) -> npt.NDArray[Any]:
        rows, columns = (nearest[span] for nearest, span in zip(self._nearest, place, strict=True))
        labels = self._plane[slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)]
        made: npt.NDArray[Any] = labels.take(rows - rows[0], axis=0).take(columns - columns[0], axis=1)
        return made


def _spans(span: slice, side: int) -> list[slice]:
    """Return a span in pieces of `side` at most."""
    return [slice(start, min(start + side, span.stop)) for start in range(span.start, span.stop, side)]


@dataclass(frozen=True, eq=False)
class _Axis:
    """Where the pixels of a new axis, or of a part of it, lie on the old one."""

    size: int
    """Pixels of the old axis."""
    lower: Indices
    """For every new pixel's centre the old pixel below it; -1 before the first."""
    weight: Doubles
    """How far the centre is towards the next old pixel, from 0 to 1."""
    sigma: float
    """Of the Gaussian that smooths what is to shrink, in old pixels."""
    start: int = 0
    """The old pixel with which the array in hand begins."""

    @classmethod
    def of(cls, size: int, new: int) -> Self:
        """Return the whole of an axis."""
        position = (np.arange(new) + 0.5) * (size / new) - 0.5
        lower = np.floor(position)
        return cls(size, lower.astype(np.intp), position - lower, max((size / new - 1) / 2, 0))

    def part(self, span: slice) -> Self:
        """Return these new pixels alone."""
        return replace(self, lower=self.lower[span], weight=self.weight[span])

    def needed(self, margin: int = 0) -> slice:
        """Return the old pixels from which the new ones are made."""
        first, last = self.indices(0).min(), self.indices(1).max()
        return slice(max(int(first) - margin, 0), min(int(last) + 1 + margin, self.size))

    def read(self, needed: slice) -> Self:
        """Return the same for an array that holds these old pixels alone."""
        return replace(self, start=needed.start)

    def indices(self, step: int) -> Indices:
        """Return the place in the array of the old pixel below (`step` 0) or above (1) each new one; edges repeated."""
        return np.clip(self.lower + step, 0, self.size - 1) - self.start

    def inside(self, step: int) -> npt.NDArray[np.bool_]:
        """Return for each new pixel whether the old one below or above it is there at all."""
        return (self.lower + step >= 0) & (self.lower + step < self.size)


def _axes(sizes: tuple[int, ...], shape: tuple[int, int]) -> tuple[_Axis, _Axis]:
    rows, columns = (_Axis.of(size, new) for size, new in zip(sizes, shape, strict=True))
    return rows, columns


def _clamped(plane: Floats, axes: tuple[_Axis, _Axis]) -> Floats:
    """Interpolate `plane`, edges repeated: in float32 and columns first, as OpenCV does, nearly to the last bit."""
    for number in (1, 0):
        axis = axes[number]
        below, above = (plane.take(axis.indices(step), axis=number) for step in (0, 1))
        above -= below
        above *= _along(axis.weight.astype(np.float32), number)
        above += below
        plane = above
    return plane


def _smoothed(plane: Floats, axes: tuple[_Axis, _Axis]) -> Doubles:
    """Smooth `plane` as far as it shrinks, and interpolate in float64, zero beyond the border: as scikit-image does."""
    sigma = [axis.sigma for axis in axes]
    smooth = scipy.ndimage.gaussian_filter(plane, sigma, mode="constant", truncate=_TRUNCATE) if any(sigma) else plane
    values = smooth.astype(np.float64)
    for number, axis in enumerate(axes):
        parts = (
            values.take(axis.indices(step), axis=number) * _along(np.where(axis.inside(step), weight, 0), number)
            for step, weight in ((0, 1 - axis.weight), (1, axis.weight))
        )
        values = next(parts) + next(parts)
    return values


def _reach(sigma: float) -> int:
    """Return how many pixels away the Gaussian looks."""
    return int(_TRUNCATE * sigma + 0.5)


def _along(values: Doubles | Floats, number: int) -> npt.NDArray[Any]:
    """Return values for each row (axis 0) or column (axis 1) of a plane, ready to be multiplied with it."""
    return values.reshape((-1, 1) if number == 0 else (1, -1))
