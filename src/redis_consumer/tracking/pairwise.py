"""Tracks by a model of the Kiosk's first years, 2019 to 2021: it sees pairs of a track's last frames and a cell.

Knows no model server: the model is a function from named arrays to an array.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.processing import normalize
from redis_consumer.tracking.false_divisions import without_false_divisions
from redis_consumer.tracking.history import History, Terms, shaped
from redis_consumer.tracking.pair_features import Memory, Sides, show, surroundings
from redis_consumer.tracking.population import checked_movie

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray, Image, Tracks
    from redis_consumer.tracking.learned import Model

    Integers = npt.NDArray[np.integer]
    Indices = npt.NDArray[np.intp]
    Floats = npt.NDArray[np.float32]

FEATURES = ("appearance", "distance", "neighborhood", "regionprop")
PAIR_INPUTS = tuple(f"{feature}_input{part}" for feature, part in product(FEATURES, (1, 2)))
"""Of each feature that of the tracks, then that of the cells."""
SAME, DAUGHTER = 1, 2
"""Columns of a prediction; 0 is "different"."""


@dataclass(frozen=True, slots=True)
class PairRules:
    """When a cell is linked, begins, ends or divides; the defaults are those of the Kiosk in these years."""

    max_distance: float = 50
    """Pixels within which a track and a cell are compared: see `near`."""
    track_length: int = 5
    """Last frames of a track that are compared."""
    birth: float = 0.95
    death: float = 0.95
    division: float = 0.9
    """These three as in `Terms`."""
    sides: Sides = field(default_factory=Sides)
    normalized: bool = True
    """Whether each frame gets mean 0 and deviation 1 first."""
    pairs: int = 256
    """In one call of the model."""


def track_pairs(
    movie: AnyArray,
    labels: Integers,
    compare: Model,
    rules: PairRules = PairRules(),
    progress: Callable[[float], object] | None = None,
) -> Tracks:
    """Return the tracks of the cells in `labels`, (T, Y, X), of a movie (T, Y, X, C) of any real type.

    `compare` gets n pairs, at most `rules.pairs`, as `PAIR_INPUTS`: of each feature the last L frames of a track,
    (n, L, ...), shorter ones padded at their end with their last, and a cell of the next frame, (n, 1, ...).  They are
    ``appearance`` (side, side, C), the cell's box; ``distance`` (2), the centroid's step since the frame before;
    ``neighborhood`` (side, side, C), 200 x 200 pixels around; ``regionprop`` (3), area, perimeter, eccentricity.  It
    returns probabilities (n, 3): different, same, daughter.

    The steps are those of deepcell-tracking 0.2.5, early in 2020: a cell's neighbourhood is that around the track's
    last place, if the track was seen in the frame before; which pairs are compared says `near`; in the end false
    divisions are undone (`without_false_divisions`), which leaves gaps in the labels.  Links and divisions are made as
    by today's tracker (`track`).  Mended: in a frame without cells nothing happens, and one without background is no
    error.

    `progress` is told the share that is done, after each frame.  ValueError for one frame, for shapes that do not fit,
    and with `rules.normalized` for values that are not finite.
    """
    checked_movie(labels, movie)
    history = History.empty(rules.track_length)
    memory = Memory.empty(rules.sides, movie.shape[-1])
    terms = Terms(rules.birth, rules.death, rules.division)
    ids, numbers = [], []
    cells = np.empty(0, np.intp)
    for t in range(len(labels)):
        frame = _frame(movie[t], normalized=rules.normalized)
        of_frame, shown = show(frame, labels[t], rules.sides)
        before, cells = cells, memory.add(shown)
        likely = _compared(history, memory, cells, _Now(frame, before), compare, rules)
        numbers.append(history.add(cells, likely[..., SAME], likely[..., DAUGHTER], terms))
        ids.append(of_frame)
        memory.keep(history.windows[~history.capped])
        if progress:
            progress((t + 1) / len(labels))
    return without_false_divisions(history.tracks(labels, ids, numbers))


def near(tracks: Floats, cells: Floats, max_distance: float) -> npt.NDArray[np.bool_]:
    """Return which of n tracks, centroids (n, L, 2), are compared with which of m cells, (m, 2).

    Along each axis alone, the root of all squared steps of the window, the one to the cell included, is at most
    `max_distance`: the original's mistake of axes, kept since it decides what the model is asked.
    """
    so_far = np.square(np.diff(tracks, axis=1)).sum(axis=1)
    last = np.square(tracks[:, -1][:, None] - cells)
    within: npt.NDArray[np.bool_] = (np.sqrt(so_far[:, None] + last) <= max_distance).all(axis=-1)
    return within


@dataclass(frozen=True, eq=False)
class _Now:
    """The frame whose cells are compared."""

    image: Image
    before: Indices
    """The cells of the frame before."""


def _frame(image: AnyArray, *, normalized: bool) -> Image:
    frame = image.astype(np.float32)
    return normalize(frame[None])[0] if normalized else frame


def _compared(history: History, memory: Memory, cells: Indices, now: _Now, compare: Model, rules: PairRules) -> Floats:
    """Return what the model says of every track and cell, (n, m, 3); 0 of pairs that it is not asked about."""
    likely = np.zeros((len(history), len(cells), 3), np.float32)
    alive = np.flatnonzero(~history.capped)
    centroids = memory.shown.centroids
    places = centroids[memory.of(history.windows[alive])]
    i, j = np.nonzero(near(places, centroids[memory.of(cells)], rules.max_distance))
    for first in range(0, len(i), rules.pairs):
        track, cell = alive[i[first : first + rules.pairs]], j[first : first + rules.pairs]
        inputs = _inputs(memory, history.windows[track], cells[cell], now, rules.sides)
        likely[track, cell] = shaped(compare(inputs), (len(track), 3), "the tracking model")
    return likely


def _inputs(memory: Memory, windows: Indices, cells: Indices, now: _Now, sides: Sides) -> dict[str, Floats]:
    """Return the model's inputs for pairs of a track's last cells, (n, L), and a cell, (n,)."""
    old, new = memory.shown.take(memory.of(windows)), memory.shown.take(memory.of(cells[:, None]))
    places = np.concatenate([old.centroids, new.centroids], axis=1)
    steps = np.diff(places, axis=1, prepend=places[:, :1])
    around = new.neighborhoods
    last = windows[:, -1]
    follows = np.isin(last, now.before)
    if follows.any():
        ends, which = np.unique(last[follows], return_inverse=True)
        around[follows, 0] = surroundings(now.image, memory.shown.centroids[memory.of(ends)], sides.neighborhood)[which]
    parts = (
        *(old.appearances, new.appearances),
        *(steps[:, :-1], steps[:, -1:]),
        *(old.neighborhoods, around),
        *(old.regionprops, new.regionprops),
    )
    return dict(zip(PAIR_INPUTS, parts, strict=True))
