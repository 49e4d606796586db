"""The simulator's promises: the same seed gives the same field, and its truth is a proper label image."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import ndimage as ndi

from redis_consumer.demo.simulation import nuclei
from redis_consumer.demo.simulation.microscope import Microscope
from redis_consumer.demo.simulation.nuclei import Cells, FieldOfView, simulate

if TYPE_CHECKING:
    from redis_consumer.demo.simulation.outline import LabelPlane


@cache
def builtin() -> list[FieldOfView]:
    return nuclei.builtin_fields()


def equivalent_diameters(labels: LabelPlane) -> np.ndarray:
    return np.sqrt(np.bincount(labels.ravel())[1:] * 4 / np.pi)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(24, 160), width=st.integers(24, 160))
def test_every_field_has_the_asked_shape_and_consecutive_labels_of_one_piece(
    seed: int, height: int, width: int
) -> None:
    field = simulate((height, width), seed=seed)
    assert field.image.shape == field.labels.shape == (height, width)
    assert field.image.dtype == np.uint16
    assert field.labels.dtype == np.int32
    count = int(field.labels.max())
    assert set(np.unique(field.labels)) - {0} == set(range(1, count + 1))
    assert all(ndi.label(field.labels == k)[1] == 1 for k in range(1, count + 1))


def test_the_same_seed_gives_the_same_field() -> None:
    first, second = (simulate((128, 96), seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.labels, second.labels)


def test_a_generator_goes_on_where_it_stopped() -> None:
    rng = np.random.default_rng(5)
    first, second = (simulate((128, 96), rng=rng) for _ in range(2))
    np.testing.assert_array_equal(first.image, simulate((128, 96), seed=5).image)
    assert not np.array_equal(first.image, second.image)


def test_a_seed_and_a_generator_together_are_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        simulate((64, 64), seed=1, rng=np.random.default_rng(1))


def test_a_blank_field_has_noise_but_no_nucleus() -> None:
    field = simulate((128, 128), cells=Cells(count=0, debris=0, defocused=0), seed=2)
    assert field.labels.max() == 0
    assert field.image.std() > 0


@pytest.mark.parametrize("diameter", [10, 26, 80])
def test_nuclei_come_in_the_number_and_size_asked_for(diameter: int) -> None:
    cells = Cells(count=20, diameter=diameter, clustering=0, dividing=0)
    field = simulate((10 * diameter, 10 * diameter), cells=cells, seed=3)
    assert field.labels.max() == 20
    inner = field.labels[diameter:-diameter, diameter:-diameter]
    whole = equivalent_diameters(field.labels)[np.unique(inner[inner > 0]) - 1]
    assert np.median(whole) == pytest.approx(diameter, rel=0.2)


def test_a_full_field_takes_fewer_nuclei_than_asked() -> None:
    field = simulate((100, 100), cells=Cells(count=200, diameter=30), seed=4)
    assert 0 < field.labels.max() < 200


def test_clustered_nuclei_touch_and_scattered_ones_hardly() -> None:
    def contacts(clustering: float) -> int:
        labels = simulate((400, 400), cells=Cells(count=60, clustering=clustering), seed=6).labels
        left, right = labels[:, :-1], labels[:, 1:]
        return int(((left != right) & (left > 0) & (right > 0)).sum())

    assert contacts(0.8) > 2 * contacts(0.0)


def test_nuclei_are_brighter_than_the_background() -> None:
    field = simulate((256, 256), cells=Cells(), microscope=Microscope(), seed=7)
    assert field.image[field.labels > 0].mean() > 2 * field.image[field.labels == 0].mean()


def test_fewer_photons_mean_more_noise() -> None:
    def noise(photons: float) -> float:
        microscope = Microscope(photons=photons, unevenness=0, haze=0, offset=0)
        image = simulate((128, 128), cells=Cells(count=0, debris=0, defocused=0), microscope=microscope, seed=8).image
        return float(image.std() / image.mean())

    assert noise(40) > 2 * noise(2000)


def test_the_builtin_fields_are_as_promised() -> None:
    fields = {f.name: f for f in builtin()}
    assert list(fields) == ["sparse", "crowded", "uneven-noisy", "large-nuclei", "plate-well"]
    assert fields["sparse"].image.shape == (512, 512)
    assert fields["plate-well"].image.shape == (2048, 2048)
    density = {name: f.labels.max() / f.labels.size for name, f in fields.items()}
    assert min(density, key=density.__getitem__) in {"sparse", "large-nuclei"}
    assert max(density, key=density.__getitem__) == "crowded"
    assert np.median(equivalent_diameters(fields["large-nuclei"].labels)) > 60


def test_the_builtin_fields_are_always_the_same() -> None:
    again = simulate(
        (512, 512),
        cells=Cells(count=14, diameter=26, clustering=0.15, defocused=2, debris=5),
        microscope=Microscope(unevenness=0.08, haze=0.05),
        seed=11,
    )
    np.testing.assert_array_equal(builtin()[0].image, again.image)
