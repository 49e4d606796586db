"""The microscope: a scene of light becomes the grey values of a camera.  Knows not what the light comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

FloatPlane = NDArray[np.float32]

_COARSE_FROM: Final = 64  # pixels; smaller fields are quick anyway


@dataclass(frozen=True)
class Microscope:
    """How the scene is recorded. Light is in units of a typical nucleus' brightness."""

    blur: float = 1.0
    """Standard deviation of the point spread function, pixels."""
    haze: float = 0.08
    """Part of the light that is spread widely."""
    background: float = 0.06
    """Light where there is no nucleus."""
    unevenness: float = 0.15
    """Amplitude of the illumination's deviation from 1."""
    photons: float = 400.0
    """Photons that a pixel of a typical nucleus gives during the exposure."""
    read_noise: float = 4.0
    """Standard deviation of the camera's noise, photons."""
    gain: float = 12.0
    """Grey values per photon."""
    offset: float = 400.0
    """Grey value of darkness."""


def random_microscope(rng: np.random.Generator) -> Microscope:
    """Return a recording from clean to poor."""
    return Microscope(
        blur=float(rng.uniform(0.7, 2.2)),
        haze=float(rng.uniform(0.02, 0.25)),
        background=float(rng.uniform(0.01, 0.3)),
        unevenness=float(rng.uniform(0, 0.35)),
        photons=float(np.exp(rng.uniform(np.log(15), np.log(2000)))),
        read_noise=float(rng.uniform(1, 8)),
        gain=float(rng.uniform(2, 12)),
        offset=float(rng.uniform(50, 600)),
    )


def record(
    scene: FloatPlane, microscope: Microscope, rng: np.random.Generator, lamp: FloatPlane | None = None
) -> NDArray[np.uint16]:
    """Return the camera's picture of a scene; ``lamp`` is how the light is spread, a new one if none is given."""
    sharp = ndi.gaussian_filter(scene, microscope.blur, truncate=3)
    light = (1 - microscope.haze) * sharp + microscope.haze * _spread(scene) + microscope.background
    light *= 1 + microscope.unevenness * (illumination(scene.shape, rng) if lamp is None else lamp)
    photons = np.clip(light * microscope.photons, 0, None)
    recorded = rng.standard_normal(scene.shape, dtype=np.float32)
    # A Poisson count of many photons is a normal one; of few, the read noise hides the difference.
    recorded *= np.sqrt(photons + microscope.read_noise**2)
    grey = (photons + recorded) * microscope.gain + microscope.offset
    return np.clip(np.round(grey), 0, np.iinfo(np.uint16).max).astype(np.uint16)


def _spread(scene: FloatPlane) -> FloatPlane:
    """Return the scene blurred over about a twentieth of the field, on a coarse grid for speed."""
    step = 8 if min(scene.shape) >= _COARSE_FROM else 1
    coarse = ndi.zoom(ndi.uniform_filter(scene, step), 1 / step, order=1, grid_mode=True, mode="nearest")
    blurred = ndi.gaussian_filter(coarse, max(coarse.shape) / 20)
    return _enlarged(blurred, scene.shape)


def illumination(shape: tuple[int, ...], rng: np.random.Generator) -> FloatPlane:
    """Return a slope and a bright spot that need not be in the middle, between about -1 and 1."""
    y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])[None, :]
    angle, (top, left) = rng.uniform(0, 2 * np.pi), rng.uniform(-0.6, 0.6, 2)
    slope = 0.5 * (y * np.sin(angle) + x * np.cos(angle))
    bowl = 0.6 - 0.8 * ((y - top) ** 2 + (x - left) ** 2) / 2
    return np.asarray(slope + bowl, dtype=np.float32)


def _enlarged(coarse: FloatPlane, shape: tuple[int, ...]) -> FloatPlane:
    factors = [n / c for n, c in zip(shape, coarse.shape, strict=True)]
    return np.asarray(ndi.zoom(coarse, factors, order=1, grid_mode=True, mode="nearest"), dtype=np.float32)
