"""Simulated movies of crowded cells with known tracks: they push, round up, divide, leave, enter and are missed.

Outlines are discs of uncertain size, since only they are tracked; there is no image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.arrays import Tracks

if TYPE_CHECKING:
    import numpy.typing as npt

    Movie = npt.NDArray[np.int32]
    Places = npt.NDArray[np.float64]

SIZE = 512
RADIUS = 9.0
CONDENSED, NEWBORN, GROWTH = 0.8, 0.65, 0.05
"""Of the full radius: before a division, after it, and what a daughter gains in each frame."""
ROUNDS_UP = 3
"""Frames before a division in which a cell is condensed."""
DIVIDES, DIES, ENTERS = 0.008, 0.003, 0.3
"""Chances in a frame: of each cell the first two, of any cell the third."""
OLD_ENOUGH = 8


@dataclass(eq=False)
class Cell:
    """One cell now."""

    label: int
    place: Places
    full: float
    age: int = OLD_ENOUGH
    left: int | None = None
    """Frames until it divides."""

    @property
    def radius(self) -> float:
        """In this frame."""
        if self.left is not None and self.left <= ROUNDS_UP:
            return CONDENSED * self.full
        return min(1.0, NEWBORN + GROWTH * self.age) * self.full


@dataclass(frozen=True, slots=True)
class Conditions:
    """How hard it is."""

    cells: int = 120
    frames: int = 50
    step: float = 2.5
    """Deviation of a move along each axis, in pixels."""
    missed: float = 0.02
    """Share of cells that are not seen."""
    uncertainty: float = 0.1
    """Deviation of a radius, as a share of it."""


class Crowd:
    """Cells and their history."""

    def __init__(self, conditions: Conditions, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._conditions = conditions
        self._labels = 0
        self.parents: dict[int, int] = {}
        self.cells = [self._new(self._rng.uniform(0, SIZE, 2)) for _ in range(conditions.cells)]

    def _new(self, place: Places, parent: Cell | None = None) -> Cell:
        self._labels += 1
        if parent:
            self.parents[self._labels] = parent.label
            return Cell(self._labels, place, parent.full, age=0)
        return Cell(self._labels, place, RADIUS * self._rng.uniform(0.85, 1.15))

    def step(self) -> None:
        """Go on by one frame."""
        self.cells = [later for cell in self.cells for later in self._next(cell)]
        if self._rng.random() < ENTERS:
            along, edge = self._rng.uniform(0, SIZE), self._rng.integers(4)
            self.cells.append(self._new(np.roll([along, SIZE * (edge % 2)], edge // 2)))
        for cell in self.cells:
            cell.place = cell.place + self._rng.normal(0, self._conditions.step, 2)
        self._push()
        self.cells = [cell for cell in self.cells if np.all(np.abs(cell.place - SIZE / 2) < SIZE / 2 + 2 * RADIUS)]

    def _next(self, cell: Cell) -> list[Cell]:
        """Return what a cell is in the next frame: itself, two daughters or nothing."""
        cell.age += 1
        if cell.left is None:
            if cell.age > OLD_ENOUGH and self._rng.random() < DIVIDES:
                cell.left = ROUNDS_UP + 1
            return [] if self._rng.random() < DIES else [cell]
        cell.left -= 1
        if cell.left:
            return [cell]
        angle = self._rng.uniform(0, 2 * np.pi)
        away = cell.radius * self._rng.uniform(0.6, 1.1) * np.array([np.sin(angle), np.cos(angle)])
        return [self._new(cell.place + side * away, cell) for side in (-1, 1)]

    def _push(self) -> None:
        """Move cells apart where they overlap."""
        places = np.array([cell.place for cell in self.cells])
        radii = np.array([cell.radius for cell in self.cells])
        room = 0.95 * (radii[:, None] + radii)
        np.fill_diagonal(room, 0)
        for _ in range(5):
            apart = places[:, None] - places
            distance = np.linalg.norm(apart, axis=-1)
            push = np.clip(room - distance, 0, None) / 4 / np.maximum(distance, 1e-9)
            places = places + (push[..., None] * apart).sum(axis=1)
        for cell, place in zip(self.cells, places, strict=True):
            cell.place = place

    def draw(self) -> Movie:
        """Return the labels of those that are seen; a pixel belongs to the nearest."""
        frame, nearest = np.zeros((SIZE, SIZE), np.int32), np.ones((SIZE, SIZE))
        for cell in self.cells:
            if self._rng.random() < self._conditions.missed:
                continue
            radius = cell.radius * (1 + self._rng.normal(0, self._conditions.uncertainty))
            window = tuple(slice(max(int(p - 2 * RADIUS), 0), max(int(p + 2 * RADIUS), 0)) for p in cell.place)
            rows, columns = np.ogrid[:SIZE, :SIZE]
            distance = np.hypot(rows[window[0]] - cell.place[0], columns[:, window[1]] - cell.place[1]) / radius
            own = distance < nearest[window]
            frame[window][own], nearest[window][own] = cell.label, distance[own]
        return frame


def simulate(conditions: Conditions, seed: int) -> Tracks:
    """Return a movie and its tracks, as far as they are seen."""
    crowd = Crowd(conditions, seed)
    frames = [crowd.draw()]
    for _ in range(conditions.frames - 1):
        crowd.step()
        frames.append(crowd.draw())
    lineage = Tracks(np.stack(frames)).lineage
    seen = {daughter: parent for daughter, parent in crowd.parents.items() if {daughter, parent} <= lineage.keys()}
    return Tracks(np.stack(frames), seen)
