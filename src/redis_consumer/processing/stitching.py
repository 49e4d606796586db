"""Label images too large for the memory: labelled block by block, so that no seam is seen.

Each block is labelled with a halo around it, wide enough to show every object of the block whole: where one reaches the
halo's end, the halo is widened and the block labelled anew.  An object belongs to the block in which its middle lies:
that one writes all of it, also what reaches into others.  These see the same object, and leave it alone.  So nothing
has to be joined, and what is decided about an object is decided with all of it, and its neighbours, in view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.processing.planes import SIDE, blocks, grown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from redis_consumer.processing.planes import Rectangle, WritablePlane

    Ids = npt.NDArray[np.integer]
    Mask = npt.NDArray[np.bool_]

HALO = 128
"""Of a block, in pixels: several nuclei, and ten times what the filters of a post-processing look at."""
WIDEST_HALO = 1024
"""It is doubled up to here: of an object that reaches further, a part may be missing."""
NEAR = 1
"""How far outside of a block, in pixels, the middle of an object may lie: two may see it a little differently."""
SAME = 0.5
"""Share of its pixels that are taken already by which an object is known to be there."""


@dataclass
class Stitched:
    """What `stitch` wrote."""

    count: int = 0
    """Objects; their ids are 1 to `count`."""
    cut: int = 0
    """Those of which the widest halo did not show the end."""


def stitch(
    label: Callable[[Rectangle], Ids], targets: Sequence[WritablePlane], *, side: int = SIDE, halo: int = HALO
) -> list[Stitched]:
    """Write a label image into each of `targets`, planes (Y, X) of zeros, and return what was written.

    `label` returns label images (y, x, one for each target) of a rectangle of the plane, ids from 1 on, for what it
    sees there.  It is asked for blocks of `side` pixels with their halos.
    """
    shape = targets[0].shape
    results = [Stitched() for _ in targets]
    for core in blocks(shape, side):
        views = _wide_enough(label, core, shape, halo)
        for view, target, result in zip(views, targets, results, strict=True):
            view.write(target, result)
    return results


def _wide_enough(label: Callable[[Rectangle], Ids], core: Rectangle, shape: tuple[int, ...], halo: int) -> list[_View]:
    """Return a view of each label image that shows all objects of `core`."""
    while True:
        outer = grown(core, halo, shape)
        labels = label(outer)
        views = [_View(labels[..., feature], outer, core, shape) for feature in range(labels.shape[-1])]
        if halo >= WIDEST_HALO or not any(view.cut.any() for view in views):
            return views
        halo *= 2


class _View:
    """One label image of a block with its halo."""

    def __init__(self, labels: Ids, outer: Rectangle, core: Rectangle, shape: tuple[int, ...]) -> None:
        self.labels = labels
        self.outer = outer
        rows, columns = (
            slice(inner.start - around.start, inner.stop - around.start)
            for around, inner in zip(outer, core, strict=True)
        )
        self.sizes = np.bincount(labels.ravel(), minlength=1)
        inside, at_the_end = self._marked(labels[rows, columns]), self._at_the_end(shape)
        middles = _middles(labels, self.sizes)[grown((rows, columns), NEAR, labels.shape)]
        self.cut = inside & at_the_end
        """For each id, whether it has a pixel in the core and reaches the end of the halo, and perhaps beyond."""
        self.own = self._marked(middles) & (inside | ~at_the_end)
        """Whether its middle lies in the core."""

    def write(self, target: WritablePlane, result: Stitched) -> None:
        """Write the block's own objects, those that are not there yet."""
        there = target[self.outer]
        taken = np.bincount(self.labels[there > 0], minlength=self.sizes.size)
        new = self.own & (taken <= SAME * self.sizes)
        ids = np.zeros(self.sizes.size, there.dtype)
        ids[new] = result.count + 1 + np.arange(np.count_nonzero(new))
        np.copyto(there, ids[self.labels], where=new[self.labels] & (there == 0))
        target[self.outer] = there
        result.count += int(np.count_nonzero(new))
        result.cut += int(np.count_nonzero(self.cut & new))

    def _marked(self, ids: Ids) -> Mask:
        """Return for each id whether it is among `ids`."""
        marked = np.zeros(self.sizes.size, bool)
        marked[ids] = True
        marked[0] = False
        return marked

    def _at_the_end(self, shape: tuple[int, ...]) -> Mask:
        ends = [self.labels[:0]]
        for axis, (around, size) in enumerate(zip(self.outer, shape, strict=True)):
            lines = np.moveaxis(self.labels, axis, 0)
            ends += [lines[:1]] if around.start > 0 else []
            ends += [lines[-1:]] if around.stop < size else []
        return self._marked(np.concatenate([end.ravel() for end in ends]))


def _middles(labels: Ids, sizes: npt.NDArray[np.intp]) -> Ids:
    """Return `labels` (Y, X) with one pixel of each object alone: in the row of its centroid the one nearest to it.

    A pixel of its own, so that a block which has it in view has the object in view.  An object in pieces may have none
    in that row: of such, all pixels.
    """
    rows, columns = (_mean_index(labels, axis, sizes) for axis in (0, 1))
    y, x = np.nonzero((np.round(rows)[labels] == np.arange(len(labels))[:, None]) & (labels > 0))
    order = np.lexsort((abs(x - columns[labels[y, x]]), labels[y, x]))
    ids, first = np.unique(labels[y, x][order], return_index=True)
    y, x = y[order][first], x[order][first]
    everywhere = np.ones(sizes.size, bool)
    everywhere[ids] = False
    middles = np.where(everywhere[labels], labels, 0)
    middles[y, x] = ids
    return middles


def _mean_index(labels: Ids, axis: int, sizes: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Return for each id the mean index of its pixels along an axis."""
    indices = np.arange(labels.shape[axis], dtype=np.float64).reshape((-1, 1) if axis == 0 else (1, -1))
    total = np.bincount(labels.ravel(), np.broadcast_to(indices, labels.shape).ravel(), minlength=sizes.size)
    return total / np.maximum(sizes, 1)
