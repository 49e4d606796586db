"""Tracks by the Kiosk's two models: one that describes each cell among its neighbours, one that compares.

Knows no model server: both models are functions from named arrays to an array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from redis_consumer.tracking.features import Crops, adjacency, features_of, padded
from redis_consumer.tracking.history import History, Terms, shaped
from redis_consumer.tracking.population import checked_movie

if TYPE_CHECKING:
    from redis_consumer.arrays import Tracks

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer]
Indices = npt.NDArray[np.intp]

Model = Callable[[Mapping[str, Floats]], Floats]
"""A prediction: inputs by their names in the model's signature, one output."""
COMPARER_INPUTS = ("current_centroids", "current_embeddings", "future_centroids", "future_embeddings")
"""Of the model that compares, sorted."""
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
    checked_movie(labels, movie)
    cells = _encoded(movie, labels, encode, rules)
    history = History.empty(rules.track_length)
    terms = Terms(rules.birth, rules.death, rules.division)
    numbers = []
    for t in range(len(labels)):
        rows = cells.rows(t)
        numbers.append(history.add(rows, *_compared(history, cells, rows, compare), terms))
        if progress:
            progress((t + 1) / len(labels))
    return history.tracks(labels, cells.ids, numbers)


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
            embeddings.append(shaped(encode(inputs), (len(frames), most, None), "the encoder"))
    together = np.concatenate(embeddings) if embeddings else np.empty((len(labels), 0, 1), np.float32)
    return _Encoded(ids, together.reshape(-1, together.shape[-1]), np.concatenate(centroids).reshape(-1, 2))


def _compared(history: History, cells: _Encoded, rows: Indices, compare: Model) -> tuple[Floats, Floats]:
    """Return p(same) and p(parent) of every track and cell, (n, m) each; 0 for tracks that ended in a division."""
    shape = (len(history), len(rows))
    if not all(shape):
        return np.empty(shape, np.float32), np.empty(shape, np.float32)
    inputs = {}
    for name, values in (("embeddings", cells.embeddings), ("centroids", cells.centroids)):
        inputs[f"current_{name}"] = values[history.windows.T][None]
        inputs[f"future_{name}"] = values[rows][None, None]
    likely = shaped(compare(inputs), (1, 1, *shape, 3), "the tracking model")[0, 0]
    alive = ~history.capped[:, None]
    return np.where(alive, likely[..., SAME], 0), np.where(alive, likely[..., PARENT], 0)
