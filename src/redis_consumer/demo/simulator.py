"""Simulated fluorescence microscopy of nuclei, with the truth known for every pixel.

For the demonstration (pictures to segment without shipping anybody's data), for tests and as a part of the
training of the built-in model. Follows the light: nuclei with chromatin texture, dirt and out-of-focus light make
a scene; illumination and the microscope's point spread function shape it; exposure, photon and read noise record
it. Knows nothing of files, models or jobs. The same seed gives the same field with the same numpy and scipy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

FloatPlane = NDArray[np.float32]
LabelPlane = NDArray[np.int32]


@dataclass(frozen=True)
class FieldOfView:
    """One simulated picture and its truth."""

    name: str
    image: NDArray[np.uint16]
    """Grey values of the camera, ``(Y, X)``."""
    labels: LabelPlane
    """Truth ``(Y, X)``: 0 background, 1 to n one nucleus each."""


@dataclass(frozen=True)
class Cells:
    """What lies on the slide. Lengths in pixels, probabilities and fractions 0 to 1."""

    count: int = 60
    """Nuclei to place; fewer where the field is full."""
    diameter: float = 26.0
    """Median equivalent diameter."""
    diameter_spread: float = 0.18
    """Standard deviation of the logarithm of the diameter."""
    clustering: float = 0.3
    """Probability that a nucleus is put beside another one and touches it."""
    irregularity: float = 0.07
    """Amplitude of the outline's deviation from an ellipse, of the radius."""
    texture: float = 0.18
    """Contrast of the chromatin."""
    brightness_spread: float = 0.3
    """Standard deviation of the logarithm of a nucleus' brightness."""
    spots: float = -0.5
    """Brightness of two or three spots per nucleus, relative to it: dark nucleoli or bright chromocentres."""
    dividing: float = 0.04
    """Fraction of condensed, slender, bright nuclei."""
    debris: int = 6
    """Small bright specks, which are not nuclei."""
    defocused: int = 8
    """Nuclei far out of focus, which are not in the truth."""


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


