"""Movies whose frames are moved back to where the first one was."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import scipy  # loads its parts at their first use

from redis_consumer.processing.checks import require_finite

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray

    Shift = tuple[int, int]
    Doubles = npt.NDArray[np.float64]

_Array = TypeVar("_Array", bound="AnyArray")


def correct_drift(movie: AnyArray, labels: AnyArray | None = None) -> tuple[AnyArray, AnyArray | None]:
    """Return `movie` and `labels`, (T, Y, X) or (T, Y, X, C), each frame moved by whole pixels to fit the one before.

    The one before is taken as it is after its own correction.  A frame is moved to where its cross-correlation with
    it is largest; channels move together, and so do the labels of the frame.  What moves in at a side is 0, what
    moves out is lost.  dtypes are kept; a frame without contrast stays.  ValueError for another rank, for labels of
    other frames, rows or columns, or for values that are not finite.

    The original changed its arguments in place and moved labels through a Fourier transform, which made some
    ids smaller by one; here arguments stay, and labels are moved as they are.
    """
    if movie.ndim not in {3, 4} or (labels is not None and labels.shape[:3] != movie.shape[:3]):
        shapes = f"{movie.shape}" if labels is None else f"{movie.shape} and {labels.shape}"
        raise ValueError(f"drift: arrays have shape {shapes}: expected are (T, Y, X) or (T, Y, X, C), alike")
    require_finite(movie, "drift: the movie")
    movie, labels = movie.copy(), None if labels is None else labels.copy()
    for t in range(1, len(movie)):
        shift = _shift(movie[t - 1], movie[t])
        movie[t] = _moved(movie[t], shift)
        if labels is not None:
            labels[t] = _moved(labels[t], shift)
    return movie, labels


def _shift(reference: AnyArray, frame: AnyArray) -> Shift:
    """Return by how many rows and columns `frame` must move to lie on `reference`: at most half its size."""
    if 0 in frame.shape or np.ptp(frame) == 0:
        return 0, 0
    size = frame.shape[:2]
    spectra = (scipy.fft.rfft2(image.astype(np.float64), axes=(0, 1)) for image in (reference, frame))
    target, moving = spectra
    correlation = np.abs(scipy.fft.irfft2(target * moving.conj(), s=size, axes=(0, 1)))
    together: Doubles = correlation.reshape(*size, -1).sum(axis=-1)
    rows, columns = np.unravel_index(np.argmax(together), size)
    return _signed(int(rows), size[0]), _signed(int(columns), size[1])


def _signed(position: int, size: int) -> int:
    """Return a place in a circle as a move forward or, past the half, backward."""
    return position - size if position > size // 2 else position


def _moved(frame: _Array, shift: Shift) -> _Array:
    """Return `frame` moved down and to the right by `shift`, zeros behind it."""
    result = np.zeros_like(frame)
    (rows, from_rows), (columns, from_columns) = (_spans(d, n) for d, n in zip(shift, frame.shape[:2], strict=True))
    result[rows, columns] = frame[from_rows, from_columns]
    return result


def _spans(shift: int, size: int) -> tuple[slice, slice]:
    """Return where pixels of an axis are after the move, and where they were."""
    return slice(max(shift, 0), size + min(shift, 0)), slice(max(-shift, 0), size + min(-shift, 0))
