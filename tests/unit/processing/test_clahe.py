from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import skimage as ski
from hypothesis import given, settings, strategies as st

from redis_consumer.processing.clahe import Equalizer, Histograms, equalized

if TYPE_CHECKING:
    import numpy.typing as npt

    Plane = npt.NDArray[Any]
    Block = tuple[slice, slice]

planes = settings(max_examples=150, deadline=None)


def by_definition(plane: Plane, kernel_size: int | None) -> Plane:
    scaled = ski.exposure.rescale_intensity(plane.astype(np.float32), out_range=(0.0, 1.0))
    result = ski.exposure.equalize_adapthist(scaled, kernel_size=kernel_size)
    return np.asarray(result).astype(np.float32)


def random_plane(seed: int) -> Plane:
    """Return a plane of any shape, not constant, of one of the kinds that microscopes make, and some others."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(2, 100, rng.integers(1, 80, 2))
    steps = np.indices(values.shape).sum(axis=0)
    kinds = {
        "noise": values,
        "negative": values - 200,
        "saturated": np.minimum(values, 150),
        "blank in half": np.where(steps > steps.max() // 2, values, 0),
        "two values": (values > 300) * 1.0,
        "one bright pixel": np.where(values == values.max(), 1e6, values),
        "slope": steps * 1.0,
        "tiny numbers": values * 1e-30,
        "huge numbers": values * 1e30,
    }
    chosen: Plane = kinds[rng.choice(list(kinds))]
    if chosen.min() >= 0 and chosen.max() < 2**16:
        chosen = chosen.astype(rng.choice(["uint16", "float32", "float64", "int32"]))
    chosen = chosen if chosen.dtype.kind in "iu" else chosen.astype(np.float32)
    if chosen.min() == chosen.max():
        chosen = np.append(chosen, chosen[-1:] + np.ones(1, chosen.dtype) + abs(chosen[-1:]), axis=0)
    return chosen


def random_blocks(shape: tuple[int, ...], seed: int) -> list[Block]:
    """Return blocks of different sizes that cover a plane, in any order."""
    rng = np.random.default_rng(seed)
    bounds = [[0, *sorted(set(rng.integers(1, size + 1, 4).tolist()) - {size}), size] for size in shape]
    rows, columns = ([slice(*pair) for pair in pairwise(ends)] for ends in bounds)
    blocks = [(row, column) for row in rows for column in columns]
    rng.shuffle(blocks)
    return [(row, column) for row, column in blocks]


def learned(plane: Plane, blocks: list[Block], kernel_size: int | None = None) -> Equalizer:
    histograms = Histograms(plane.shape, plane.min(), plane.max(), kernel_size)
    for block in blocks:
        histograms.add(*block, plane[block])
    return histograms.equalizer()


@planes
@given(seed=st.integers(0, 2**32 - 1), kernel_size=st.none() | st.integers(1, 100))
def test_it_is_the_definition_to_the_last_bit(seed: int, kernel_size: int | None) -> None:
    plane = random_plane(seed)
    np.testing.assert_array_equal(equalized(plane, kernel_size), by_definition(plane, kernel_size))


@pytest.mark.parametrize("shape", [(512, 512), (500, 700), (1031, 257)])
@pytest.mark.parametrize("kernel_size", [None, 128])
def test_so_are_planes_of_the_usual_sizes(shape: tuple[int, int], kernel_size: int | None) -> None:
    plane = np.random.default_rng(1).gamma(2, 100, shape).astype(np.float32)
    np.testing.assert_array_equal(equalized(plane, kernel_size), by_definition(plane, kernel_size))


@planes
@given(seed=st.integers(0, 2**32 - 1), kernel_size=st.none() | st.integers(1, 100))
def test_a_plane_in_blocks_is_equalized_as_the_whole(seed: int, kernel_size: int | None) -> None:
    plane = random_plane(seed)
    equalizer = learned(plane, random_blocks(plane.shape, seed), kernel_size)
    span = equalizer.span(lambda rows, columns: plane[rows, columns], least=1 + seed % 20)
    result = np.full(plane.shape, np.nan, np.float32)
    for block in random_blocks(plane.shape, seed + 1):
        result[block] = equalizer.apply(*block, plane[block], span)
    np.testing.assert_array_equal(result, equalized(plane, kernel_size))


@planes
@given(seed=st.integers(0, 2**32 - 1), kernel_size=st.none() | st.integers(1, 100))
def test_no_level_of_a_block_is_out_of_its_bounds(seed: int, kernel_size: int | None) -> None:
    plane = random_plane(seed)
    blocks = random_blocks(plane.shape, seed)
    equalizer = learned(plane, blocks, kernel_size)
    for block in blocks:
        low, high = equalizer.bounds(*block)
        levels = equalizer.levels(*block, plane[block])
        assert low <= levels.min()
        assert levels.max() <= high


@pytest.mark.parametrize("kernel_size", [None, 32, 50])
def test_few_pixels_are_read_again_to_find_the_span(kernel_size: int | None) -> None:
    grey = np.random.default_rng(1).gamma(2, np.linspace(50, 100, 1024), (1024, 1024))
    plane = (grey * np.linspace(0.5, 1, 1024)[:, None]).astype(np.float32)
    equalizer = learned(plane, random_blocks(plane.shape, 1), kernel_size)
    counts = np.zeros(plane.shape, int)

    def reader(rows: slice, columns: slice) -> Plane:
        counts[rows, columns] += 1
        return plane[rows, columns]

    span = equalizer.span(reader, least=64)
    levels = equalizer.levels(slice(0, 1024), slice(0, 1024), plane)
    assert span == (levels.min(), levels.max())
    assert counts.mean() < 1 / 6
    assert counts.max() == 1


def test_a_huge_region_is_read_in_parts() -> None:
    plane = np.random.default_rng(1).random((5000, 40), np.float32)
    equalizer = learned(plane, random_blocks(plane.shape, 1), 4096)
    read = []

    def reader(rows: slice, columns: slice) -> Plane:
        read.append(rows.stop - rows.start)
        return plane[rows, columns]

    levels = equalizer.levels(slice(0, 5000), slice(0, 40), plane)
    assert equalizer.span(reader) == (levels.min(), levels.max())
    assert max(read) <= 2048


def test_a_plane_costs_little_more_memory_than_its_result() -> None:
    plane = np.random.default_rng(1).random((2048, 2048), np.float32)
    tracemalloc.start()
    try:
        equalized(plane)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1.5 * plane.nbytes


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (-3e38, 3e38), (np.nan, 1)])
def test_grey_values_without_a_range_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="cannot be equalized"):
        Histograms((9, 9), low, high)


def test_regions_have_a_size() -> None:
    with pytest.raises(ValueError, match="allowed are whole numbers from 1"):
        Histograms((9, 9), 0, 1, 0)
