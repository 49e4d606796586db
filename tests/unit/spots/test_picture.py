from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from redis_consumer.spots import spot_picture
from redis_consumer.spots.picture import COLOR, RADIUS

COORDINATES = st.floats(-50, 50, width=16)  # so that a shift by whole pixels is exact
NOTHING = np.empty((0, 2))


def red(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> set[tuple[int, int]]:
    rows, columns = np.nonzero((picture == COLOR).all(axis=-1))
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


def test_without_spots_it_is_the_image_in_grey() -> None:
    image = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    picture = spot_picture(image, NOTHING)
    assert (picture.shape, picture.dtype) == ((20, 30, 3), np.dtype(np.uint8))
    assert np.array_equal(picture[..., 0], picture[..., 1])
    assert np.array_equal(picture[..., 0], picture[..., 2])
    assert (picture.min(), picture.max()) == (0, 255)
    assert (np.diff(picture[..., 0].ravel().astype(int)) >= 0).all()


def test_a_constant_image_is_black() -> None:
    assert not spot_picture(np.full((9, 9), 7, np.float32), NOTHING).any()


def test_a_ring_is_around_the_spot_and_leaves_it_in_sight() -> None:
    ring = red(spot_picture(np.zeros((40, 40), np.float32), np.array([[20.3, 10.8]])))
    assert {round(np.hypot(row - 20, column - 11)) for row, column in ring} == {RADIUS}
    assert {(20 - RADIUS, 11), (20 + RADIUS, 11), (20, 11 - RADIUS), (20, 11 + RADIUS)} <= ring


@given(st.lists(st.tuples(COORDINATES, COORDINATES), max_size=5))
def test_rings_are_cut_off_at_the_border(points: list[tuple[float, float]]) -> None:
    """Offsets may lead out of the image; nothing comes in again on the other side."""
    large = red(spot_picture(np.zeros((300, 300), np.float32), np.array(points).reshape(-1, 2) + 100))
    small = red(spot_picture(np.zeros((20, 30), np.float32), np.array(points).reshape(-1, 2)))
    assert small == {(r - 100, c - 100) for r, c in large if 0 <= r - 100 < 20 and 0 <= c - 100 < 30}
