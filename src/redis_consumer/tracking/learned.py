"""Tracks by the Kiosk's two models: one that describes each cell among its neighbours, one that compares.

Knows no model server: both models are functions from named arrays to an array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts at their first use

from redis_consumer.arrays import Tracks
from redis_consumer.tracking.features import Crops, adjacency, features_of, padded
from redis_consumer.tracking.population import checked_movie, relabelled

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer]
Indices = npt.NDArray[np.intp]

Model = Callable[[Mapping[str, Floats]], Floats]
"""A prediction: inputs by their names in the model's signature, one output."""
SAME, PARENT = 0, 2
"""Columns of a comparison; 1 is "different"."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When a cell is linked, begins, ends or divides; the defaults are the Kiosk's."""

    max_distance: float = 50
    """Pixels within which cells are neighbours for the encoder."""
    track_length: int = 8
    """Last frames of a track that are compared."""
    birth: float = 0.99
    death: float = 0.99
    """Costs of a beginning and of an end: a link costs 1 - p(same), and is made where twice that is less than both."""
    division: float = 0.9
    """A new cell has a parent where p(parent) is above."""
    crops: Crops = field(default_factory=Crops)
    encoder_frames: int = 8
    """In one call of the encoder."""


@dataclass(frozen=True, eq=False)
class _Encoded:
    """The cells of a movie as the models know them."""

    ids: list[Indices]
    """Of each frame, ascending."""
    embeddings: Floats
    """(T * C, E): cell i of frame t is row t * C + i."""
    centroids: Floats
    """(T * C, 2)."""

    def rows(self, t: int) -> Indices:
        """Return where the cells of frame `t` stand."""
        most = len(self.embeddings) // len(self.ids)
        return t * most + np.arange(len(self.ids[t]))


@dataclass(eq=False)
class _History:
    """The tracks so far, in the order in which they began."""

    length: int
    windows: Indices
    """(n, length): the last cells of each, padded at the end with the very last."""
    counts: Indices
    """(n,): how many of these are real."""
    capped: npt.NDArray[np.bool_]
    parents: dict[int, int] = field(default_factory=dict)

    @classmethod
    def empty(cls, length: int) -> _History:
        """Return a history without tracks."""
        return cls(length, np.empty((0, length), np.intp), np.empty(0, np.intp), np.empty(0, np.bool_))

    def __len__(self) -> int:
        return len(self.counts)

    def begin(self, cell: int, parent: int | None = None) -> int:
        """Begin a track with `cell`; return its number."""
        self.windows = np.concatenate([self.windows, np.full((1, self.length), cell)])
        self.counts = np.append(self.counts, 1)
        self.capped = np.append(self.capped, False)
        if parent is not None:
            self.parents[len(self) - 1] = parent
        return len(self) - 1

    def extend(self, track: int, cell: int) -> int:
        """Add a cell to a track; return its number."""
        window, count = self.windows[track], self.counts[track]
        if count == self.length:
            window[:-1] = window[1:]
        window[min(count, self.length - 1) :] = cell
        self.counts[track] = min(count + 1, self.length)
        return track


def track(
    movie: npt.NDArray[np.generic],
    labels: Integers,
    encode: Model,
    compare: Model,
    rules: Rules = Rules(),
    progress: Callable[[float], object] | None = None,
) -> Tracks:
    """Return the tracks of the cells in `labels`, (T, Y, X), of a movie (T, Y, X, C) of any real type.

    `encode` gets ``encoder_app_input`` (t, C, side, side, c), ``encoder_morph_input`` (t, C, 3),
    ``encoder_centroid_input`` (t, C, 2) and ``encoder_adj_input`` (t, C, C) of at most `encoder_frames` frames, padded
    to the most cells C that a frame has, and returns embeddings (t, C, E).  `compare` gets ``current_embeddings``
    (1, L, n, E), ``current_centroids``, ``future_embeddings`` (1, 1, m, E) and ``future_centroids`` and returns
    probabilities (1, 1, n, m, 3): same, different, parent and daughter.

    In a frame without cells nothing happens.  A parent may have ended some frames before, and may have one daughter.
    `progress` is told the share that is done, after each frame.  ValueError for one frame, or shapes that do not fit.
    """
    checked_movie(labels)
    if movie.shape[:3] != labels.shape:
        raise ValueError(f"a movie of shape {movie.shape} does not fit labels of shape {labels.shape}")
    cells = _encoded(movie, labels, encode, rules)
    history = _History.empty(rules.track_length)
    tracks = []
    for t in range(len(labels)):
        tracks.append(_step(history, cells, t, compare, rules))
        if progress:
            progress((t + 1) / len(labels))
    parents = {daughter + 1: parent + 1 for daughter, parent in history.parents.items()}
    return Tracks(
        relabelled(labels, [(ids, numbers + 1) for ids, numbers in zip(cells.ids, tracks, strict=True)]), parents
    )


