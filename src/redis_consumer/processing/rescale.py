"""Images and label images of another size, pixel for pixel as the models saw them in training.

The rules for one channel and for several differ: so do the models, which were trained with either.  Planes are
resized one by one, along one axis after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy  # loads its parts at their first use

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray

    Floats = npt.NDArray[np.floating]
    Doubles = npt.NDArray[np.float64]
    Indices = npt.NDArray[np.intp]


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
            out[..., channel] = _clamped(plane, shape) if single else _smoothed(plane, shape)
        if not single:
            np.clip(out, np.fmin.reduce(frame, axis=None), np.fmax.reduce(frame, axis=None), out=out)
    return result


def _nearest(size: int, new: int, *, single: bool) -> Indices:
    """Return for every new pixel the old one."""
    # One over the inverse, as OpenCV has it: it may round down, and then whole multiples fall on the pixel before.
    position = np.arange(new) * (1 / (new / size)) if single else (np.arange(new) + 0.5) * size / new
    return np.minimum(position.astype(np.intp), size - 1)


def _clamped(plane: Floats, shape: tuple[int, int]) -> Floats:
    """Interpolate `plane`, edges repeated: in float32 and columns first, as OpenCV does, nearly to the last bit."""
    for axis in (1, 0):
        lower, weight = _positions(plane.shape[axis], shape[axis])
        last = plane.shape[axis] - 1
        below, above = (plane.take(np.clip(lower + i, 0, last), axis=axis) for i in (0, 1))
        above -= below
        above *= weight.astype(np.float32).reshape(_along(axis))
        above += below
        plane = above
    return plane


def _smoothed(plane: Floats, shape: tuple[int, int]) -> Doubles:
    """Smooth `plane` as far as it shrinks, and interpolate in float64, zero beyond the border: as scikit-image does."""
    sigma = [max((size / new - 1) / 2, 0) for size, new in zip(plane.shape, shape, strict=True)]
    smooth = scipy.ndimage.gaussian_filter(plane, sigma, mode="constant") if any(sigma) else plane
    values = smooth.astype(np.float64)
    for axis in (0, 1):
        lower, weight = _positions(plane.shape[axis], shape[axis])
        values = _part(values, lower, 1 - weight, axis) + _part(values, lower + 1, weight, axis)
    return values


def _positions(size: int, new: int) -> tuple[Indices, Doubles]:
    """Return for every new pixel's centre the old pixel below it, and how far it is towards the next one."""
    position = (np.arange(new) + 0.5) * (size / new) - 0.5
    lower = np.floor(position)
    return lower.astype(np.intp), position - lower


def _part(values: Doubles, index: Indices, weight: Doubles, axis: int) -> Doubles:
    """Return `values` at `index` along `axis`, times `weight`; what lies outside counts as zero."""
    last = values.shape[axis] - 1
    inside = (index >= 0) & (index <= last)
    return values.take(np.clip(index, 0, last), axis=axis) * np.where(inside, weight, 0).reshape(_along(axis))


def _along(axis: int) -> tuple[int, int]:
    """Return the shape of weights, one for each row (axis 0) or column (axis 1) of a plane."""
    return (-1, 1) if axis == 0 else (1, -1)
