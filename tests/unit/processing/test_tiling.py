from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from redis_consumer.processing import cut, join, tile, untile
from redis_consumer.processing.tiling import Axis, Mosaic, TileGrid, tile_grid, tiles as stream_of_tiles, window

if TYPE_CHECKING:
    import numpy.typing as npt


def numbered(*shape: int) -> npt.NDArray[Any]:
    return np.random.default_rng(1).random(shape, np.float32)


sizes = st.integers(1, 90)


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), sizes, sizes, st.integers(1, 2)),
    size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    ratio=st.sampled_from([0.25, 0.5, 0.6, 0.75, 1.0]),
    pad_mode=st.sampled_from(["reflect", "constant"]),
)
def test_tiles_put_together_are_the_image(
    shape: tuple[int, int, int, int], size: tuple[int, int], ratio: float, pad_mode: Literal["reflect", "constant"]
) -> None:
    image = numbered(*shape)
    tiles, grid = tile(image, size, ratio, pad_mode)
    assert tiles.shape == (grid.count, *size, shape[-1])
    # Blended weights add up to slightly more than 1: most in the corner of the smallest overlaps.
    overlaps = [a.tile - a.stride for a in (grid.rows, grid.columns)]
    gain = np.prod([1 / (1 - 1 / (2 * o * o)) if o else 1 for o in overlaps]) if grid.blended else 1
    together = np.asarray(untile(tiles, grid), np.float32)
    assert np.all(together >= image - 1e-6)
    assert np.all(together <= image * gain + 1e-6)


@given(size=st.integers(1, 3000), side=st.integers(1, 600), ratio=st.floats(0.01, 1))
def test_tiles_cover_an_axis_without_a_gap(size: int, side: int, ratio: float) -> None:
    axis = Axis.of(size, side, ratio)
    spans = list(axis.spans())
    assert spans[0].start == 0
    assert spans[-1].stop == axis.padded
    assert all(later.start <= earlier.stop for earlier, later in pairwise(spans))
    assert sum(axis.padding) + size == axis.padded
    assert min(axis.padding) >= 0


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), sizes, sizes, st.integers(1, 2)),
    size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    batch=st.integers(1, 9),
    pad_mode=st.sampled_from(["reflect", "constant"]),
)
def test_an_image_is_tiled_and_put_together_in_passing(
    shape: tuple[int, int, int, int], size: tuple[int, int], batch: int, pad_mode: Literal["reflect", "constant"]
) -> None:
    """Few rows are asked for at a time, and every row comes out once, in order, as when all is done at once."""
    image = numbered(*shape)

    def read(frame: int, rows: slice) -> npt.NDArray[Any]:
        assert rows.stop - rows.start <= size[0]
        return image[frame, rows]

    grid = tile_grid(shape, size)
    pieces = np.stack([piece.copy() for piece in stream_of_tiles(read, grid, pad_mode)])
    mosaic, result, upto = Mosaic(grid), np.full_like(image, np.nan), (0, 0)
    for start in range(0, len(pieces), batch):
        for frame, rows, values in mosaic.add(pieces[start : start + batch]):
            assert upto <= (frame, rows.start)
            result[frame, rows] = values
            upto = (frame, rows.stop)
    assert upto == (shape[0] - 1, shape[1])
    everything, same_grid = tile(image, size, pad_mode=pad_mode)
    np.testing.assert_array_equal(pieces, everything)
    assert same_grid == grid
    np.testing.assert_array_equal(result, untile(everything, grid))


def test_more_tiles_than_the_grid_has_are_refused() -> None:
    pieces, grid = tile(numbered(1, 40, 40, 1), (16, 16))
    mosaic = Mosaic(grid)
    list(mosaic.add(pieces))
    with pytest.raises(ValueError, match="given are 10 tiles: expected are 9"):
        list(mosaic.add(pieces[:1]))


def test_tiles_stand_by_frame_row_and_column() -> None:
    image = numbered(2, 8, 8, 1)
    tiles, grid = tile(image, (4, 4), 1.0)
    assert (grid.rows.count, grid.columns.count) == (2, 2)
    np.testing.assert_array_equal(tiles[1], image[0, :4, 4:])
    np.testing.assert_array_equal(tiles[2], image[0, 4:, :4])
    np.testing.assert_array_equal(tiles[4], image[1, :4, :4])


def test_a_short_axis_is_reflected_and_a_long_one_tiled() -> None:
    image = numbered(1, 5, 40, 1)
    tiles, grid = tile(image, (8, 16), pad_mode="constant")
    assert tiles.shape[1:3] == (8, 16)
    assert grid.columns.count == 3
    padded = np.pad(image[0, :, :, 0], [(1, 2), (0, 0)], mode="reflect")
    np.testing.assert_array_equal(tiles[1, :, :, 0], padded[:, grid.columns.stride :][:, :16])


def test_a_single_pixel_fills_a_tile() -> None:
    tiles, grid = tile(np.full((1, 1, 1, 1), 7, np.float32), (4, 6))
    np.testing.assert_array_equal(tiles, np.full((1, 4, 6, 1), 7))
    np.testing.assert_array_equal(untile(tiles, grid), [[[[7]]]])


def test_predictions_may_have_other_channels_and_types() -> None:
    tiles, grid = tile(numbered(2, 50, 60, 1), (32, 32))
    predicted = np.repeat(tiles, 3, axis=-1).astype(np.float16)
    together = untile(predicted, grid)
    assert together.shape == (2, 50, 60, 3)
    assert together.dtype == np.float16


