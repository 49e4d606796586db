"""Planes in files: what is too large for the memory, read and written a rectangle at a time.

Knows no images and no labels: rows, columns and values.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray


@dataclass(frozen=True)
class Canvas:
    """An array (Y, X) in a file, of which only the pages that are in use count as memory.

    Reading gives a copy.  Safe for several threads that write different places, or read what another one has written.
    """

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    offset: int = 0
    """Where in the file its first value stands, in bytes."""

    @classmethod
    def create(cls, path: Path, shape: tuple[int, int], dtype: npt.DTypeLike) -> Self:
        """Make a new file, all zeros.  OSError where the disk has no room for all of it."""
        path.touch(exist_ok=False)
        return cls.over(path, shape, np.dtype(dtype))

    @classmethod
    def over(cls, path: Path, shape: tuple[int, int], dtype: np.dtype[Any], offset: int = 0) -> Self:
        """Return what lies from `offset` on in a file, which is made long enough.  OSError as in `create`."""
        with path.open("r+b") as file:
            # Now, while it is an error: a page that finds no room when it is written to kills the process.
            _make_room(file.fileno(), offset + shape[0] * shape[1] * dtype.itemsize)
        return cls(path, shape, dtype, offset)

    def __getitem__(self, place: tuple[slice, slice]) -> npt.NDArray[Any]:
        return np.array(self._mapped("r")[place])

    def __setitem__(self, place: tuple[slice, slice], values: AnyArray) -> None:
        rows, columns = place
        if (columns.start, columns.stop) == (0, self.shape[1]):
            self._write(rows, values)
        else:
            self._mapped("r+")[place] = values

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink()

    # Whole rows stand together: to write them takes a quarter of the time of mapping pages that are new.
    def _write(self, rows: slice, values: AnyArray) -> None:
        if not 0 <= rows.start <= rows.stop <= self.shape[0]:
            raise ValueError(f"rows {rows.start} to {rows.stop} of a plane of {self.shape[0]}")
        whole = np.ascontiguousarray(np.broadcast_to(values, (rows.stop - rows.start, self.shape[1])), self.dtype)
        with self.path.open("r+b") as file:
            file.seek(self.offset + rows.start * self.shape[1] * self.dtype.itemsize)
            file.write(whole.data)

    # Mapped anew each time: pages that were touched count as the process' memory until they are unmapped.
    def _mapped(self, mode: Any) -> np.memmap[Any, Any]:
        return np.memmap(self.path, self.dtype, mode, self.offset, self.shape)


def _make_room(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    elif os.fstat(file).st_size < size:  # macOS has no such call
        os.truncate(file, size)
