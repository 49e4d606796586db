from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from redis_consumer.processing import PRE_PROCESSES, percentile_threshold, planes, views

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt


@pytest.fixture(autouse=True)
def _small_blocks() -> Iterator[None]:
    """Let a plane of a hundred pixels be large."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(views, "blocks", lambda shape: planes.blocks(shape, 17))
        yield


def image(shape: tuple[int, int], dtype: str, seed: int = 0) -> npt.NDArray[Any]:
    rng = np.random.default_rng(seed)
    grey = rng.gamma(2, 300, shape) * (rng.random(shape) > 0.2)
    return (grey - 200 if dtype == "float32" and seed % 2 else grey).astype(dtype)


def test_every_step_of_the_table_has_a_view() -> None:
    assert views.VIEWS.keys() == PRE_PROCESSES.keys()


@pytest.mark.parametrize("name", sorted(views.VIEWS))
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@given(shape=st.tuples(st.integers(1, 90), st.integers(1, 90)), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=20)
def test_a_part_is_that_of_the_whole(name: str, dtype: str, shape: tuple[int, int], seed: int) -> None:
    plane = image(shape, dtype, seed)
    expected = PRE_PROCESSES[name](plane.astype(np.float32)[None, ..., None])[0, ..., 0]
    view = views.VIEWS[name](plane)
    assert view.shape == shape
    place = slice(shape[0] // 3, shape[0] // 3 * 2 + 1), slice(0, (shape[1] + 1) // 2)
    for part in ((slice(0, shape[0]), slice(0, shape[1])), place):
        assert view[part].dtype == np.float32
        if name == "normalize":  # sums over blocks are rounded otherwise
            np.testing.assert_allclose(view[part], expected[part], rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(view[part], expected[part])


@pytest.mark.parametrize("name", sorted(views.VIEWS))
@pytest.mark.parametrize(
    ("dtype", "least", "span"), [("int32", 2**24 + 1, 3), ("uint32", 2**31, 300), ("float64", 1e9 + 30, 5)]
)
def test_values_that_float32_cannot_tell_apart_are_those_of_an_image_in_memory(
    name: str, dtype: str, least: float, span: int
) -> None:
    plane = (np.random.default_rng(0).integers(0, span, (60, 70)) + least).astype(dtype)
    expected = PRE_PROCESSES[name](plane.astype(np.float32)[None, ..., None])[0, ..., 0]
    found = views.VIEWS[name](plane)[slice(0, 60), slice(0, 70)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(views.VIEWS.keys() - {"none"}))
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_values_beyond_float32_are_refused(name: str) -> None:
    plane = np.ones((30, 40))
    plane[29, 39] = 1e300
    with pytest.raises(ValueError, match="values that are not finite"):
        views.VIEWS[name](plane)


@pytest.mark.parametrize("name", sorted(views.VIEWS.keys() - {"none"}))
def test_a_constant_plane_is_zeros(name: str) -> None:
    found = views.VIEWS[name](np.full((30, 40), 7, np.uint16))[slice(0, 30), slice(5, 9)]
    np.testing.assert_array_equal(found, np.zeros((30, 4)))


@pytest.mark.parametrize("name", sorted(views.VIEWS.keys() - {"none"}))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_at_once(name: str, value: float) -> None:
    plane = np.ones((30, 40), np.float32)
    plane[29, 39] = value
    with pytest.raises(ValueError, match="values that are not finite"):
        views.VIEWS[name](plane)


@settings(deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60),
    percentile=st.floats(0, 100),
)
def test_the_percentile_is_numpys(values: list[float], percentile: float) -> None:
    plane = np.array(values, np.float32)[None]
    nonzero = plane[plane != 0]
    found = views.nonzero_percentile(plane, percentile)
    if not nonzero.size:
        assert found is None
        return
    assert found is not None
    with np.errstate(over="ignore", invalid="ignore"):
        expected = float(np.percentile(nonzero.astype(np.float64), percentile))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5 * float(np.abs(nonzero).max()))
    limited = views.percentile_threshold(plane, 50)[slice(0, 1), slice(0, len(values))]
    expected_plane = np.asarray(percentile_threshold(plane[..., None, None], 50), np.float32)[..., 0, 0]
    np.testing.assert_allclose(limited, expected_plane, rtol=1e-5)