@dataclass(frozen=True)
class _Nucleus:
    """A star-shaped outline: radius as a Fourier series of the angle."""

    y: float
    x: float
    radius: float
    elongation: float
    angle: float
    dividing: bool
    amplitudes: NDArray[np.float64] = field(repr=False)
    phases: NDArray[np.float64] = field(repr=False)

    def radius_at(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the outline's distance from the centre in the directions theta, pixels."""
        along, across = np.cos(theta - self.angle), np.sin(theta - self.angle)
        ellipse = self.radius / np.hypot(along / self.elongation, across * self.elongation)
        orders = np.arange(2, 2 + len(self.amplitudes))
        ripple = np.cos(theta[..., None] * orders + self.phases) @ self.amplitudes
        wavy: NDArray[np.float64] = ellipse * np.clip(1 + ripple, 0.6, 1.4)
        return wavy


def simulate(
    shape: tuple[int, int] = (512, 512),
    *,
    cells: Cells | None = None,
    microscope: Microscope | None = None,
    rng: np.random.Generator | None = None,
    seed: int | None = None,
    name: str = "simulated",
) -> FieldOfView:
    """Return one field of ``shape`` (rows, columns).

    What is not given is drawn: ``cells`` by :func:`random_cells`, ``microscope`` by :func:`random_microscope`.
    Give ``rng`` or ``seed``, not both (ValueError); with neither the field differs from call to call.
    Nuclei touch but never overlap in the truth, and every label is one piece of at least four pixels.
    """
    if rng is not None and seed is not None:
        raise ValueError("give rng or seed, not both")
    rng = np.random.default_rng(seed) if rng is None else rng
    cells = random_cells(shape, rng) if cells is None else cells
    microscope = random_microscope(rng) if microscope is None else microscope
    labels, nuclei = _place(shape, cells, rng)
    scene = _stain(labels, nuclei, cells, rng) + _distractors(shape, cells, rng)
    return FieldOfView(name=name, image=_record(scene, microscope, rng), labels=labels)


def random_cells(shape: tuple[int, int], rng: np.random.Generator) -> Cells:
    """Return a slide as it might come: nuclei of 10 to 90 pixels, from a few of them to a crowd."""
    diameter = float(np.exp(rng.uniform(np.log(10), np.log(90))))
    room = shape[0] * shape[1] / (diameter**2)
    return Cells(
        count=max(1, int(room * rng.uniform(0.03, 0.6))),
        diameter=diameter,
        diameter_spread=float(rng.uniform(0.08, 0.28)),
        clustering=float(rng.uniform(0, 0.7)),
        irregularity=float(rng.uniform(0.02, 0.1)),
        texture=float(rng.uniform(0.05, 0.3)),
        spots=float(rng.choice((-0.6, -0.3, 0.0, 0.6))),
        brightness_spread=float(rng.uniform(0.1, 0.5)),
        dividing=float(rng.uniform(0, 0.1)),
        debris=int(room * rng.uniform(0, 0.05)),
        defocused=int(room * rng.uniform(0, 0.06)),
    )


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


def _random_nucleus(y: float, x: float, cells: Cells, rng: np.random.Generator) -> _Nucleus:
    ripples = 5
    decay = 1 / np.arange(1, ripples + 1)
    dividing = bool(rng.random() < cells.dividing)
    size = float(np.exp(np.clip(rng.normal(0, cells.diameter_spread), -0.7, 0.7)))
    elongation = float(np.exp(abs(rng.normal(0.08, 0.1))))
    return _Nucleus(
        y=y,
        x=x,
        radius=cells.diameter / 2 * size * (0.75 if dividing else 1),
        elongation=elongation * (1.35 if dividing else 1),
        angle=float(rng.uniform(0, np.pi)),
        dividing=dividing,
        amplitudes=cells.irregularity * decay * rng.normal(size=ripples),
        phases=rng.uniform(0, 2 * np.pi, ripples),
    )


def _place(shape: tuple[int, int], cells: Cells, rng: np.random.Generator) -> tuple[LabelPlane, list[_Nucleus]]:
    """Return the label image and its nuclei: one after the other, each only where 85 % of it is free."""
    labels = np.zeros(shape, np.int32)
    placed: list[_Nucleus] = []
    tries = 0
    while len(placed) < cells.count and tries < 12 * cells.count:
        tries += 1
        if placed and rng.random() < cells.clustering:
            nucleus = _beside(placed[int(rng.integers(len(placed)))], cells, rng)
        else:
            nucleus = _random_nucleus(rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), cells, rng)
        if _draw(labels, nucleus, len(placed) + 1):
            placed.append(nucleus)
    return labels, placed


def _beside(other: _Nucleus, cells: Cells, rng: np.random.Generator) -> _Nucleus:
    """Return a nucleus whose outline meets the other one's in a random direction."""
    theta = np.asarray(rng.uniform(0, 2 * np.pi))
    nucleus = _random_nucleus(0.0, 0.0, cells, rng)
    reach = other.radius_at(theta) + nucleus.radius_at(theta + np.pi)
    distance = float(reach) * rng.uniform(0.93, 1.04)
    return replace(nucleus, y=other.y + distance * float(np.sin(theta)), x=other.x + distance * float(np.cos(theta)))


def _draw(labels: LabelPlane, nucleus: _Nucleus, label: int) -> bool:
    """Write a nucleus into free pixels; return False, and write nothing, where it does not fit."""
    window, inside = _raster(labels.shape, nucleus)
    area = int(inside.sum())
    if area < _SMALLEST:
        return False
    free = inside & (labels[window] == 0)
    pieces, count = ndi.label(free)
    if count == 0:
        return False
    largest = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    if largest.sum() < max(_SMALLEST, 0.85 * area):
        return False
    labels[window][largest] = label
    return True


_SMALLEST: Final = 4  # pixels; what is left of a nucleus at the border may be this small


