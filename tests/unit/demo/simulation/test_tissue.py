"""Simulated tissue: its truth is proper, and its light is where the truth says."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings, strategies as st
from scipy import ndimage as ndi

from redis_consumer.demo.simulation.microscope import Microscope
from redis_consumer.demo.simulation.nuclei import Cells
from redis_consumer.demo.simulation.tissue import Tissue, TissueField, builtin_tissues, simulate_tissue


def field_of(seed: int, count: int = 20, tissue: Tissue | None = None) -> TissueField:
    nuclei = Cells(count=count, diameter=14, defocused=0, debris=0)
    return simulate_tissue((96, 80), nuclei=nuclei, tissue=tissue or Tissue(), microscope=Microscope(), seed=seed)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_cell_is_one_piece_around_its_nucleus(seed: int) -> None:
    field = field_of(seed)
    assert field.image.shape == (2, 96, 80)
    np.testing.assert_array_equal(field.cells[field.nuclei > 0], field.nuclei[field.nuclei > 0])
    assert set(np.unique(field.cells)) == set(np.unique(field.nuclei))
    assert all(ndi.label(field.cells == k)[1] == 1 for k in range(1, field.cells.max() + 1))


def test_the_same_seed_gives_the_same_tissue() -> None:
    one, two = field_of(5), field_of(5)
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.cells, two.cells)


def test_membranes_are_brighter_than_cells_and_these_than_nothing() -> None:
    field = field_of(1)
    rim = (ndi.maximum_filter(field.cells, 3) != ndi.minimum_filter(field.cells, 3)) & (field.cells > 0)
    depth = ndi.distance_transform_edt(~rim)
    membranes = field.image[1].astype(float)
    inner, beyond = (field.cells > 0) & (depth > 3), (field.cells == 0) & (depth > 4)
    assert membranes[rim].mean() > 1.5 * membranes[inner].mean()
    assert membranes[inner].mean() > 1.2 * membranes[beyond].mean()


def test_cells_reach_farther_where_they_are_told_to() -> None:
    near, far = (field_of(3, 4, Tissue(reach=reach)).cells for reach in (3, 9))
    assert (far > 0).sum() > 1.5 * (near > 0).sum()


def test_without_nuclei_there_are_no_cells() -> None:
    assert not field_of(1, 0).cells.any()


def test_the_builtin_tissues_are_crowded_and_loose() -> None:
    crowded, loose = builtin_tissues()
    assert (crowded.name, loose.name) == ("epithelium", "loose-tissue")
    assert (crowded.cells > 0).mean() > 0.6
    assert (loose.cells > 0).mean() < 0.5
