"""Images and label images of another size, pixel for pixel as the models saw them in training.

Every rule is separable, so a plane is resized along its rows, then along its columns, in float32.  The rules for
one channel and for several differ; so do the models that were trained with either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy  # loads its parts at their first use

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray

    Floats = npt.NDArray[np.float32]
    Indices = npt.NDArray[np.intp]


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return rows and columns times `scale`, cut down to whole pixels, at least 1."""
    rows, columns = (max(int(n * scale), 1) for n in size)
    return rows, columns


def resize(data: AnyArray, shape: tuple[int, int], *, labels: bool = False) -> AnyArray:
    """Return `data`, (Y, X, C) or (T, Y, X, C), with `shape` rows and columns; dtype kept.

    Images of one channel: bilinear at half-pixel centres, edges repeated, not smoothed.  Images of several
    channels: smoothed by a Gaussian of sigma (in/out - 1)/2 where they shrink, bilinear, zero beyond the
    border (so an enlarged image gets a dark rim).  Integers are truncated.

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
        values = frame.astype(np.float32)
        for axis, size in enumerate(shape):
            values = _interpolate(values, size, axis, single=single)
        out[...] = values
    return result


def _nearest(size: int, new: int, *, single: bool) -> Indices:
    """Return for every new pixel the old one."""
    offset = 0.0 if single else 0.5
    return np.minimum(((np.arange(new) + offset) * size / new).astype(np.intp), size - 1)


def _interpolate(values: Floats, new: int, axis: int, *, single: bool) -> Floats:
    """Resize along one axis.  Nothing happens where the size is the same."""
    size = values.shape[axis]
    if size == new:
        return values
    sigma = (size / new - 1) / 2
    if not single and sigma > 0:
        values = scipy.ndimage.gaussian_filter1d(values, sigma, axis=axis, mode="constant")
    position = (np.arange(new) + 0.5) * (size / new) - 0.5
    if single:
        position = np.clip(position, 0, size - 1)
    lower = np.floor(position)
    upper_weight = (position - lower).astype(np.float32)
    result = _weighted(values, lower.astype(np.intp), 1 - upper_weight, axis)
    result += _weighted(values, lower.astype(np.intp) + 1, upper_weight, axis)
    return result


def _weighted(values: Floats, index: Indices, weight: Floats, axis: int) -> Floats:
    """Return `values` at `index` along `axis`, times `weight`; what lies outside counts as zero."""
    last = values.shape[axis] - 1
    weight = np.where((index >= 0) & (index <= last), weight, np.float32(0))
    taken = values.take(np.clip(index, 0, last), axis=axis)
    taken *= weight.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return taken
