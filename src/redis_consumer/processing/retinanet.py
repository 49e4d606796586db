"""Label images from boxes with masks, as RetinaMask models predict them (the `retinanet` post-processings).

Masks overlap.  A pixel that several claim goes to the one whose own pixels a random walk from there meets first
(Grady, "Random walks for image segmentation", IEEE PAMI 2006).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # both load their parts at their first use

from redis_consumer.processing.checks import require_finite
from redis_consumer.processing.flooding import flood
from redis_consumer.processing.labels import compact, remove_small
from redis_consumer.scikit import ski

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray

    LabelImage = npt.NDArray[np.int32]
    Mask = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.floating]
    Pixels = npt.NDArray[np.intp]  # places in a flat image

_HEADS = 4  # boxes, scores, classes, masks
_BESIDES = 2  # masks that may overlap a mask by much, itself included
_DISK = 4 * np.pi  # perimeter squared over area: least for a disk


def retinanet(
    outputs: Sequence[AnyArray],
    size: tuple[int, int] | None = None,
    *,
    score_threshold: float = 0.5,
    multi_iou_threshold: float = 0.25,
    binarize_threshold: float = 0.5,
    small_objects_threshold: int = 100,
) -> LabelImage:
    """Return labels (T, Y, X, 1) of `size` rows and columns, ids 1 to n in each frame.

    The last four of `outputs` are boxes (T, N, 4: first column, first row, last column, last row, in pixels), scores
    (T, N), classes, and masks (T, N, rows, columns, classes), of which the last class counts.

    Boxes of a score above `score_threshold` count, cut off at the border of the image.  Their masks are resized to
    them and are what exceeds `binarize_threshold`.  A mask that overlaps more than one other by more than
    `multi_iou_threshold` (intersection over union) is dropped.  Masks that overlap no other have the first ids.
    Objects of fewer than `small_objects_threshold` pixels are removed.

    ValueError without `size`, or for outputs of other shapes.
    """
    if size is None:
        raise ValueError("retinanet: the rows and columns of the image are not known")
    boxes, scores, masks = _heads(outputs)
    result = np.empty((len(boxes), *size, 1), np.int32)
    for box, score, mask, out in zip(boxes, scores, masks, result[..., 0], strict=True):
        kept = score > score_threshold
        objects = _pasted(mask[kept], box[kept], size, binarize_threshold)
        labels = _labelled(objects, size, multi_iou_threshold)
        out[...] = compact(remove_small(labels, small_objects_threshold))
    return result


def retinanet_semantic(
    outputs: Sequence[AnyArray],
    *,
    watershed_threshold: float = 0.5,
    perimeter_area_threshold: float = 2,
    small_objects_threshold: int = 100,
    **boxes: Any,
) -> LabelImage:
    """Return labels (T, Y, X, 1) of what `retinanet` finds, and of objects without a box by their steps of depth.

    The last of `outputs` holds the steps, (T, Y, X, steps), step 0 the background; the others are those of `retinanet`,
    whose other parameters `boxes` are.  Where no box has an object, seeds are what exceeds `watershed_threshold` in
    the deepest step, flooded over all that is not background.  Ragged ones are dropped: their perimeter squared,
    over their area, is more than `perimeter_area_threshold` times that of a disk.  Their ids follow.
    """
    *heads, semantic = outputs
    if semantic.ndim != 4:  # noqa: PLR2004 - the four axes of the layout
        raise ValueError(f"retinanet-semantic: the steps have shape {semantic.shape}: expected are (T, Y, X, steps)")
    result = retinanet(heads, (semantic.shape[1], semantic.shape[2]), small_objects_threshold=0, **boxes)
    if len(result) != len(semantic):
        raise ValueError(f"retinanet-semantic: boxes are of {len(result)} frames, steps of {len(semantic)}")
    for steps, labels in zip(semantic, result[..., 0], strict=True):
        added = _from_depth(steps, labels == 0, watershed_threshold, perimeter_area_threshold)
        together = np.where(added > 0, added + labels.max(initial=0), labels)
        labels[...] = compact(remove_small(together, small_objects_threshold))
    return result


def _heads(outputs: Sequence[AnyArray]) -> tuple[Floats, Floats, Floats]:
    """Return boxes, scores, and the masks of the last class."""
    shapes = [output.shape for output in outputs]
    if len(outputs) < _HEADS:
        raise ValueError(f"retinanet: outputs of shapes {shapes}: expected are boxes, scores, classes and masks")
    boxes, scores, _, masks = outputs[-_HEADS:]
    if boxes.ndim != 3 or boxes.shape != (*scores.shape, 4) or masks.ndim != 5 or masks.shape[:2] != scores.shape:  # noqa: PLR2004 - as the docstring of `retinanet` says
        raise ValueError(f"retinanet: outputs of shapes {shapes}: expected are boxes, scores, classes and masks")
    require_finite(boxes, "retinanet: the output of boxes")
    return boxes, scores, masks[..., -1].astype(np.float32, copy=False)  # type: ignore[return-value]  # numbers


def _pasted(masks: Floats, boxes: Floats, size: tuple[int, int], threshold: float) -> list[Pixels]:
    """Return the pixels of each mask where its box is."""
    rows, columns = size
    corners = np.clip(boxes, 0, [columns, rows, columns, rows]).astype(int)
    return [_pixels(mask, corner, columns, threshold) for mask, corner in zip(masks, corners.tolist(), strict=True)]


def _pixels(mask: Floats, corners: list[int], width: int, threshold: float) -> Pixels:
    left, top, right, bottom = corners
    if right <= left or bottom <= top:
        return np.empty(0, np.intp)
    y, x = np.nonzero(ski.transform.resize(mask, (bottom - top, right - left)) > threshold)
    return (y + top) * width + x + left


def _labelled(objects: Sequence[Pixels], size: tuple[int, int], iou_threshold: float) -> LabelImage:
    """Return a label image of objects that overlap: isolated ones first, then the others that are not crowded."""
    labels = np.zeros(size, np.int32)
    overlap, most = _overlaps(objects, size[0] * size[1], iou_threshold)
    isolated = [pixels for pixels, total in zip(objects, overlap, strict=True) if total == 1]
    for i, pixels in enumerate(isolated, start=1):
        labels.flat[pixels] = i
    crowd = [p for p, total, near in zip(objects, overlap, most, strict=True) if total > 1 and near <= _BESIDES]
    shared = _parted(crowd, size)
    return np.where(shared > 0, shared + len(isolated), labels)


def _overlaps(
    objects: Sequence[Pixels], pixels: int, threshold: float
) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Return for each object the sum of its intersections over union with all, itself too; and how many exceed."""
    count, areas = len(objects), np.array([p.size for p in objects], np.int64)
    if not areas.sum():
        return np.zeros(count), np.zeros(count, np.intp)
    ends = np.concatenate([[0], np.cumsum(areas)])
    members = scipy.sparse.csr_array((np.ones(ends[-1], np.int64), np.concatenate(objects), ends), (count, pixels))
    common = (members @ members.T).tocoo()
    one, other = common.coords
    iou = common.data / (areas[one] + areas[other] - common.data)
    return np.bincount(one, iou, count), np.bincount(one[iou > threshold], minlength=count)


