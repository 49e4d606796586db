from __future__ import annotations

import numpy as np
import pytest

from redis_consumer.spots import cell_of_spots, match_spots_to_cells, spot_table

LABELS = np.array([[1, 1, 0], [0, 2, 2]], np.int32)


@pytest.mark.parametrize(
    ("point", "cell"),
    [
        ((0, 0), 1),
        ((0.99, 1.99), 1),
        ((1, 2.999), 2),
        ((-0.4, -0.999), 1),
        ((-1, 1), 0),
        ((-1.2, 1), 0),
        ((2, 1), 0),
        ((1, 3), 0),
        ((1e30, 1), 0),
        ((np.nan, 1), 0),
        ((1, -np.inf), 0),
    ],
)
def test_a_spot_lies_in_the_pixel_that_it_is_cut_to(point: tuple[float, float], cell: int) -> None:
    assert cell_of_spots(LABELS, np.array([point], float)).tolist() == [cell]


def test_cells_come_in_the_order_of_their_first_spots() -> None:
    points = np.array([[1.5, 1.0], [0.5, 2.5], [0.0, 0.0], [1.0, 2.0]])
    cells = match_spots_to_cells(LABELS, points)
    assert list(cells) == [2, 0, 1]
    assert [[point.tolist() for point in found] for found in cells.values()] == [
        [[1.5, 1.0], [1.0, 2.0]],
        [[0.5, 2.5]],
        [[0.0, 0.0]],
    ]


def test_no_spots_and_no_cells_are_no_fault() -> None:
    assert match_spots_to_cells(LABELS, np.empty((0, 2))) == {}
    assert cell_of_spots(np.zeros((0, 4), int), np.array([[0.0, 0.0]])).tolist() == [0]


@pytest.mark.parametrize(("labels", "points"), [((1, 2, 3), (4, 2)), ((2, 3), (4,)), ((2, 3), (4, 3))])
def test_other_shapes_are_refused(labels: tuple[int, ...], points: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="spots: labels have shape"):
        cell_of_spots(np.zeros(labels, int), np.zeros(points))


def test_a_table_has_the_column_first_and_an_id_for_each_label_image() -> None:
    points = np.array([[1.5, 2.25], [0.0, 2.0]])
    table = spot_table(points, np.stack([LABELS, LABELS * 10], axis=-1))
    assert table.header == ("x", "y", "cellID0", "cellID1")
    assert table.rows == ((2.25, 1.5, 2, 20), (2.0, 0.0, 0, 0))


def test_a_table_without_labels_has_places_only() -> None:
    table = spot_table(np.array([[1.5, 2.25]]))
    assert (table.header, table.rows) == (("x", "y"), ((2.25, 1.5),))
    assert spot_table(np.empty((0, 2)), LABELS[..., None]).rows == ()


def test_labels_without_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected are \(Y, X, C\)"):
        spot_table(np.empty((0, 2)), LABELS)
