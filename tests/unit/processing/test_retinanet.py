from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from redis_consumer.processing import retinanet, retinanet_semantic

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

SIZE = (60, 80)


def heads(*boxes: tuple[float, float, float, float], scores: list[float] | None = None) -> list[Array]:
    """Return boxes (column, row, column, row), scores, classes, and masks that fill their boxes."""
    count = len(boxes)
    return [
        np.array(boxes, np.float32).reshape(1, count, 4),
        np.array([scores or [0.9] * count], np.float32),
        np.zeros((1, count), np.int32),
        np.ones((1, count, 28, 28, 2), np.float32),
    ]


def labels_of(*outputs: Array, **params: Any) -> Array:
    (labels,) = retinanet(outputs, SIZE, **params)
    return np.asarray(labels[..., 0])


def test_a_mask_lies_where_its_box_is() -> None:
    labels = labels_of(*heads((10.9, 20.2, 30.5, 35.8)))
    expected = np.zeros(SIZE, int)
    expected[20:35, 10:30] = 1
    np.testing.assert_array_equal(labels, expected)


def test_masks_that_overlap_follow_those_that_do_not() -> None:
    labels = labels_of(*heads((0, 0, 20, 20), (15, 0, 35, 20), (50, 30, 70, 50)))
    assert [labels[y, x] for y, x in ((10, 5), (10, 30), (40, 60))] == [2, 3, 1]
    np.testing.assert_array_equal(labels[:20, :35] > 0, np.ones((20, 35), bool))
    assert {labels[10, 16], labels[10, 33]} == {2, 3}


def test_a_mask_in_a_crowd_is_dropped() -> None:
    middle = (10, 0, 50, 20)
    crowd = heads((0, 0, 26, 20), middle, (34, 0, 60, 20))
    assert labels_of(*crowd).max() == 2
    assert labels_of(*crowd, multi_iou_threshold=0.9).max() == 3


def test_masks_that_cover_each_other_leave_one_object() -> None:
    same = (10, 10, 30, 30)
    labels = labels_of(*heads(same, same))
    assert np.unique(labels).tolist() == [0, 1]
    assert np.count_nonzero(labels) == 400


def test_an_image_full_of_masks_is_parted() -> None:
    labels = labels_of(*heads((0, 0, 50, 60), (30, 0, 80, 60)))
    assert np.unique(labels).tolist() == [1, 2]
    assert labels[30, 10] == 1
    assert labels[30, 70] == 2


def test_low_scores_and_small_objects_do_not_count() -> None:
    outputs = heads((0, 0, 20, 20), (30, 0, 39, 10), (50, 0, 60, 10), scores=[0.5, 0.9, 0.9])
    assert np.unique(labels_of(*outputs)).tolist() == [0, 1]
    assert labels_of(*outputs, score_threshold=0.4, small_objects_threshold=90).max() == 3


def test_boxes_are_cut_off_at_the_border() -> None:
    labels = labels_of(*heads((-20, -5, 15, 15), (70, 50, 1e9, 1e9), (5, 30, 5, 40), (30, 10, 20, 20)))
    assert labels[0, 0] == 1
    assert labels[-1, -1] == 2
    assert np.count_nonzero(labels) == 225 + 100


def test_frames_are_labelled_alone() -> None:
    both = [np.concatenate(pair) for pair in zip(heads((0, 0, 20, 20)), heads((40, 20, 60, 40)), strict=True)]
    labels = retinanet(both, SIZE)
    assert labels.shape == (2, *SIZE, 1)
    assert labels.max(axis=(1, 2, 3)).tolist() == [1, 1]


def test_no_boxes_are_no_objects() -> None:
    assert not labels_of(*heads()).any()
    assert not labels_of(*heads((0, 0, 20, 20), scores=[0.1])).any()


@pytest.mark.parametrize(
    ("outputs", "size", "message"),
    [
        (heads((0, 0, 9, 9)), None, "not known"),
        (heads((0, 0, 9, 9))[1:], SIZE, "expected are boxes, scores"),
        ([*heads((0, 0, 9, 9))[:3], np.ones((1, 2, 28, 28, 1))], SIZE, "expected are boxes, scores"),
        (heads((0, np.nan, 9, 9)), SIZE, "not finite"),
    ],
)
def test_other_outputs_are_refused(outputs: list[Array], size: tuple[int, int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retinanet(outputs, size)


def steps(*centres: tuple[int, int]) -> Array:
    """Return three steps of depth (1, *SIZE, 3) around centres, deepest within 5 pixels."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = np.min([np.hypot(y - cy, x - cx) for cy, cx in centres], axis=0)
    depth: Array = np.eye(3, dtype=np.float32)[np.digitize(-distance, [-12, -5])]
    return depth[None]


def test_objects_without_a_box_are_added() -> None:
    outputs = [*heads((8, 8, 33, 33)), steps((20, 20), (40, 60))]
    (labels,) = retinanet_semantic(outputs)[..., 0]
    assert [labels[y, x] for y, x in ((20, 20), (40, 60), (55, 5))] == [1, 2, 0]
    np.testing.assert_array_equal(labels == 1, labels_of(*outputs[:-1]) == 1)


def test_ragged_and_small_additions_are_dropped() -> None:
    comb = steps((40, 60))
    comb[0, 28:53:2, 48:73] = [1, 0, 0]
    comb[0, 28:53, 60] = [0, 0, 1]
    assert not retinanet_semantic([*heads(), comb]).any()
    assert retinanet_semantic([*heads(), comb], perimeter_area_threshold=1000).any()
    assert not retinanet_semantic([*heads(), steps((40, 60))], small_objects_threshold=1000).any()


def test_steps_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="retinanet-semantic: the steps have shape"):
        retinanet_semantic([*heads(), np.zeros((60, 80, 3), np.float32)])
    with pytest.raises(ValueError, match="boxes are of 1 frames, steps of 2"):
        retinanet_semantic([*heads(), np.zeros((2, 60, 80, 3), np.float32)])
