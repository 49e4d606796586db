"""Movies of discs with known tracks: cells that move, divide, are missed, enter and leave.

Each cell, with its daughters, has a site of its own, far enough from the next that the truth is in no doubt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.arrays import Tracks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Movie = npt.NDArray[np.int32]

SITE = 48
"""Pixels from site to site."""
RADIUS = 8.0
STEP = 2
"""Pixels that a cell moves from frame to frame at most, along each axis."""
ROAM = 5
"""And from its site."""


@dataclass(frozen=True)
class Life:
    """One cell: when it is in the picture, when it divides, when it is missed."""

    first: int
    last: int
    divides: int | None = None
    """First frame of its daughters."""
    missed: tuple[int, ...] = ()


def movie_of(lives: Sequence[Life], frames: int, seed: int = 0) -> Tracks:
    """Return the movie of these cells and its tracks."""
    rng = np.random.default_rng(seed)
    columns = max(int(np.ceil(np.sqrt(len(lives)))), 1)
    movie = np.zeros((frames, SITE * (-(-len(lives) // columns) or 1), SITE * columns), np.int32)
    parents: dict[int, int] = {}
    label = 0
    for number, life in enumerate(lives):
        site = (np.array(divmod(number, columns)) + 0.5) * SITE
        path = _path(rng, frames)
        label += 1
        end = life.last if life.divides is None else life.divides - 1
        for t in range(life.first, end + 1):
            if t not in life.missed:
                _draw(movie[t], site + path[t], RADIUS, label)
        if life.divides is not None:
            parent, angle = label, rng.uniform(0, 2 * np.pi)
            for side in (-1, 1):
                label += 1
                parents[label] = parent
                for t in range(life.divides, life.last + 1):
                    away = (RADIUS - 1 + min(t - life.divides, 2)) * np.array([np.sin(angle), np.cos(angle)])
                    _draw(movie[t], site + path[t] + side * away, RADIUS / np.sqrt(2), label)
    return Tracks(movie, parents)


def permuted(movie: Movie, seed: int = 0) -> Movie:
    """Return the same cells with other ids in every frame."""
    rng = np.random.default_rng(seed)
    most = int(movie.max(initial=0))
    ids = [np.concatenate([[0], rng.permutation(2 * most)[:most] + 1]) for _ in movie]
    return np.stack([new[frame] for frame, new in zip(movie, ids, strict=True)]).astype(np.int32)


def same(found: Tracks, truth: Tracks) -> bool:
    """Say whether both are the same but for the labels."""
    pairs = set(zip(found.array.ravel().tolist(), truth.array.ravel().tolist(), strict=True))
    to = dict(pairs)
    return (
        len(pairs) == len(to) == len(set(to.values()))
        and {to[daughter]: to[parent] for daughter, parent in found.parents.items()} == truth.parents
    )


def _path(rng: np.random.Generator, frames: int) -> npt.NDArray[np.float64]:
    """Return where a cell is in each frame, from its site."""
    path = np.zeros((frames, 2))
    for t in range(1, frames):
        path[t] = np.clip(path[t - 1] + rng.uniform(-STEP, STEP, 2), -ROAM, ROAM)
    return path


def _draw(frame: Movie, centre: npt.NDArray[np.float64], radius: float, label: int) -> None:
    rows, columns = np.indices(frame.shape)
    disc = np.hypot(rows - centre[0], columns - centre[1]) <= radius
    frame[disc & (frame == 0)] = label
