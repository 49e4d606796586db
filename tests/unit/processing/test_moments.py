from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from redis_consumer.processing.moments import Moments


@given(
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 500), max_size=6),
    offset=st.sampled_from([0, 1, -1e4, 1e6]),
)
def test_blocks_have_the_moments_of_the_whole(seed: int, cuts: list[int], offset: float) -> None:
    values = (np.random.default_rng(seed).gamma(2, 100, 500) + offset).astype(np.float32)
    moments = Moments()
    for block in np.split(values, sorted(cuts)):
        moments = moments.joined(block)
    assert moments.count == 500
    assert moments.mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-12)
    assert moments.deviation == pytest.approx(values.std(dtype=np.float64), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-9, 65535.7])
def test_a_constant_has_no_deviation(value: float) -> None:
    block = np.full(1001, value, np.float32)
    moments = Moments().joined(block).joined(block[:7])
    assert moments.deviation < 1e-12
    assert not moments.standardized(block, 1e-7).any()


def test_of_no_pixels_there_is_nothing_to_tell() -> None:
    assert Moments().joined(np.empty((0, 5), np.float32)) == Moments()
    assert Moments().deviation == 0