def _parted(objects: Sequence[Pixels], size: tuple[int, int]) -> LabelImage:
    """Return a label image of objects, each of whose pixels has one id.

    Where no walk leads to a pixel of one object alone, the first of the objects has it.
    """
    covered, labels = np.zeros(size, np.int32), np.zeros(size, np.int32)
    for i, pixels in reversed(list(enumerate(objects, start=1))):
        covered.flat[pixels] += 1
        labels.flat[pixels] = i
    seeds = np.where(covered == 1, labels, 0)
    open_ = (covered > 1) & scipy.ndimage.binary_propagation(seeds > 0, mask=covered > 0)
    if open_.any():
        labels[open_] = _walked(np.where((covered > 1) & ~open_, -1, np.where(covered > 0, seeds, -1)))[open_]
    return labels


def _walked(seeds: LabelImage) -> LabelImage:
    """Return `seeds` with every 0 replaced by the id that a random walk meets first, -1 a wall."""
    # A wall around: where there is none at all, scikit-image divides by zero.
    walls = np.pad(seeds, 1, constant_values=-1)
    open_ground = (walls >= 0).astype(np.float64)
    met = ski.segmentation.random_walker(open_ground, walls, mode="cg_j", prob_tol=1)[1:-1, 1:-1]
    ids = np.unique(seeds[seeds > 0])  # it numbers them anew
    result: LabelImage = np.append(0, ids)[np.maximum(met, 0)]
    return result


def _from_depth(steps: Floats, free: Mask, threshold: float, ragged: float) -> LabelImage:
    depth = np.argmax(steps, axis=-1)
    markers, _ = scipy.ndimage.label((steps[..., -1] > threshold) & free, np.ones((3, 3)))
    labels = flood(depth, markers, (depth > 0) & free)
    for region in ski.measure.regionprops(labels):
        if region.perimeter**2 > ragged * _DISK * region.area:
            labels[region.slice][region.image] = 0
    return labels
