"""What goes on inside a plane is few long calls: each one is a turn of the interpreter lock among busy lanes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy

from redis_consumer.processing import deep_watershed, histogram_normalization, kernels, tile, untile

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

pytestmark = pytest.mark.skipif(not kernels.COMPILED, reason="not compiled: in numpy it is many short calls")

MOST = 250
"""In one plane with a few dozen nuclei: some 200 now; in numpy a thousand, and several thousand in a large plane."""


def calls(step: Callable[[], object]) -> int:
    """Return how many functions that are not Python's own `step` calls."""
    count = 0

    def seen(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "c_call"

    step()  # what is loaded and learned at the first call does not count
    sys.setprofile(seen)
    try:
        step()
    finally:
        sys.setprofile(None)
    return count


def nuclei(size: int) -> npt.NDArray[Any]:
    """Return a map (1, size, size, 1) of 36 nuclei that touch, no two of one height, whatever the size."""
    points = np.zeros((size, size), np.float32)
    points[20:200:30, 20:200:30] = 1
    smooth = scipy.ndimage.gaussian_filter(points * np.random.default_rng(1).uniform(0.9, 1, points.shape), 5)
    return np.asarray(smooth / smooth.max())[None, ..., None]


@pytest.mark.parametrize("size", [256, 1024])
def test_a_plane_is_normalized_and_labelled_in_few_calls(size: int) -> None:
    maps = nuclei(size)
    assert deep_watershed([maps, maps]).max() == 36
    assert calls(lambda: histogram_normalization(maps)) + calls(lambda: deep_watershed([maps, maps])) < MOST


def test_as_many_tiles_of_four_times_the_pixels_are_put_together_in_hardly_more_calls() -> None:
    small, large = (tile(nuclei(4 * size), (size, size)) for size in (128, 256))
    assert small[1].count == large[1].count
    assert calls(lambda: untile(*large)) < 1.2 * calls(lambda: untile(*small))
