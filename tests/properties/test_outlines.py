"""Outlines hold exactly the pixels of their objects, whatever the label image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as some

import redis_consumer.results.outlines
from redis_consumer.processing import planes
from redis_consumer.results import label_images
from redis_consumer.results.outlines import outlines, signed_area

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.results.outlines import Polygon

    LabelPlane = npt.NDArray[np.integer[Any]]

# Few labels on few pixels: pieces, holes and corners that touch come up all the time.
PLANES = some.arrays(
    st.sampled_from([np.uint8, np.int32, np.int64]),
    some.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.integers(0, 3),
)


def filled(labels: LabelPlane) -> LabelPlane:
    """Return the label image that the outlines of `labels` paint, by the middle of each pixel."""
    y, x = np.indices(labels.shape) + 0.5
    painted = np.zeros_like(labels)
    for label, polygons in outlines(labels):
        for outer, *holes in polygons:
            painted[shapely.contains_xy(shapely.Polygon(outer, holes), x, y)] = label
    return painted


@settings(max_examples=400, deadline=None)
@given(PLANES)
def test_outlines_paint_the_label_image(labels: LabelPlane) -> None:
    np.testing.assert_array_equal(filled(labels), labels)


@settings(max_examples=400, deadline=None)
@given(PLANES)
def test_outlines_are_valid_and_simplified_without_loss(labels: LabelPlane) -> None:
    for label, polygons in outlines(labels):
        assert shapely.MultiPolygon([(outer, holes) for outer, *holes in polygons]).is_valid
        for ring in (ring for polygon in polygons for ring in polygon):
            assert ring[0].tolist() == ring[-1].tolist()
            assert len(np.unique(ring[:-1], axis=0)) == len(ring) - 1 >= 4
            steps = np.diff(ring, axis=0)
            assert np.all(np.count_nonzero(steps, axis=1) == 1), "every side is one of pixels"
            horizontal = steps[:, 0] != 0
            assert np.all(horizontal != np.roll(horizontal, 1)), "no point lies on a line between its neighbours"
        assert all(signed_area(outer) > 0 for outer, *_ in polygons)
        assert all(signed_area(hole) < 0 for _, *holes in polygons for hole in holes)
        area = sum(signed_area(ring) for polygon in polygons for ring in polygon)
        assert area == np.count_nonzero(labels == label)


@settings(max_examples=200, deadline=None)
@given(PLANES)
def test_neighbours_share_their_border(labels: LabelPlane) -> None:
    shapes = [shapely.MultiPolygon([(outer, holes) for outer, *holes in polygons]) for _, polygons in outlines(labels)]
    for i, one in enumerate(shapes):
        for other in shapes[i + 1 :]:
            assert one.intersection(other).area == 0


@settings(max_examples=400, deadline=None)
@given(PLANES, st.integers(1, 4))
def test_blocks_leave_no_trace(labels: LabelPlane, side: int) -> None:
    whole = dict(outlines(labels))
    with pytest.MonkeyPatch.context() as patch:
        for module in (label_images, redis_consumer.results.outlines):
            patch.setattr(module, "blocks", lambda shape: planes.blocks(shape, side))
        by_blocks = dict(outlines(labels))
    assert whole.keys() == by_blocks.keys()
    for label, polygons in whole.items():
        assert as_lists(by_blocks[label]) == as_lists(polygons)


def as_lists(polygons: list[Polygon]) -> list[list[list[list[int]]]]:
    return [[ring.tolist() for ring in polygon] for polygon in polygons]