def _raster(shape: tuple[int, ...], nucleus: _Nucleus) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """Return the window of the field that a nucleus needs, and its pixels there."""
    reach = int(np.ceil(nucleus.radius * nucleus.elongation * 1.4)) + 1
    window = _window(shape, nucleus.y, nucleus.x, reach)
    dy = np.arange(window[0].start, window[0].stop)[:, None] - nucleus.y
    dx = np.arange(window[1].start, window[1].stop)[None, :] - nucleus.x
    outline = nucleus.radius_at(np.linspace(-np.pi, np.pi, _DIRECTIONS + 1))
    direction = np.round((np.arctan2(dy, dx) + np.pi) * (_DIRECTIONS / (2 * np.pi))).astype(np.intp)
    return window, dy**2 + dx**2 <= outline[direction] ** 2


_DIRECTIONS: Final = 360  # in which an outline is computed; the Fourier series for each pixel is slow


def _window(shape: tuple[int, ...], y: float, x: float, reach: int) -> tuple[slice, slice]:
    """Return the square of half width ``reach`` around a point, cut to the field (possibly empty)."""
    rows, columns = (
        slice(min(max(int(c) - reach, 0), n), min(max(int(c) + reach + 1, 0), n))
        for c, n in zip((y, x), shape, strict=True)
    )
    return rows, columns


def _stain(labels: LabelPlane, nuclei: list[_Nucleus], cells: Cells, rng: np.random.Generator) -> FloatPlane:
    """Return the light of the nuclei: brightness, rounded rim, chromatin, spots, mitoses."""
    if not nuclei:
        return np.zeros(labels.shape, np.float32)
    dividing = np.array([False, *(n.dividing for n in nuclei)])
    brightness = np.exp(rng.normal(0, cells.brightness_spread, len(nuclei) + 1))
    brightness *= np.where(dividing, rng.uniform(1.6, 2.6, len(nuclei) + 1), 1)
    chromatin = np.clip(1 + cells.texture * _texture(labels.shape, cells.diameter, rng), 0.15, 3)
    light = np.asarray(
        brightness.astype(np.float32)[labels] * _dome(labels, cells) * chromatin * (labels > 0), dtype=np.float32
    )
    if cells.spots != 0:
        for nucleus in nuclei:
            _add_spots(light, nucleus, cells, rng)
    return light


def _add_spots(light: FloatPlane, nucleus: _Nucleus, cells: Cells, rng: np.random.Generator) -> None:
    """Darken or brighten two or three round spots inside a nucleus, in place."""
    for _ in range(0 if nucleus.dividing else int(rng.integers(2, 4))):
        theta = np.asarray(rng.uniform(0, 2 * np.pi))
        away = float(nucleus.radius_at(theta)) * np.sqrt(rng.uniform(0, 0.4))
        y, x = nucleus.y + away * float(np.sin(theta)), nucleus.x + away * float(np.cos(theta))
        size = nucleus.radius * rng.uniform(0.1, 0.2)
        window, spot = _bell(light.shape, y, x, size)
        light[window] *= np.maximum(1 + cells.spots * rng.uniform(0.4, 1) * spot, 0.05).astype(np.float32)


def _bell(shape: tuple[int, ...], y: float, x: float, sigma: float) -> tuple[tuple[slice, slice], NDArray[np.float64]]:
    """Return a window of the field and a Gaussian of height 1 in it."""
    window = _window(shape, y, x, int(3 * sigma) + 1)
    dy = np.arange(window[0].start, window[0].stop)[:, None] - y
    dx = np.arange(window[1].start, window[1].stop)[None, :] - x
    return window, np.exp(-(dy**2 + dx**2) / (2 * sigma**2))


def _dome(labels: LabelPlane, cells: Cells) -> FloatPlane:
    """Return how thick nuclei are, 1 in the middle: flat with a rounded rim."""
    padded = np.pad(labels, 1, mode="edge")
    edges = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    rim = (labels == 0) | np.logical_or.reduce([labels != e for e in edges])
    if not rim.any():
        return np.ones(labels.shape, np.float32)
    depth = (ndi.distance_transform_edt(~rim) + 1) / max(cells.diameter / 4, 1.5)
    return np.sqrt(1 - (1 - np.clip(depth, 0.1, 1)) ** 2 * 0.8).astype(np.float32)


