"""Simulated spots: where they are said to be, apart, and in the cells that are said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.spatial.distance import pdist

from redis_consumer.demo.simulation.microscope import Microscope
from redis_consumer.demo.simulation.nuclei import Cells
from redis_consumer.demo.simulation.spots import BORDER, SpotField, Spots, builtin_spots, simulate_spots
from redis_consumer.demo.simulation.tissue import Tissue
from redis_consumer.spots import cell_of_spots

SHAPE = (96, 128)


def field_of(seed: int, spots: Spots | None = None) -> SpotField:
    nuclei = Cells(count=6, diameter=24, clustering=0, defocused=0, debris=0)
    microscope = Microscope(photons=2000, unevenness=0)
    return simulate_spots(
        SHAPE, nuclei=nuclei, tissue=Tissue(), spots=spots or Spots(), microscope=microscope, seed=seed
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_spots_are_inside_apart_and_surely_in_their_cells(seed: int) -> None:
    field = field_of(seed)
    assert field.image.shape == (3, *SHAPE)
    assert ((field.points >= BORDER - 0.5) & (field.points <= np.array(SHAPE) - BORDER)).all()
    assert pdist(field.points).min(initial=9) > Spots().spacing
    # However a coordinate is made a pixel, it is one of the same cell.
    np.testing.assert_array_equal(cell_of_spots(field.cells, field.points), field.cell_of_points)
    np.testing.assert_array_equal(cell_of_spots(field.cells, field.points + 0.5), field.cell_of_points)


def test_the_light_is_centred_on_the_points() -> None:
    field = field_of(1, Spots(per_cell=4, spacing=14, cytoplasm=0, brightness_spread=0))
    background = np.median(field.image[0])
    rows, columns = np.mgrid[-3:4, -3:4]
    for y, x in field.points:
        r, c = round(y), round(x)
        light = np.clip(field.image[0, r - 3 : r + 4, c - 3 : c + 4] - background, 0, None)
        middle = r + (light * rows).sum() / light.sum(), c + (light * columns).sum() / light.sum()
        assert middle == pytest.approx((y, x), abs=0.3)


def test_no_spots_are_spots_too() -> None:
    field = field_of(1, Spots(per_cell=0, outside=0))
    assert field.points.shape == (0, 2)
    assert field.cell_of_points.shape == (0,)


def test_the_builtin_fields_have_spots_in_and_beside_cells() -> None:
    for field in builtin_spots():
        assert 300 < len(field.points) < 700
        assert 0 < (field.cell_of_points == 0).sum() <= 10
