from __future__ import annotations

import numpy as np
import pytest

from redis_consumer.results.outlines import outlines, signed_area


def rings(rows: list[str], label: int = 1) -> list[list[list[list[int]]]]:
    """Return the polygons of an object in a picture of digits."""
    plane = np.array([[int(digit) for digit in row] for row in rows])
    return [[ring.tolist() for ring in polygon] for polygon in dict(outlines(plane)).get(label, [])]


def test_a_pixel_is_a_square_that_runs_along_its_edges() -> None:
    assert rings(["000", "001"]) == [[[[2, 1], [3, 1], [3, 2], [2, 2], [2, 1]]]]


def test_an_object_at_every_border_is_the_whole_image() -> None:
    assert rings(["1111", "1111"]) == [[[[0, 0], [4, 0], [4, 2], [0, 2], [0, 0]]]]


def test_a_hole_is_a_ring_of_its_own_the_other_way_round() -> None:
    ((outer, hole),) = rings(["111", "101", "111"])
    assert outer == [[0, 0], [3, 0], [3, 3], [0, 3], [0, 0]]
    assert sorted(hole[1:]) == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_a_hole_may_hold_another_object() -> None:
    assert len(rings(["111", "121", "111"])[0]) == 2
    assert rings(["111", "121", "111"], 2) == [[[[1, 1], [2, 1], [2, 2], [1, 2], [1, 1]]]]


def test_pieces_that_touch_at_a_corner_are_two_polygons() -> None:
    assert [len(polygon) for polygon in rings(["10", "01"])] == [1, 1]


def test_a_hole_that_touches_the_outside_at_a_corner_is_a_hole() -> None:
    ((outer, hole),) = rings(["0111", "1011", "1111"])
    assert outer.count([1, 1]) == hole[:-1].count([1, 1]) == 1


def test_holes_that_touch_at_a_corner_are_two_holes() -> None:
    ((_, *holes),) = rings(["1111", "1011", "1101", "1111"])
    assert [len(hole) for hole in holes] == [5, 5]


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (4, 6)])
def test_an_image_without_objects_has_no_outlines(shape: tuple[int, int]) -> None:
    assert list(outlines(np.zeros(shape, np.int32))) == []


def test_labels_come_in_their_order_whatever_their_values() -> None:
    plane = np.array([[2**40, 0, 7], [7, 0, 2**24]])
    found = dict(outlines(plane))
    assert list(found) == [7, 2**24, 2**40]
    assert len(found[7]) == 2


def test_a_sponge_is_one_polygon_with_all_its_holes() -> None:
    """One walk of many thousand corners, many of them met a second time."""
    plane = np.array(np.random.default_rng(1).random((400, 400)) < 0.75, np.int32)
    ((_, found),) = outlines(plane)
    assert max(len(polygon) for polygon in found) > 10_000
    assert sum(signed_area(ring) for polygon in found for ring in polygon) == plane.sum()