def _texture(shape: tuple[int, ...], diameter: float, rng: np.random.Generator) -> FloatPlane:
    """Return chromatin: smooth noise on the scale of a nucleus and finer, of about unit amplitude."""
    total = np.zeros(shape, np.float32)
    for sigma, part in ((diameter / 6, 0.6), (diameter / 14, 0.8)):
        wave = ndi.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), max(sigma, 0.6), truncate=2.5)
        total += part * wave / max(float(wave.std()), 1e-6)
    return total


def _distractors(shape: tuple[int, int], cells: Cells, rng: np.random.Generator) -> FloatPlane:
    """Return light that is no nucleus in focus: debris, and nuclei far above or below the focal plane."""
    far = np.zeros(shape, np.float32)
    for _ in range(cells.defocused):
        nucleus = _random_nucleus(rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), cells, rng)
        window, inside = _raster(shape, nucleus)
        far[window] += np.float32(rng.uniform(0.3, 0.9)) * inside
    if cells.defocused:
        far = ndi.gaussian_filter(far, max(cells.diameter * rng.uniform(0.3, 0.5), 4), truncate=2.5)
    for _ in range(cells.debris):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        size = rng.uniform(0.5, min(2.0, 0.06 * cells.diameter + 0.6))
        window, speck = _bell(shape, y, x, size)
        far[window] += (rng.uniform(0.2, 1.2) * speck).astype(np.float32)
    return far


def _record(scene: FloatPlane, microscope: Microscope, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Return the camera's picture of a scene."""
    sharp = ndi.gaussian_filter(scene, microscope.blur, truncate=3)
    light = (1 - microscope.haze) * sharp + microscope.haze * _spread(scene) + microscope.background
    light *= 1 + microscope.unevenness * _illumination(scene.shape, rng)
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


_COARSE_FROM: Final = 64  # pixels; smaller fields are quick anyway


def _illumination(shape: tuple[int, ...], rng: np.random.Generator) -> FloatPlane:
    """Return a slope and a bright spot that need not be in the middle, between about -1 and 1."""
    y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])[None, :]
    angle, (top, left) = rng.uniform(0, 2 * np.pi), rng.uniform(-0.6, 0.6, 2)
    slope = 0.5 * (y * np.sin(angle) + x * np.cos(angle))
    bowl = 0.6 - 0.8 * ((y - top) ** 2 + (x - left) ** 2) / 2
    return np.asarray(slope + bowl, dtype=np.float32)


def _enlarged(coarse: FloatPlane, shape: tuple[int, ...]) -> FloatPlane:
    factors = [n / c for n, c in zip(shape, coarse.shape, strict=True)]
    return np.asarray(ndi.zoom(coarse, factors, order=1, grid_mode=True, mode="nearest"), dtype=np.float32)


def builtin_fields() -> list[FieldOfView]:
    """Return the demonstration's pictures: always the same five, from 512 x 512 to 2048 x 2048 pixels."""
    return [
        simulate(
            (512, 512),
            cells=Cells(count=14, diameter=26, clustering=0.15, defocused=2, debris=5),
            microscope=Microscope(unevenness=0.08, haze=0.05),
            seed=11,
            name="sparse",
        ),
        simulate(
            (1024, 1024),
            cells=Cells(count=900, diameter=24, clustering=0.65, defocused=25, debris=20, spots=0.4),
            microscope=Microscope(blur=1.1, haze=0.12),
            seed=12,
            name="crowded",
        ),
        simulate(
            (1024, 1024),
            cells=Cells(count=260, diameter=22, clustering=0.35, defocused=25, debris=40, texture=0.12),
            microscope=Microscope(blur=1.4, haze=0.2, background=0.25, unevenness=0.45, photons=30, read_noise=6),
            seed=13,
            name="uneven-noisy",
        ),
        simulate(
            (1024, 1024),
            cells=Cells(count=70, diameter=78, clustering=0.4, texture=0.16, irregularity=0.06, defocused=4),
            microscope=Microscope(blur=1.6),
            seed=14,
            name="large-nuclei",
        ),
        simulate(
            (2048, 2048),
            cells=Cells(count=1500, diameter=27, clustering=0.45, dividing=0.06, defocused=80, debris=90),
            microscope=Microscope(photons=250, unevenness=0.2),
            seed=15,
            name="plate-well",
        ),
    ]
