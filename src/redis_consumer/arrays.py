"""The one layout of an image, and the types of a result.

Every image inside this program is a float32 array of shape (T, Y, X, C): frames (or batch entries), rows,
columns, channels, each axis present.  Knows no files, models or Redis.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Image = npt.NDArray[np.float32]
"""float32, shape (T, Y, X, C)."""
AnyArray = npt.NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Labels:
    """Label images: 0 is background, every other value one object.

    `array` holds integers of shape (T, Y, X, C): one label image for each frame and for each feature
    (compartment, channel role) C.  `names` may say what each feature is, in letters, digits, ``_`` and ``-``.
    """

    array: npt.NDArray[np.integer]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.array.ndim != 4:  # noqa: PLR2004 - the four axes of the layout
            raise ValueError(f"labels have shape {self.array.shape}: expected are four axes (T, Y, X, C)")
        if not np.issubdtype(self.array.dtype, np.integer):
            raise ValueError(f"labels have dtype {self.array.dtype}: expected is an integer type")
        if self.names and len(self.names) != self.array.shape[-1]:
            raise ValueError(f"labels have {self.array.shape[-1]} features, named are {len(self.names)}: {self.names}")
        if len(set(self.names)) < len(self.names) or not all(re.fullmatch(r"[\w-]{1,100}", n) for n in self.names):
            raise ValueError(f"features are named {self.names}: expected are different words of letters, digits, _, -")

    @property
    def shape(self) -> tuple[int, ...]:
        """Frames, rows, columns and features."""
        return self.array.shape

    def name_of(self, feature: int) -> str:
        """Return what a feature is called: ``feature_<index>`` where nobody named it."""
        return self.names[feature] if self.names else f"feature_{feature}"

    def planes(self) -> Iterator[tuple[int, int, npt.NDArray[np.integer]]]:
        """Yield the index of a frame, that of a feature, and the label image (Y, X) of both; frames first."""
        for frame, feature in np.ndindex(self.array.shape[0], self.array.shape[-1]):
            yield frame, feature, self.array[frame, ..., feature]

    def count(self) -> int:
        """Return the number of objects, all frames and features together."""
        return sum(int(np.count_nonzero(np.unique(plane))) for _, _, plane in self.planes())


@dataclass(frozen=True, eq=False)
class Spots:
    """Points in an image.

    `points` holds for each frame the spots of it, (N, 2), floats: row and column in pixels, pixel centres at whole
    numbers; (0, 2) where there is none.  `image` is what they were found in, float32 (T, Y, X, 1).
    """

    points: tuple[npt.NDArray[np.float64], ...]
    image: Image

    def __post_init__(self) -> None:
        if self.image.ndim != 4 or self.image.shape[-1] != 1:  # noqa: PLR2004 - the four axes of the layout
            raise ValueError(f"spots: the image has shape {self.image.shape}: expected is one channel, (T, Y, X, 1)")
        if len(self.points) != len(self.image) or any(p.ndim != 2 or p.shape[1] != 2 for p in self.points):  # noqa: PLR2004 - rows and columns
            shapes = [points.shape for points in self.points]
            raise ValueError(f"spots of shapes {shapes}: expected are {len(self.image)} arrays (N, 2), one a frame")

    def count(self) -> int:
        """Return the number of spots, all frames together."""
        return sum(len(points) for points in self.points)


@dataclass(frozen=True, slots=True)
class Track:
    """One cell of a movie, from its first frame to its last, and what became of it."""

    label: int
    frames: tuple[int, ...]
    """In which it is seen, ascending; there may be gaps."""
    daughters: tuple[int, ...] = ()
    """Labels of the cells that it divided into, ascending; one alone means that the other was not seen."""
    capped: bool = False
    """Whether it ended in a division."""
    frame_div: int | None = None
    """The first frame of its first daughter."""
    parent: int | None = None


@dataclass(frozen=True, eq=False)
class Tracks:
    """A movie of labels that keep their cell from frame to frame, and who divided into whom.

    `array` is int32, (T, Y, X): 0 is background, every other value one cell in all frames.  `parents` gives the
    parent of each daughter.  ValueError unless both are cells of the movie and the daughter appears after the
    parent's last frame.
    """

    array: npt.NDArray[np.int32]
    parents: Mapping[int, int] = field(default_factory=dict)
    lineage: Mapping[int, Track] = field(init=False)
    """Every cell by its label, ascending: follows from the other two."""

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or self.array.dtype != np.int32:  # noqa: PLR2004 - frames, rows, columns
            raise ValueError(f"tracks are {self.array.dtype} of shape {self.array.shape}: expected is int32 (T, Y, X)")
        object.__setattr__(self, "lineage", _lineage(_frames_of(self.array), self.parents))

    def count(self) -> int:
        """Return the number of tracks."""
        return len(self.lineage)


def _frames_of(movie: npt.NDArray[np.int32]) -> dict[int, tuple[int, ...]]:
    """Return for each label, ascending, the frames that show it."""
    if movie.size and int(movie.min()) < 0:
        raise ValueError("labels of tracks are not negative")
    frames: dict[int, list[int]] = {}
    for t, frame in enumerate(movie):
        for label in _labels_of(frame):
            frames.setdefault(label, []).append(t)
    return {label: tuple(times) for label, times in sorted(frames.items()) if label}


def _labels_of(frame: npt.NDArray[np.int32]) -> list[int]:
    """Return the values in a frame, by a table of all that are possible unless that is the larger of the two."""
    small = frame.size and int(frame.max()) <= frame.size
    labels: list[int] = (np.flatnonzero(np.bincount(frame.ravel())) if small else np.unique(frame)).tolist()
    return labels


def _lineage(frames: Mapping[int, tuple[int, ...]], parents: Mapping[int, int]) -> dict[int, Track]:
    daughters: dict[int, list[int]] = {}
    for daughter, parent in sorted(parents.items()):
        if daughter not in frames or parent not in frames:
            raise ValueError(f"cell {parent} cannot be the parent of {daughter}: the movie does not show both")
        if frames[daughter][0] <= frames[parent][-1]:
            raise ValueError(f"cell {daughter} appears in frame {frames[daughter][0]}, when its parent {parent} lives")
        daughters.setdefault(parent, []).append(daughter)
    return {
        label: Track(
            label=label,
            frames=times,
            daughters=tuple(daughters.get(label, ())),
            capped=label in daughters,
            frame_div=min((frames[daughter][0] for daughter in daughters.get(label, ())), default=None),
            parent=parents.get(label),
        )
        for label, times in frames.items()
    }


Result: TypeAlias = Labels | Spots | AnyArray
"""What an analysis returns; an array has the axes (T, Y, X, C)."""


def as_image(array: AnyArray, axes: str) -> Image:
    """Return `array` in the layout (T, Y, X, C), float32; `axes` as for `laid_out`."""
    return np.ascontiguousarray(laid_out(array, axes), dtype=np.float32)


def laid_out(array: AnyArray, axes: str) -> AnyArray:
    """Return a view of `array` in the layout (T, Y, X, C).

    `axes` names each axis of `array`, one letter each: Y and X once, at most one of T, Z, B and I (frames or
    batch entries), and C or S (channels).  ValueError where the letters do not fit the array.
    """
    letters = axes.upper()
    if len(letters) != array.ndim:
        raise ValueError(f"axes {axes!r} name {len(letters)} axes, the array of shape {array.shape} has {array.ndim}")
    layout = "".join("T" if a in "TZBI" else "C" if a in "CS" else a for a in letters)
    if len(set(layout)) != len(layout) or not set(layout) <= set("TYXC") or not set("YX") <= set(layout):
        raise ValueError(f"axes {axes!r}: allowed are Y and X, one of T, Z, B, I and one of C, S, each once")
    present = array.transpose([layout.index(a) for a in "TYXC" if a in layout])
    missing = tuple(i for i, a in enumerate("TYXC") if a not in layout)
    return np.expand_dims(present, missing)
