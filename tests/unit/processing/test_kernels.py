"""The compiled kernels do what those in numpy do, to the last bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy
from hypothesis import given, settings, strategies as st

from redis_consumer.processing import deep_watershed, histogram_normalization, kernels, tile, untile
from redis_consumer.processing.clahe import Histograms, _between, _counted
from redis_consumer.processing.kernels import plain
from redis_consumer.processing.tiling import window

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    import numpy.typing as npt

    Array = npt.NDArray[Any]

compiled = pytest.importorskip(
    "redis_consumer.processing.kernels.compiled", reason="not compiled: there was no C compiler at the installation"
)
both = pytest.mark.parametrize("made", [plain, compiled], ids=["plain", "compiled"])
ROOT = Path(__file__).parents[3]
drawn = settings(max_examples=200, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def test_they_are_used_where_they_are() -> None:
    assert kernels.COMPILED
    assert kernels.count is compiled.count


@pytest.mark.skipif(
    shutil.which("cc") is None or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="there is no C compiler, or no headers of Python",
)
def test_an_old_one_is_not_left_behind() -> None:
    source = Path(kernels.__file__).with_name("compiled.pyx")
    if source.is_relative_to(ROOT):  # an editable install
        assert Path(compiled.__file__).stat().st_mtime > source.stat().st_mtime, "run `make dev`"


def test_without_them_all_is_the_same() -> None:
    script = """
