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

from redis_consumer.processing import kernels
from redis_consumer.processing.planes import SIDE, blocks, grown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from redis_consumer.processing.planes import Rectangle, WritablePlane

    LabelImage = npt.NDArray[np.int32]
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
    """Objects; their ids are 1 to `count`, but for what is one block."""
    cut: int = 0
    """Those of which the widest halo did not show the end."""


def stitch(
    label: Callable[[Rectangle], LabelImage], targets: Sequence[WritablePlane], *, side: int = SIDE, halo: int = HALO
) -> list[Stitched]:
    """Write a label image into each of `targets`, planes (Y, X) of zeros, and return what was written.

    `label` returns label images (y, x, one for each target) of a rectangle of the plane, ids from 1 on, for what it
    sees there.  It is asked for blocks of `side` pixels with their halos.  What is one block keeps the ids that it has.
    """
    shape = targets[0].shape
    results = [Stitched() for _ in targets]
    cores = list(blocks(shape, side))
    if len(cores) == 1:
        return _whole(label(cores[0]), targets, cores[0])
    for core in cores:
        views = _wide_enough(label, core, shape, halo)
        for view, target, result in zip(views, targets, results, strict=True):
            view.write(target, result)
    return results


def _whole(labels: LabelImage, targets: Sequence[WritablePlane], place: Rectangle) -> list[Stitched]:
    for feature, target in enumerate(targets):
        target[place] = labels[..., feature]
    present = (np.bincount(plane.ravel(), minlength=1)[1:] for plane in np.moveaxis(labels, -1, 0))
    return [Stitched(count=int(np.count_nonzero(sizes))) for sizes in present]


def _wide_enough(
    label: Callable[[Rectangle], LabelImage], core: Rectangle, shape: tuple[int, ...], halo: int
) -> list[_View]:
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

    def __init__(self, labels: LabelImage, outer: Rectangle, core: Rectangle, shape: tuple[int, ...]) -> None:
        self.labels = labels
        self.outer = outer
        self.sizes = kernels.sizes(labels)
        rows, columns = (
            slice(inner.start - around.start, inner.stop - around.start)
            for around, inner in zip(outer, core, strict=True)
        )
        near = grown((rows, columns), NEAR, labels.shape)
        in_core = kernels.sizes(labels[rows, columns], self.sizes.size)
        inside, beyond = in_core > 0, in_core < self.sizes
        inside[0] = beyond[0] = False  # the background
        at_the_end = self._marked(*self._ends(shape))
        self.cut = inside & at_the_end
        """For each id, whether it has a pixel in the core and reaches the end of the halo, and perhaps beyond."""
        self.own = inside & ~beyond
        """Whether its middle lies in the core."""
        in_sight = inside | self._marked(*_around(labels, near, (rows, columns)))
        doubtful = in_sight & beyond & (inside | ~at_the_end)
        self.own[_with_middle_in(near, labels, doubtful)] = True

    def write(self, target: WritablePlane, result: Stitched) -> None:
        """Write the block's own objects, those that are not there yet."""
        there = target[self.outer]
        taken = kernels.sizes(self.labels, self.sizes.size, there)
        new = self.own & (taken <= SAME * self.sizes)
        ids = np.zeros(self.sizes.size, np.int32)
        ids[new] = result.count + 1 + np.arange(np.count_nonzero(new))
        kernels.paste(ids, self.labels, there)
        target[self.outer] = there
        result.count += int(np.count_nonzero(new))
        result.cut += int(np.count_nonzero(self.cut & new))

    def _marked(self, *parts: LabelImage) -> Mask:
        """Return for each id whether it is in one of `parts`."""
        marked = np.zeros(self.sizes.size, bool)
        for ids in parts:
            marked[ids] = True
        marked[0] = False
        return marked

    def _ends(self, shape: tuple[int, ...]) -> Iterator[LabelImage]:
        """Yield the lines where the view ends, but not the plane."""
        for axis, (around, size) in enumerate(zip(self.outer, shape, strict=True)):
            lines = np.moveaxis(self.labels, axis, 0)
            if around.start > 0:
                yield lines[0]
            if around.stop < size:
                yield lines[-1]


def _around(labels: LabelImage, place: Rectangle, inner: Rectangle) -> list[LabelImage]:
    """Return what of `labels` lies in one rectangle around another."""
    rows, columns = place
    above, below = slice(rows.start, inner[0].start), slice(inner[0].stop, rows.stop)
    left, right = slice(columns.start, inner[1].start), slice(inner[1].stop, columns.stop)
    return [labels[above, columns], labels[below, columns], labels[inner[0], left], labels[inner[0], right]]


def _with_middle_in(place: Rectangle, labels: LabelImage, chosen: Mask) -> LabelImage:
    """Return which of the `chosen` ids have their middle in a rectangle of `labels` (Y, X).

    It is a pixel of the object, so that a block which has it in view has the object in view: in the row of the centroid
    the one nearest to it.  An object in pieces may have none in that row: then any row will do.
    """
    y, x = np.divmod(kernels.places_of(chosen, labels), labels.shape[1])
    ids = labels[y, x]
    sizes = np.maximum(np.bincount(ids, minlength=chosen.size), 1)
    centre_y, centre_x = (np.bincount(ids, where, minlength=chosen.size) / sizes for where in (y, x))
    in_row = y == np.round(centre_y)[ids]
    candidates = in_row | (np.bincount(ids[in_row], minlength=chosen.size) == 0)[ids]
    y, x, ids = y[candidates], x[candidates], ids[candidates]
    order = np.lexsort((abs(x - centre_x[ids]), ids))
    ids, first = np.unique(ids[order], return_index=True)
    y, x = y[order][first], x[order][first]
    rows, columns = place
    found: LabelImage = ids[(y >= rows.start) & (y < rows.stop) & (x >= columns.start) & (x < columns.stop)]
    return found
