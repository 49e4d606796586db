"""Simulated fluorescence microscopy of nuclei, with the truth known for every pixel.

For the demonstration (pictures to segment without shipping anybody's data), for tests and as a part of the
training of the built-in model. Follows the light: nuclei with chromatin texture, dirt and out-of-focus light make
a scene; illumination and the microscope's point spread function shape it; exposure, photon and read noise record
it. Knows nothing of files, models or jobs. The same seed gives the same field with the same numpy and scipy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage as ndi

from redis_consumer.demo.simulation.microscope import FloatPlane, Microscope, random_microscope, record
from redis_consumer.demo.simulation.outline import LabelPlane, Outline, bell, draw, raster

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    labels, nuclei = place(shape, cells, rng)
    scene = stain(labels, nuclei, cells, rng) + distractors(shape, cells, rng)
    return FieldOfView(name=name, image=record(scene, microscope, rng), labels=labels)


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


def random_nucleus(y: float, x: float, cells: Cells, rng: np.random.Generator) -> Outline:
    """Return a nucleus of these cells at a place."""
    ripples = 5
    decay = 1 / np.arange(1, ripples + 1)
    dividing = bool(rng.random() < cells.dividing)
    size = float(np.exp(np.clip(rng.normal(0, cells.diameter_spread), -0.7, 0.7)))
    elongation = float(np.exp(abs(rng.normal(0.08, 0.1))))
    return Outline(
        y=y,
        x=x,
        radius=cells.diameter / 2 * size * (0.75 if dividing else 1),
        elongation=elongation * (1.35 if dividing else 1),
        angle=float(rng.uniform(0, np.pi)),
        dividing=dividing,
        amplitudes=cells.irregularity * decay * rng.normal(size=ripples),
        phases=rng.uniform(0, 2 * np.pi, ripples),
    )


def place(shape: tuple[int, int], cells: Cells, rng: np.random.Generator) -> tuple[LabelPlane, list[Outline]]:
    """Return the label image and its nuclei: one after the other, each only where 85 % of it is free."""
    labels = np.zeros(shape, np.int32)
    placed: list[Outline] = []
    tries = 0
    while len(placed) < cells.count and tries < 12 * cells.count:
        tries += 1
        if placed and rng.random() < cells.clustering:
            nucleus = _beside(placed[int(rng.integers(len(placed)))], cells, rng)
        else:
            nucleus = random_nucleus(rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), cells, rng)
        if draw(labels, nucleus, len(placed) + 1):
            placed.append(nucleus)
    return labels, placed


def _beside(other: Outline, cells: Cells, rng: np.random.Generator) -> Outline:
    """Return a nucleus whose outline meets the other one's in a random direction."""
    theta = np.asarray(rng.uniform(0, 2 * np.pi))
    nucleus = random_nucleus(0.0, 0.0, cells, rng)
    reach = other.radius_at(theta) + nucleus.radius_at(theta + np.pi)
    distance = float(reach) * rng.uniform(0.93, 1.04)
    return replace(nucleus, y=other.y + distance * float(np.sin(theta)), x=other.x + distance * float(np.cos(theta)))


def stain(labels: LabelPlane, nuclei: list[Outline], cells: Cells, rng: np.random.Generator) -> FloatPlane:
    """Return the light of the nuclei: brightness, rounded rim, chromatin, spots, mitoses."""
    if not nuclei:
        return np.zeros(labels.shape, np.float32)
    dividing = np.array([False, *(n.dividing for n in nuclei)])
    brightness = np.exp(rng.normal(0, cells.brightness_spread, len(nuclei) + 1))
    brightness *= np.where(dividing, rng.uniform(1.6, 2.6, len(nuclei) + 1), 1)
    chromatin = np.clip(1 + cells.texture * texture(labels.shape, cells.diameter, rng), 0.15, 3)
    light = np.asarray(
        brightness.astype(np.float32)[labels] * dome(labels, cells) * chromatin * (labels > 0), dtype=np.float32
    )
    if cells.spots != 0:
        for nucleus in nuclei:
            _add_spots(light, nucleus, cells, rng)
    return light


def _add_spots(light: FloatPlane, nucleus: Outline, cells: Cells, rng: np.random.Generator) -> None:
    """Darken or brighten two or three round spots inside a nucleus, in place."""
    for _ in range(0 if nucleus.dividing else int(rng.integers(2, 4))):
        theta = np.asarray(rng.uniform(0, 2 * np.pi))
        away = float(nucleus.radius_at(theta)) * np.sqrt(rng.uniform(0, 0.4))
        y, x = nucleus.y + away * float(np.sin(theta)), nucleus.x + away * float(np.cos(theta))
        size = nucleus.radius * rng.uniform(0.1, 0.2)
        window, spot = bell(light.shape, y, x, size)
        light[window] *= np.maximum(1 + cells.spots * rng.uniform(0.4, 1) * spot, 0.05).astype(np.float32)


def dome(labels: LabelPlane, cells: Cells) -> FloatPlane:
    """Return how thick nuclei are, 1 in the middle: flat with a rounded rim."""
    padded = np.pad(labels, 1, mode="edge")
    edges = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    rim = (labels == 0) | np.logical_or.reduce([labels != e for e in edges])
    if not rim.any():
        return np.ones(labels.shape, np.float32)
    depth = (ndi.distance_transform_edt(~rim) + 1) / max(cells.diameter / 4, 1.5)
    return np.sqrt(1 - (1 - np.clip(depth, 0.1, 1)) ** 2 * 0.8).astype(np.float32)


def texture(shape: tuple[int, ...], diameter: float, rng: np.random.Generator) -> FloatPlane:
    """Return chromatin: smooth noise on the scale of a nucleus and finer, of about unit amplitude."""
    total = np.zeros(shape, np.float32)
    for sigma, part in ((diameter / 6, 0.6), (diameter / 14, 0.8)):
        wave = ndi.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), max(sigma, 0.6), truncate=2.5)
        total += part * wave / max(float(wave.std()), 1e-6)
    return total


def distractors(shape: tuple[int, int], cells: Cells, rng: np.random.Generator) -> FloatPlane:
    """Return light that is no nucleus in focus: debris, and nuclei far above or below the focal plane."""
    far = np.zeros(shape, np.float32)
    for _ in range(cells.defocused):
        nucleus = random_nucleus(rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), cells, rng)
        window, inside = raster(shape, nucleus)
        far[window] += np.float32(rng.uniform(0.3, 0.9)) * inside
    if cells.defocused:
        far = ndi.gaussian_filter(far, max(cells.diameter * rng.uniform(0.3, 0.5), 4), truncate=2.5)
    for _ in range(cells.debris):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        size = rng.uniform(0.5, min(2.0, 0.06 * cells.diameter + 0.6))
        window, speck = bell(shape, y, x, size)
        far[window] += (rng.uniform(0.2, 1.2) * speck).astype(np.float32)
    return far


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
