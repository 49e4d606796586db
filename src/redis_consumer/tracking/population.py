"""All cells of a movie in one table, and how tracks come of what links them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.arrays import Tracks
from redis_consumer.tracking.cells import measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from redis_consumer.tracking.cells import Cells

    Indices = npt.NDArray[np.intp]
    Integers = npt.NDArray[np.integer]
    Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Population:
    """The N cells of a movie, frame by frame, and within a frame by their first pixel.

    So their order, and with it every choice between equals, does not depend on the labels they came with.
    """

    ids: Indices
    """Label in the frame."""
    frames: Indices
    centroids: Doubles
    areas: Doubles
    starts: Indices
    """(T + 1,): the cells of frame t are rows starts[t] to starts[t + 1]."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def diameters(self) -> Doubles:
        """Of circles of the cells' areas, in pixels."""
        diameters: Doubles = 2 * np.sqrt(self.areas / np.pi)
        return diameters

    def rows(self, t: int) -> slice:
        """Return where the cells of frame `t` stand."""
        return slice(int(self.starts[t]), int(self.starts[t + 1]))


def checked_movie(labels: Integers, movie: npt.NDArray[np.generic] | None = None) -> Integers:
    """Return `labels`; ValueError for what is no movie of label images (T, Y, X), or not those of `movie`."""
    if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer):  # noqa: PLR2004 - frames, rows, columns
        raise ValueError(f"a movie of labels has integers and shape (T, Y, X), not {labels.dtype} {labels.shape}")
    if len(labels) < 2:  # noqa: PLR2004 - a link takes two
        raise ValueError(f"a movie has at least two frames, this one has {len(labels)}")
    if labels.size and int(labels.min()) < 0:
        raise ValueError("labels are not negative")
    if movie is not None and movie.shape[:3] != labels.shape:
        raise ValueError(f"a movie of shape {movie.shape} does not fit labels of shape {labels.shape}")
    return labels


def populate(labels: Integers) -> Population:
    """Return the cells of a movie (T, Y, X)."""
    frames = [_in_raster_order(measure(frame)) for frame in labels]
    counts = [len(cells) for cells in frames]
    return Population(
        ids=np.concatenate([cells.ids for cells in frames]),
        frames=np.repeat(np.arange(len(frames)), counts),
        centroids=np.concatenate([cells.centroids for cells in frames]),
        areas=np.concatenate([cells.areas for cells in frames]).astype(np.float64),
        starts=np.concatenate([[0], np.cumsum(counts)]),
    )


def _in_raster_order(cells: Cells) -> Cells:
    return cells.ordered(np.argsort(cells.first))


def inverse(links: Indices) -> Indices:
    """Return who points at each cell, -1 for nobody: of next cells the previous ones, and the other way round."""
    result = np.full(len(links), -1)
    linked = np.flatnonzero(links >= 0)
    result[links[linked]] = linked
    return result


def tracks_of(labels: Integers, cells: Population, before: Indices, mothers: Indices) -> Tracks:
    """Return tracks, numbered as they begin.

    `before` is the same cell in an earlier frame, `mothers` the cell that divided into this one; -1 is none.
    """
    begins = before < 0
    track = np.cumsum(begins, dtype=np.intp)
    for cell in np.flatnonzero(~begins):  # in the order of frames, so the earlier one is known
        track[cell] = track[before[cell]]
    daughters = np.flatnonzero(mothers >= 0)
    parents = {int(track[cell]): int(track[mothers[cell]]) for cell in daughters}
    return Tracks(relabelled(labels, [(cells.ids[r], track[r]) for r in map(cells.rows, range(len(labels)))]), parents)


def relabelled(labels: Integers, new: Sequence[tuple[Indices, Indices]]) -> npt.NDArray[np.int32]:
    """Return a movie in which the ids of each frame, ascending or not, are replaced by new ones."""
    result = np.zeros(labels.shape, np.int32)
    for frame, out, (ids, values) in zip(labels, result, new, strict=True):
        if not len(ids):
            continue
        order = np.argsort(ids)
        inside = frame > 0
        out[inside] = values[order][np.searchsorted(ids[order], frame[inside])]
    return result