def blended(tiles: npt.NDArray[Any], grid: TileGrid) -> npt.NDArray[Any]:
    """Return what `untile` does by definition: weighted sums in float64, tile after tile, rounded once."""
    rows, columns = grid.rows, grid.columns
    canvas = np.zeros((grid.frames, rows.padded, columns.padded, tiles.shape[-1]))
    pieces = iter(tiles)
    for frame in canvas:
        for down, high in zip(rows.spans(), rows.weights(), strict=True):
            for across, wide in zip(columns.spans(), columns.weights(), strict=True):
                frame[down, across] += next(pieces) * high[:, None, None] * wide[:, None]
    return canvas[:, rows.image, columns.image].astype(tiles.dtype)


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(70, 150), st.integers(70, 150), st.integers(1, 3)),
    size=st.tuples(st.integers(32, 64), st.integers(32, 64)),
    ratio=st.sampled_from([0.5, 0.6, 0.75, 1.0]),
    kind=st.sampled_from(["float32", "float64", "float16", ">f4", ">f8", "uint8", "int16", ">i4", "int64"]),
    whole=st.booleans(),
)
def test_tiles_of_any_type_are_summed_in_float64_and_rounded_once(
    shape: tuple[int, int, int, int], size: tuple[int, int], ratio: float, kind: str, *, whole: bool
) -> None:
    grid = tile_grid(shape, size, ratio)
    assert grid.blended
    tiles = np.random.default_rng(1).normal(60, 20, (grid.count, *size, shape[-1] + 1)).clip(0, 250).astype(kind)
    tiles[tiles < tiles.dtype.type(40)] = tiles.dtype.type(-0.0)
    tiles = tiles[..., : shape[-1] + whole]  # or pixels that do not follow each other in memory
    together = untile(tiles, grid)
    assert together.dtype == tiles.dtype
    assert together.tobytes() == blended(tiles, grid).tobytes()
    for _, _, values in Mosaic(grid).add(tiles):
        assert values.dtype == tiles.dtype


def test_neighbouring_tiles_fade_into_each_other() -> None:
    tiles, grid = tile(np.zeros((1, 100, 100, 1), np.float32), (64, 64))
    assert grid.blended
    tiles[:] = np.arange(len(tiles))[:, None, None, None]
    row = untile(tiles, grid)[0, 0, :, 0]
    assert row[0] == 0
    assert row[-1] == 1
    assert np.abs(np.diff(row)).max() < 0.2


def test_with_one_row_of_tiles_the_later_one_wins() -> None:
    tiles, grid = tile(np.zeros((1, 64, 100, 1), np.float32), (64, 64))
    assert not grid.blended
    tiles[:] = np.arange(len(tiles))[:, None, None, None]
    assert set(np.unique(untile(tiles, grid))) == {0, 1}


@pytest.mark.parametrize(("size", "left", "right"), [(64, 16, 16), (33, 9, 0), (40, 0, 1)])
def test_a_window_is_one_but_for_its_overlaps(size: int, left: int, right: int) -> None:
    weights = window(size, left, right)
    assert (weights > 0).all()
    assert weights.max() == 1
    assert (weights[left : size - right] == 1).all()
    assert (np.diff(weights[:left]) > 0).all()


@pytest.mark.parametrize(
    ("image", "arguments"),
    [
        (numbered(8, 8, 1), ((4, 4),)),
        (np.zeros((1, 0, 8, 1), np.float32), ((4, 4),)),
        (numbered(1, 8, 8, 1), ((0, 4),)),
        (numbered(1, 8, 8, 1), ((4, 4), 0.0)),
        (numbered(1, 8, 8, 1), ((4, 4), 1.5)),
    ],
)
def test_what_cannot_be_tiled_is_refused(image: npt.NDArray[Any], arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"cannot cut|stride ratio"):
        tile(image, *arguments)


def test_tiles_of_another_grid_are_refused() -> None:
    tiles, grid = tile(numbered(1, 40, 40, 1), (16, 16))
    for wrong in (tiles[1:], tiles[:, 1:], tiles[..., 0]):
        with pytest.raises(ValueError, match="tiles have shape"):
            untile(wrong, grid)


@given(rows=sizes, columns=sizes, cuts=st.integers(1, 5), field=st.integers(1, 31), frames=st.integers(1, 2))
def test_blocks_put_together_are_the_image(rows: int, columns: int, cuts: int, field: int, frames: int) -> None:
    image = numbered(frames, rows, columns, 2)
    cuts = min(cuts, rows, columns)
    blocks, grid = cut(image, cuts, field)
    assert len(blocks) == frames * cuts**2
    np.testing.assert_array_equal(join(blocks, grid), image)


def test_a_block_has_the_field_of_each_of_its_pixels() -> None:
    image = numbered(1, 20, 20, 1)
    blocks, _ = cut(image, 2, 7)
    assert blocks.shape == (4, 16, 16, 1)
    np.testing.assert_array_equal(blocks[3, :13, :13], image[0, 7:, 7:])


@pytest.mark.parametrize(("cuts", "field"), [(0, 61), (9, 61), (2, 0)])
def test_what_cannot_be_cut_is_refused(cuts: int, field: int) -> None:
    with pytest.raises(ValueError, match="cannot cut"):
        cut(numbered(1, 8, 8, 1), cuts, field)


def test_blocks_of_another_grid_are_refused() -> None:
    blocks, grid = cut(numbered(1, 8, 8, 1), 2, 3)
    with pytest.raises(ValueError, match="blocks have shape"):
        join(blocks[1:], grid)