import sys
sys.modules["redis_consumer.processing.kernels.compiled"] = None
import numpy as np
from redis_consumer import processing
from redis_consumer.processing import kernels
assert not kernels.COMPILED
image = np.random.default_rng(1).random((1, 600, 600, 1), np.float32)
tiles, grid = processing.tile(processing.histogram_normalization(image), (256, 256))
maps = processing.untile(tiles, grid)
print(processing.deep_watershed([maps, maps]).astype(np.int64).ravel() @ np.arange(600 * 600))
"""
    image = np.random.default_rng(1).random((1, 600, 600, 1), np.float32)
    maps = untile(*tile(histogram_normalization(image), (256, 256)))
    expected = deep_watershed([maps, maps]).astype(np.int64).ravel() @ np.arange(600 * 600)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert int(run.stdout) == expected > 0


def test_maps_may_lie_in_memory_as_they_like() -> None:
    rng = np.random.default_rng(2)
    maps = scipy.ndimage.gaussian_filter(rng.random((1, 90, 70, 1), np.float32), (0, 3, 3, 0))
    maps = (maps - maps.min()) / np.ptp(maps)
    expected = deep_watershed([maps, maps])
    assert expected.max() > 3
    for laid in (np.asfortranarray(maps), maps.astype(">f4"), np.repeat(maps, 2, axis=-1), maps.astype(np.longdouble)):
        laid.flags.writeable = False
        np.testing.assert_array_equal(deep_watershed([laid, laid]), expected)


def random_map(rng: np.random.Generator) -> Array:
    """Return heights (Y, X), float32 or float64: smooth or rough, with plateaus or not, negative ones too."""
    values = scipy.ndimage.gaussian_filter(rng.normal(size=rng.integers(1, 70, 2)), rng.choice([0, 1, 3]))
    steps = rng.choice([0, 3, 30])
    values = np.round(values * steps) / steps if steps else values
    kinds = [np.float32, np.float32, np.float64]
    made: Array = (values * rng.choice([1, 1e-4, 1e4])).astype(kinds[rng.integers(3)])
    laid = [made, np.asfortranarray(made), made[::-1, ::-1], np.repeat(made, 2, axis=1)[:, ::2]][rng.integers(4)]
    laid.flags.writeable = False
    return laid


@both
def test_every_grey_value_of_16_bits_has_the_bin_of_the_definition(made: ModuleType) -> None:
    depth = np.arange(2**16).reshape(1, -1)
    expected = np.bincount((np.round(depth / 65535 * 16383).astype(int) // 65).ravel(), minlength=kernels.BINS)
    histograms = Histograms(depth.shape, 0, 65535)
    places, nowhere = np.arange(2**16), np.zeros(2**16, np.intp)
    counts = np.zeros((1, 1, kernels.BINS), np.int32)
    made.count(depth.astype(np.float32), histograms._grey, places[:1], nowhere[:1], places, nowhere, counts)
    assert counts.ravel().tolist() == expected.tolist()


@drawn
@given(seeds)
def test_grey_values_are_counted_and_blended_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plane = rng.gamma(2, 40, rng.integers(2, 90, 2))
    plane.flat[:2] = 0, 200
    plane = plane.clip(0, 200).astype(rng.choice(["uint8", "uint16", "float32"]))
    given = plane if rng.random() < 0.5 else np.repeat(plane, 2, axis=1)[:, ::2]  # not side by side
    histograms = Histograms(plane.shape, plane.min(), plane.max(), [None, 7, 8, 50][rng.integers(4)])
    rows, columns = (slice(start, None) for start in rng.integers(0, np.array(plane.shape)))
    rows, columns = slice(rows.start, plane.shape[0]), slice(columns.start, plane.shape[1])
    for made in (plain, compiled):
        counted = (
            _counted(histograms._rows, rows.start, rows.stop),
            _counted(histograms._columns, columns.start, columns.stop),
        )
        counts = histograms._counts.copy()
        made.count(given[rows, columns], histograms._grey, *counted[0], *counted[1], counts)
        if made is plain:
            expected = counts
    np.testing.assert_array_equal(counts, expected)
    histograms.add(slice(0, plane.shape[0]), slice(0, plane.shape[1]), plane)
    equalizer = histograms.equalizer()
    for kind in (np.float32, np.float64):
        down = _between(equalizer._rows, rows.start, rows.stop, kind)
        across = _between(equalizer._columns, columns.start, columns.stop, kind)
        places = down.regions, across.regions, down.weights, across.weights
        arguments = given[rows, columns], equalizer._grey, *places, equalizer._tables
        np.testing.assert_array_equal(compiled.blend(*arguments), plain.blend(*arguments))


@drawn
@given(seeds, st.floats(0.002, 1))
def test_histograms_become_levels_alike(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    pixels, regions = int(rng.integers(1, 5000)), tuple(rng.integers(1, 4, 2))
    # From even ones, in which nothing is clipped, to one bin that has it all.
    chances = rng.dirichlet(np.full(kernels.BINS, 10 ** rng.uniform(-3, 2)), regions)
    counts = rng.multinomial(pixels, chances).astype(np.int32)
    limit = max(int(share * pixels), -(-pixels // kernels.BINS), 1)
    made, expected = (module.levels(counts, limit, pixels, 2**14 - 1) for module in (compiled, plain))
    assert made.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(made, expected)


@both
def test_a_histogram_without_a_limit_is_refused(made: ModuleType) -> None:
    counts = np.ones((1, 1, kernels.BINS), np.int32)
    for limit, pixels in [(0, 256), (1, 0)]:
        with pytest.raises(ValueError, match="at least 1"):
            made.levels(counts, limit, pixels, 1)


@drawn
@given(st.sets(st.integers(0, 60)), st.lists(st.integers(1, 12), max_size=4))
def test_places_that_touch_are_seen_alike(found: set[int], ahead: list[int]) -> None:
    places, steps = np.array(sorted(found), np.intp), np.array(ahead, np.intp)
    expected = any(place + step in found for place in found for step in ahead)
    assert compiled.touch(places, steps) == plain.touch(places, steps) == expected


@drawn
@given(seeds, st.sampled_from([1e-3, 0.1, 0.5]), st.integers(1, 12))
def test_maxima_are_looked_for_alike(seed: int, h: float, radius: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.ascontiguousarray(np.pad(random_map(rng), 2 * radius, mode="minimum"))
    scale = values.dtype.type(h * max(np.ptp(values), 1e-9))
    half, allowance = radius // 2 + 1, float(2 * np.finfo(values.dtype).resolution)
    (found, places), (others, same) = (made.candidates(values, scale, allowance, half) for made in (plain, compiled))
    np.testing.assert_array_equal(found, others)
    np.testing.assert_array_equal(places, same)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    order = np.argsort(np.hypot(y, x).ravel(), kind="stable")[1:]
    distances, steps = np.hypot(y, x).ravel()[order], (y * values.shape[1] + x).ravel()[order]
    ends = np.searchsorted(distances, np.arange(1, radius + 1), "right")
    inner = np.zeros(values.shape, bool)
    inner[radius:-radius, radius:-radius] = True
    starts = np.flatnonzero(inner)[:: rng.integers(1, 9)].copy()
    for arguments in ((starts, steps), (places[inner.flat[places]], steps)):
        kept, same = (made.without_higher(values.ravel(), scale, allowance, *arguments) for made in (plain, compiled))
        np.testing.assert_array_equal(kept, same)
    look = values.ravel(), scale, allowance, max(radius // 3, 1), steps, distances, ends, starts
    (alone, looked), (others, same) = plain.apart(*look), compiled.apart(*look)
    np.testing.assert_array_equal(alone, others)
    assert looked == same


@drawn
@given(seeds, st.floats(0.2, 4))
def test_a_gaussian_is_scipys(seed: int, sigma: float) -> None:
    values = random_map(np.random.default_rng(seed))
    weights = np.exp(-0.5 / (sigma * sigma) * np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1) ** 2)
    expected = scipy.ndimage.gaussian_filter(values, sigma)
    for made in (plain, compiled):
        np.testing.assert_array_equal(made.correlate(values, weights / weights.sum()), expected)


@drawn
@given(seeds)
def test_tiles_fade_in_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tile = np.array(random_map(rng), order="C")
    tile[rng.random(tile.shape) < 0.1] = -0.0
    ends = [int(rng.integers(0, size // 2 + 1)) for size in tile.shape]  # how far the neighbours reach
    sides = list(zip(tile.shape, ends, strict=True))
    weights = [window(size, end, end) if rng.random() < 0.7 else rng.random(size) for size, end in sides]
    done = [size - end * int(rng.integers(0, 2)) for size, end in sides]
    left, above = rng.random((tile.shape[0], ends[1])), rng.random((ends[0], tile.shape[1] + 3))
    found = []
    for made in (plain, compiled):
        sums, out = (left.copy(), above.copy()), np.zeros((done[0], tile.shape[1] + 5), tile.dtype)
        made.fade_in(tile, *weights, sums[0], sums[1][:, 2:-1], out[:, 3 : 3 + done[1]])
        found.append((*sums, out))
    for one, other in zip(*found, strict=True):
        assert one.tobytes() == other.tobytes()  # -0.0 is not 0.0 here


def test_a_tile_that_does_not_fit_is_refused() -> None:
    def arguments(**others: Array) -> list[Array]:
        sizes = {"tile": (8, 9), "rows": (8,), "columns": (9,), "left": (8, 3), "above": (2, 9), "out": (6, 6)}
        return list(({name: np.ones(size) for name, size in sizes.items()} | others).values())

    compiled.fade_in(*arguments())
    for name, size, reason in [
        ("rows", (7,), "a weight for each row and column"),
        ("columns", (10,), "a weight for each row and column"),
        ("left", (7, 3), "sums for each row and column"),
        ("above", (2, 8), "sums for each row and column"),
        ("out", (5, 6), "what is not done must be what is overlapped"),
        ("out", (9, 9), "what is not done must be what is overlapped"),
        ("out", (6, 5), "what is not done must be what is overlapped"),
        ("above", (7, 9), "what is not done must be what is overlapped"),
    ]:
        with pytest.raises(ValueError, match=reason):
            compiled.fade_in(*arguments(**{name: np.ones(size)}))
    for name in ("above", "out"):
        with pytest.raises(ValueError, match="do not follow each other"):
            compiled.fade_in(*arguments(**{name: np.ones((2, 18) if name == "above" else (6, 12))[:, ::2]}))


@drawn
@given(seeds)
def test_labels_are_counted_and_looked_up_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, rng.integers(1, 300), rng.integers(0, 5000)).astype(rng.choice(["int32", "int64"]))
    table = rng.integers(0, 99, labels.max(initial=0) + 1, np.int32)
    np.testing.assert_array_equal(compiled.sizes(labels[np.newaxis]), plain.sizes(labels[np.newaxis]))
    out = np.empty(labels.size, np.int32)
    compiled.look_up(table, labels, out)
    np.testing.assert_array_equal(out, table[labels])


@drawn
@given(seeds)
def test_labels_are_measured_and_pasted_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, shape = int(rng.integers(1, 60)), (*rng.integers(0, 70, 2), 2)
    labels, others = rng.integers(0, count, (2, *shape), np.int32)[..., int(rng.integers(0, 2))]  # not at one place
    chosen, table = rng.random(count) < 0.5, rng.integers(0, 3, count, np.int32)
    others[rng.random(others.shape) < 0.5] = 0
    np.testing.assert_array_equal(compiled.sizes(labels, count), plain.sizes(labels, count))
    np.testing.assert_array_equal(compiled.sizes(labels[:, ::-1], count), plain.sizes(labels, count))
    np.testing.assert_array_equal(compiled.sizes(labels, count, others), plain.sizes(labels, count, others))
    np.testing.assert_array_equal(plain.sizes(labels, count, others), np.bincount(labels[others != 0], minlength=count))
    np.testing.assert_array_equal(compiled.places_of(chosen, labels), np.flatnonzero(chosen[labels]))
    pasted = others.copy(), others.copy()
    for made, out in zip((compiled, plain), pasted, strict=True):
        made.paste(table, labels, out)
    np.testing.assert_array_equal(*pasted)
    np.testing.assert_array_equal(pasted[0], np.where(others == 0, table[labels], others))


@both
@pytest.mark.parametrize("wrong", [-1, 3])
def test_labels_that_are_none_are_refused(made: ModuleType, wrong: int) -> None:
    labels, out = np.array([[0, wrong], [1, 2]], np.int32), np.zeros((2, 2), np.int32)
    calls: list[Callable[[], object]] = [
        lambda: made.places_of(np.ones(3, bool), labels),
        lambda: made.paste(np.ones(3, np.int32), labels, out),
    ]
    for refused in calls:
        with pytest.raises(IndexError, match="no entry"):
            refused()


@both
def test_what_is_not_in_the_table_is_refused(made: ModuleType) -> None:
    table, out = np.arange(3, dtype=np.int32), np.zeros(2, np.int32)
    for labels in ([1, 3], [1, -1]):
        with pytest.raises(IndexError):
            made.look_up(table, np.array(labels, np.int32), out)
    with pytest.raises(ValueError, match="without a centre"):
        made.correlate(np.ones((3, 3), np.float32), np.ones(4))
    with pytest.raises(ValueError, match="negative"):
        made.sizes(np.array([[1, -1]], np.int32))


@drawn
@given(seeds)
def test_pieces_are_flooded_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heights = random_map(rng)
    heights = heights if rng.random() < 0.8 else (10 * heights).astype(np.int64)
    pieces, _ = scipy.ndimage.label(heights > np.quantile(heights, 0.3))
    places = np.flatnonzero((rng.random(heights.shape) < 0.05) & (pieces > 0))
    # No two seeds of one height: which of them comes first is not defined.
    _, first = np.unique(heights.flat[places], return_index=True)
    places = np.sort(places[first])
    places = places[np.argsort(pieces.flat[places], kind="stable")]
    results: list[Array] = []
    for made in (plain, compiled):
        basins = np.zeros(heights.shape, np.int32)
        basins.flat[places] = np.arange(1, places.size + 1)
        made.flood(heights, pieces, places, basins)
        results.append(basins)
    np.testing.assert_array_equal(results[0], results[1])


@drawn
@given(seeds)
def test_regions_that_are_not_there_are_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plane, grey = np.arange(12, dtype=np.float32).reshape(3, 4), plain.Grey(*map(np.float32, (0, 11, 0.00384, 0.0077)))
    rows, columns, counts = np.arange(3), np.arange(4), np.zeros((3, 4, kernels.BINS), np.int32)
    axes = [rows, rows.copy(), columns, columns.copy()]
    compiled.count(plane, grey, *axes, counts)
    assert counts.sum() == 12
    chosen = rng.integers(4)
    axes[chosen] = axes[chosen].copy()
    axes[chosen][rng.integers(axes[chosen].size)] = rng.choice([-1, 4, 2**40])
    with pytest.raises(IndexError, match="outside the plane"):
        compiled.count(plane, grey, *axes, counts)
    with pytest.raises(ValueError, match="256 bins"):
        compiled.count(plane, grey, rows, rows, columns, columns, counts[..., :9].copy())
    weights, tables = (np.ones(3), np.ones(3)), np.zeros((3, 4, kernels.BINS), np.float32)
    with pytest.raises(IndexError, match="outside the plane"):
        compiled.blend(plane, grey, tuple(axes[:2]), tuple(axes[2:]), weights, (np.ones(4), np.ones(4)), tables)
    with pytest.raises(ValueError, match="a weight for each column"):
        compiled.blend(plane, grey, (rows, rows), (columns, columns), weights, weights, tables)
    with pytest.raises(ValueError, match="a weight for each row"):
        compiled.blend(plane, grey, (rows[:2], rows[:2]), (columns, columns), weights, (np.ones(4), np.ones(4)), tables)


def test_what_would_leave_the_arrays_is_refused() -> None:
    values, places = np.zeros(10, np.float32), np.array([5])
    with pytest.raises(IndexError, match="out of the map"):
        compiled.without_higher(values, 0.1, 0.0, places, np.array([5]))
    with pytest.raises(IndexError, match="out of the map"):
        compiled.apart(values, 0.1, 0.0, 1, np.array([-6]), np.ones(1), np.ones(1, np.intp), places)
    heights, pieces = np.zeros((2, 2), np.float32), np.ones((2, 2), np.int32)
    with pytest.raises(IndexError, match="outside the image"):
        compiled.flood(heights, pieces, np.array([4]), pieces.copy())
    with pytest.raises(ValueError, match="no basin"):
        compiled.flood(heights, pieces, np.array([0]), np.zeros_like(pieces))
    with pytest.raises(ValueError, match="other lengths"):
        compiled.apart(values, 0.1, 0.0, 1, np.ones(3, np.intp), np.ones(3), np.array([2, 1]), places)
    with pytest.raises(ValueError, match="different shapes"):
        compiled.flood(heights, np.ones((2, 3), np.int32), np.array([0]), pieces.copy())