def costs(same: Floats, birth: float, death: float) -> Floats:
    """Return the assignment problem of n tracks and m cells, (n + m, n + m), from p(same), (n, m).

    Rows are tracks, then beginnings; columns cells, then ends (Jaqaman et al., Nature Methods 5, 2008).
    """
    n, m = same.shape
    matrix = np.ones((n + m, n + m), np.float32)
    matrix[:n, :m] = 1 - same
    matrix[np.arange(n), m + np.arange(n)] = death
    matrix[n + np.arange(m), np.arange(m)] = birth
    matrix[n:, m:] = matrix[:n, :m].T
    return matrix


def _encoded(movie: npt.NDArray[np.generic], labels: Integers, encode: Model, rules: Rules) -> _Encoded:
    """Return what the encoder says of every cell, a few frames at a time."""
    most = max(len(np.unique(frame[frame > 0])) for frame in labels)
    ids: list[Indices] = []
    embeddings: list[Floats] = []
    centroids: list[Floats] = []
    for first in range(0, len(labels), rules.encoder_frames):
        part = slice(first, first + rules.encoder_frames)
        images = movie[part].astype(np.float32)
        frames = [features_of(*frame, rules.crops) for frame in zip(images, labels[part], strict=True)]
        ids += [frame.ids for frame in frames]
        places = np.stack([padded(frame.centroids, most) for frame in frames])
        centroids.append(places)
        if most:
            inputs = {
                "encoder_app_input": np.stack([padded(frame.appearances, most) for frame in frames]),
                "encoder_morph_input": np.stack([padded(frame.morphologies, most) for frame in frames]),
                "encoder_centroid_input": places,
                "encoder_adj_input": np.stack([adjacency(place, rules.max_distance) for place in places]),
            }
            embeddings.append(_shaped(encode(inputs), (len(frames), most, None), "the encoder"))
    together = np.concatenate(embeddings) if embeddings else np.empty((len(labels), 0, 1), np.float32)
    return _Encoded(ids, together.reshape(-1, together.shape[-1]), np.concatenate(centroids).reshape(-1, 2))


def _step(history: _History, cells: _Encoded, t: int, compare: Model, rules: Rules) -> Indices:
    """Link the cells of frame `t`; return the number of each one's track."""
    rows = cells.rows(t)
    same, related = _compared(history, cells, rows, compare)
    links, born = _assigned(same, rules)
    parents = {cell: _parent(related[:, cell], rules.division) for cell in born}
    divided = {parent for parent in parents.values() if parent is not None}
    numbers = np.full(len(rows), -1)
    for cell in born:
        numbers[cell] = history.begin(rows[cell], parents[cell])
    for number, cell in links:
        # The cell that carries on a parent is its daughter too.
        divides = number in divided
        numbers[cell] = history.begin(rows[cell], number) if divides else history.extend(number, rows[cell])
    history.capped[list(divided)] = True
    return numbers


def _compared(history: _History, cells: _Encoded, rows: Indices, compare: Model) -> tuple[Floats, Floats]:
    """Return p(same) and p(parent) of every track and cell, (n, m) each; 0 for tracks that ended in a division."""
    shape = (len(history), len(rows))
    if not all(shape):
        return np.empty(shape, np.float32), np.empty(shape, np.float32)
    inputs = {}
    for name, values in (("embeddings", cells.embeddings), ("centroids", cells.centroids)):
        inputs[f"current_{name}"] = values[history.windows.T][None]
        inputs[f"future_{name}"] = values[rows][None, None]
    likely = _shaped(compare(inputs), (1, 1, *shape, 3), "the tracking model")[0, 0]
    alive = ~history.capped[:, None]
    return np.where(alive, likely[..., SAME], 0), np.where(alive, likely[..., PARENT], 0)


def _assigned(same: Floats, rules: Rules) -> tuple[list[tuple[int, int]], list[int]]:
    """Return pairs of track and cell, by track, and the cells that begin a track."""
    tracks, cells = same.shape
    rows, columns = scipy.optimize.linear_sum_assignment(costs(same, rules.birth, rules.death))
    pairs = [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if column < cells]
    return [pair for pair in pairs if pair[0] < tracks], [column for row, column in pairs if row >= tracks]


def _parent(related: Floats, least: float) -> int | None:
    """Return the likeliest parent of a new cell; None if its probability is not above `least`."""
    return int(related.argmax()) if related.size and related.max() > least else None


def _shaped(array: Floats, shape: tuple[int | None, ...], model: str) -> Floats:
    if array.ndim != len(shape) or any(size not in {None, got} for size, got in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{model} returned shape {array.shape}, expected is {shape}")
    return array
