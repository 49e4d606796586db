"""A simulated movie of living nuclei: they move, divide, enter and leave.  Every pixel's track is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from redis_consumer.demo.simulation.microscope import Microscope, illumination, record
from redis_consumer.demo.simulation.nuclei import Cells, dome, random_nucleus, texture
from redis_consumer.demo.simulation.outline import Outline, draw, raster

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from redis_consumer.demo.simulation.microscope import FloatPlane
    from redis_consumer.demo.simulation.outline import LabelPlane

CONDENSED_FRAMES: Final = 3
"""Frames that a nucleus is small, slender and bright before its division."""
CHILD: Final = 0.74
"""Radius of a nucleus after its division, of that before it."""
GROWTH: Final = 0.03
"""How much of its full radius a young nucleus gains in a frame."""
ROUNDS: Final = 8
"""Of pushing apart what overlaps, in each frame."""


@dataclass(frozen=True)
class Population:
    """How nuclei live.  Lengths in pixels, times in frames."""

    speed: float = 2.5
    """Typical step."""
    persistence: float = 0.8
    """Part of the velocity that is kept from frame to frame."""
    division: float = 0.01
    """Probability that a nucleus starts to divide in a frame."""
    arrivals: float = 0.15
    """Probability that a nucleus comes over the edge in a frame."""


@dataclass(frozen=True)
class Movie:
    """One simulated movie and its truth."""

    name: str
    image: NDArray[np.uint16]
    """``(T, Y, X)``."""
    labels: NDArray[np.int32]
    """``(T, Y, X)``: 0 background; a track keeps its label, 1 to n by first frame, and has no gaps."""
    parents: dict[int, int]
    """Parent of each daughter; the parent ends in the frame before its daughters begin."""


@dataclass(frozen=True)
class _Life:
    """A nucleus at a time."""

    label: int
    outline: Outline
    full: float
    """Radius that it grows to."""
    step: tuple[float, float]
    brightness: float
    patch: tuple[int, int]
    """Its part of the chromatin."""
    condensed: int = 0
    """Frames until it divides, 0 if it does not."""
    seen: bool = False


def simulate_movie(
    shape: tuple[int, int] = (320, 320),
    frames: int = 30,
    *,
    nuclei: Cells,
    population: Population,
    microscope: Microscope,
    seed: int,
    name: str = "movie",
) -> Movie:
    """Return a movie of ``frames`` pictures of ``shape`` (rows, columns)."""
    rng = np.random.default_rng(seed)
    colony = _Colony(shape, nuclei, population, rng)
    chromatin = np.clip(1 + nuclei.texture * texture(shape, nuclei.diameter, rng), 0.15, 3)
    lamp = illumination(shape, rng)
    images, labels = [], []
    for frame in range(frames):
        if frame:
            colony.live()
        labels.append(colony.drawn())
        scene = _light(labels[-1], colony.lives, nuclei, chromatin)
        images.append(record(scene, microscope, rng, lamp))
    stack, parents = numbered(np.stack(labels), colony.parents)
    return Movie(name=name, image=np.stack(images), labels=stack, parents=parents)


class _Colony:
    """All nuclei that live, and who descends from whom."""

    def __init__(self, shape: tuple[int, int], nuclei: Cells, population: Population, rng: np.random.Generator) -> None:
        self._shape, self._nuclei, self._population, self._rng = shape, nuclei, population, rng
        self._next = 1
        self.parents: dict[int, int] = {}
        self.lives = [self._new(float(y), float(x)) for y, x in rng.uniform((0, 0), shape, (nuclei.count, 2))]
        for _ in range(5 * ROUNDS):
            self.lives = pushed(self.lives)

    def live(self) -> None:
        """Let one frame pass."""
        self.lives = [self._moved(life) for one in self.lives for life in self._aged(one)]
        if self._rng.random() < self._population.arrivals:
            self.lives.append(self._arrived())
        for _ in range(ROUNDS):
            self.lives = pushed(self.lives)

    def drawn(self) -> LabelPlane:
        """Return the labels of this frame ``(Y, X)``, and forget who left the field."""
        labels = np.zeros(self._shape, np.int32)
        lives = []
        for life in self.lives:
            visible = draw(labels, life.outline, life.label, least=0.0)
            if visible or not life.seen:
                lives.append(replace(life, seen=visible or life.seen))
        self.lives = lives
        return labels

    def _new(self, y: float, x: float) -> _Life:
        outline = random_nucleus(y, x, replace(self._nuclei, dividing=0), self._rng)
        self._next += 1
        row, column = self._rng.integers(0, self._shape)
        brightness = float(np.exp(self._rng.normal(0, self._nuclei.brightness_spread)))
        return _Life(self._next, outline, outline.radius, (0.0, 0.0), brightness, (int(row), int(column)))

    def _arrived(self) -> _Life:
        """Return a nucleus just beyond an edge, on its way in."""
        (rows, columns), beyond = self._shape, self._nuclei.diameter / 2
        y, x = self._rng.uniform((0, 0), self._shape)
        inward = 2 * self._population.speed
        places = [(-beyond, x), (rows + beyond, x), (y, -beyond), (y, columns + beyond)]
        steps = [(inward, 0.0), (-inward, 0.0), (0.0, inward), (0.0, -inward)]
        side = int(self._rng.integers(4))
        return replace(self._new(*places[side]), step=steps[side])

    def _aged(self, life: _Life) -> list[_Life]:
        """Return the nucleus a frame later, or its two daughters."""
        if life.condensed == 1:
            return self._daughters(life)
        if life.condensed:
            return [replace(life, condensed=life.condensed - 1)]
        if self._may_divide(life) and self._rng.random() < self._population.division:
            slender = replace(life.outline, radius=0.85 * life.full, elongation=1.35, dividing=True)
            return [replace(life, condensed=CONDENSED_FRAMES, outline=slender)]
        grown = min(life.full, life.outline.radius + GROWTH * life.full)
        return [replace(life, outline=replace(life.outline, radius=grown))]

    def _may_divide(self, life: _Life) -> bool:
        """Return whether it is grown, and so far inside that both daughters are seen."""
        room = min(life.outline.y, life.outline.x, self._shape[0] - life.outline.y, self._shape[1] - life.outline.x)
        return life.outline.radius >= life.full and room > 2 * life.full

    def _daughters(self, life: _Life) -> list[_Life]:
        across = life.outline.angle
        pair = []
        for sign in (-1, 1):
            away = sign * 0.8 * life.full
            y, x = life.outline.y + away * math.sin(across), life.outline.x + away * math.cos(across)
            child = self._new(y, x)
            outline = replace(child.outline, radius=CHILD * life.full)
            step = (sign * self._population.speed * math.sin(across), sign * self._population.speed * math.cos(across))
            pair.append(replace(child, outline=outline, full=life.full, brightness=life.brightness, step=step))
            self.parents[child.label] = life.label
        return pair

    def _moved(self, life: _Life) -> _Life:
        rest = self._population.speed * math.sqrt(1 - self._population.persistence**2)
        step = self._population.persistence * np.array(life.step) + self._rng.normal(0, rest, 2) / math.sqrt(2)
        outline = replace(
            life.outline,
            y=life.outline.y + float(step[0]),
            x=life.outline.x + float(step[1]),
            angle=life.outline.angle + float(self._rng.normal(0, 0.05)),
        )
        return replace(life, outline=outline, step=(float(step[0]), float(step[1])))


def pushed(lives: list[_Life]) -> list[_Life]:
    """Return nuclei moved a part of the way that makes room between those that overlap."""
    places = np.array([(life.outline.y, life.outline.x) for life in lives]).reshape(-1, 2)
    radii = np.array([life.outline.radius * life.outline.elongation**0.5 for life in lives])
    between = places[:, None] - places[None]
    distance = np.maximum(np.hypot(between[..., 0], between[..., 1]), 1e-6)
    overlap = np.clip(1.12 * (radii[:, None] + radii[None]) - distance, 0, None)
    np.fill_diagonal(overlap, 0)
    push = (between / distance[..., None] * overlap[..., None]).sum(1) * 0.3
    moved = zip(lives, (places + push).tolist(), strict=True)
    return [replace(life, outline=replace(life.outline, y=y, x=x)) for life, (y, x) in moved]


def _light(labels: LabelPlane, lives: list[_Life], nuclei: Cells, chromatin: FloatPlane) -> FloatPlane:
    """Return the light of nuclei, each with its own chromatin that moves along."""
    light = np.zeros(labels.shape, np.float32)
    for life in lives:
        window, _ = raster(labels.shape, life.outline)
        inside = labels[window] == life.label
        rows, columns = (
            (np.arange(part.start, part.stop) - round(centre) + start) % size
            for part, centre, start, size in zip(
                window, (life.outline.y, life.outline.x), life.patch, labels.shape, strict=True
            )
        )
        brightness = life.brightness * (1.7 if life.condensed else 1)
        light[window] += (brightness * inside * chromatin[np.ix_(rows, columns)]).astype(np.float32)
    return light * dome(labels, nuclei)


def numbered(labels: NDArray[np.int32], parents: dict[int, int]) -> tuple[NDArray[np.int32], dict[int, int]]:
    """Return labels and parents with tracks numbered from 1 by first frame; who was never seen is left out."""
    values, firsts = np.unique(labels, return_index=True)
    order = [int(value) for _, value in sorted(zip(firsts.tolist(), values.tolist(), strict=True)) if value]
    number = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    number[order] = np.arange(1, len(order) + 1)
    renamed = {int(number[child]): int(number[parent]) for child, parent in parents.items() if child in order}
    return number[labels], renamed


def builtin_movies() -> list[Movie]:
    """Return the demonstration's movie: always the same."""
    return [
        simulate_movie(
            nuclei=Cells(count=20, diameter=26, texture=0.14, irregularity=0.05, spots=0.0),
            population=Population(),
            microscope=Microscope(unevenness=0.08, haze=0.05),
            seed=43,
            name="colony",
        )
    ]
