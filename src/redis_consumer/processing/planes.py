"""Planes that are read in parts: an array, a file, or what a step makes of another plane.

What follows from a whole plane (its lowest value, its histogram) is found in a walk over its blocks; then each part is
made when it is asked for.  So a chain of steps needs the memory of one part, however large the plane is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Rectangle = tuple[slice, slice]

SIDE = 2048
"""Of a block, in pixels."""


class Plane(Protocol):
    """An array (Y, X), or what can be read like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""

    def __getitem__(self, place: Rectangle, /) -> npt.NDArray[Any]:
        """Return the values of a rectangle: slices with a start and a stop, within the plane."""


class WritablePlane(Plane, Protocol):
    """One that can be written in parts, too."""

    def __setitem__(self, place: Rectangle, values: npt.NDArray[Any], /) -> None:
        """Write the values of a rectangle."""


def blocks(shape: tuple[int, ...], side: int = SIDE) -> Iterator[Rectangle]:
    """Yield rows and columns of squares of `side` pixels that cover a plane, row by row; the last ones are smaller."""
    for top in range(0, shape[0], side):
        for left in range(0, shape[1], side):
            yield slice(top, min(top + side, shape[0])), slice(left, min(left + side, shape[1]))


def grown(place: Rectangle, margin: int, shape: tuple[int, ...]) -> Rectangle:
    """Return a rectangle with a margin on every side, as far as the plane goes."""
    rows, columns = (
        slice(max(span.start - margin, 0), min(span.stop + margin, size))
        for span, size in zip(place, shape, strict=False)
    )
    return rows, columns
