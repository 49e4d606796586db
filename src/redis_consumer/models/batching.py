"""Many tiles through a model: cut into batches, several in flight, results in one array for each output.

Knows neither how tiles are made nor how a server is reached.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.errors import BatchTooLarge, InvalidModelInput, OutOfMemory, PredictionFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis_consumer.arrays import AnyArray
    from redis_consumer.job import ModelId
    from redis_consumer.models.base import ModelServer


IN_FLIGHT = 2
"""Requests under way for one image: one is computed while the next one travels."""
FITS, MOST_FITS = 32, 1024
"""So many batches must fit into the device's memory before a larger one is tried.  Doubled when that was too early."""


@dataclass(frozen=True, slots=True)
class _Room:
    """How many entries of a request fit into the device's memory, as far as we know."""

    size: int
    fits: int = 0
    needed: int = FITS
    raised: bool = False
    """Whether this size is a trial: the one before it was smaller."""


class BatchLimits:
    """What a model server takes at most in one request, for each model.  Safe for several threads.

    What it said is final.  What its memory had room for is not: others may have used it meanwhile.
    """

    def __init__(self) -> None:
        self._limits: dict[ModelId, int] = {}
        self._rooms: dict[ModelId, _Room] = {}
        self._lock = threading.Lock()

    def cap(self, model: ModelId, size: int) -> int:
        """Return `size`, or what is known to be the most if that is less; at least 1."""
        with self._lock:
            return max(1, min(size, self._limits.get(model, size), self._room(model, size).size))

    def learn(self, model: ModelId, limit: int) -> None:
        """Remember a limit, if it is the lowest so far."""
        with self._lock:
            self._limits[model] = max(1, min(limit, self._limits.get(model, limit)))

    def halve(self, model: ModelId, size: int) -> None:
        """Remember that a batch of `size` found no memory, and allow half of it from now on."""
        with self._lock:
            room = self._room(model, size)
            if size <= room.size:  # otherwise it was sent before the last halving
                needed = min(2 * room.needed, MOST_FITS) if room.raised else room.needed
                self._rooms[model] = _Room(max(1, size // 2), needed=needed)

    def fitted(self, model: ModelId, size: int) -> None:
        """Count a batch that went through; after enough of the largest size, allow twice as much again."""
        with self._lock:
            room = self._rooms.get(model)
            if room is None or size < room.size:
                return
            if room.fits + 1 < room.needed:
                self._rooms[model] = replace(room, fits=room.fits + 1)
            else:  # a trial that held for so long was right
                self._rooms[model] = _Room(2 * room.size, needed=FITS if room.raised else room.needed, raised=True)

    def _room(self, model: ModelId, size: int) -> _Room:
        return self._rooms.get(model) or _Room(size)


def batch_size_for(shape: Sequence[int | None], maximum: int, *, unit: int = 128) -> int:
    """Return how many tiles of `shape` go into one request, at least 1 and at most `maximum`.

    `shape` is that of a model's input or of an array of tiles: (batch, sizes ..., channels), None for a free size.
    `maximum` counts tiles of `unit` x `unit` pixels and one channel: larger ones count for more, as
    floor(maximum / product(size / unit) / channels).
    """
    *sizes, channels = shape[1:] if len(shape) > 1 else (unit, 1)
    tile = math.prod(size / unit for size in sizes if size) * (channels or 1)
    return max(1, min(maximum, math.floor(maximum / tile)))


def predict_batches(
    server: ModelServer,
    model: ModelId,
    tiles: AnyArray,
    *,
    batch_size: int,
    in_flight: int = IN_FLIGHT,
    on_batch: Callable[[int, int], None] | None = None,
    limits: BatchLimits | None = None,
) -> dict[str, AnyArray]:
    """Return the outputs for `tiles`, an array (N, ...), as arrays (N, ...) by name, sorted by name.

    Sends at most `batch_size` tiles at a time, fewer where the server said so or ran out of memory (`limits` keeps
    that for the next call), and keeps `in_flight` requests under way.  `on_batch(done, total)` is told of every
    batch, one at a time.  The first batch that fails cancels those not yet sent, and its error is raised.
    InvalidModelInput where the model takes more than one input, or there are no tiles.
    """
    name = _only_input(server, model)
    if not len(tiles):
        raise InvalidModelInput(f"Model {model}: no tiles to predict on, the array has shape {tiles.shape}")
    run = _Run(server, model, {name: tiles}, limits or BatchLimits(), on_batch)
    size = run.limits.cap(model, batch_size)
    spans = [(start, min(start + size, len(tiles))) for start in range(0, len(tiles), size)]
    if in_flight < 2 or len(spans) == 1:  # noqa: PLR2004 - no company, no threads
        for span in spans:
            run.predict(*span)
    else:
        _in_parallel(run, spans, in_flight)
    return dict(sorted(run.outputs.items()))


def predict_together(
    server: ModelServer,
    model: ModelId,
    inputs: Mapping[str, AnyArray],
    *,
    batch_size: int,
    limits: BatchLimits | None = None,
) -> dict[str, AnyArray]:
    """Return the outputs for several `inputs` by name, arrays (N, ...) of one N, that belong together entry by entry.

    One request after the other, of at most `batch_size` entries; else as `predict_batches`.
    """
    run = _Run(server, model, inputs, limits or BatchLimits(), None)
    size = run.limits.cap(model, batch_size)
    for start in range(0, run.count, size):
        run.predict(start, min(start + size, run.count))
    return dict(sorted(run.outputs.items()))


class _Run:
    """One call of these functions: what its threads share."""

    def __init__(
        self,
        server: ModelServer,
        model: ModelId,
        inputs: Mapping[str, AnyArray],
        limits: BatchLimits,
        on_batch: Callable[[int, int], None] | None,
    ) -> None:
        self.server = server
        self.model = model
        self.inputs = inputs
        self.count = len(next(iter(inputs.values())))
        self.limits = limits
        self.on_batch = on_batch
        self.outputs: dict[str, AnyArray] = {}
        self._done = 0
        self._lock = threading.Lock()

    def predict(self, start: int, stop: int) -> None:
        """Predict on these tiles, in smaller batches where the server finds them too many."""
        while start < stop:
            size = self.limits.cap(self.model, stop - start)
            batch = {name: array[start : start + size] for name, array in self.inputs.items()}
            try:
                made = self.server.predict(self.model, batch)
            except BatchTooLarge as error:
                if size == 1:
                    raise
                self.limits.learn(self.model, min(error.limit, size - 1))
                continue
            except OutOfMemory:
                if size == 1:
                    raise
                self.limits.halve(self.model, size)
                continue
            self.limits.fitted(self.model, size)
            self._store(start, size, made)
            start += size

    def _store(self, start: int, size: int, made: dict[str, AnyArray]) -> None:
        with self._lock:
            if not self.outputs:
                self.outputs = {
                    name: np.empty((self.count, *array.shape[1:]), array.dtype) for name, array in made.items()
                }
            self._check(size, made)
        for name, array in made.items():  # apart from each other, so without the lock
            self.outputs[name][start : start + size] = array
        with self._lock:
            self._done += size
            if self.on_batch is not None:
                self.on_batch(self._done, self.count)

    def _check(self, size: int, made: dict[str, AnyArray]) -> None:
        expected = {name: (size, *array.shape[1:]) for name, array in self.outputs.items()}
        found = {name: array.shape for name, array in made.items()}
        if found != expected:
            raise PredictionFailed(
                f"Model {self.model} gave outputs of shape {found}, expected are {expected}: "
                "one entry for each tile, and all tiles alike"
            )


def _in_parallel(run: _Run, spans: list[tuple[int, int]], in_flight: int) -> None:
    pool = ThreadPoolExecutor(min(in_flight, len(spans)), thread_name_prefix="predict")
    try:
        futures = [pool.submit(run.predict, *span) for span in spans]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _only_input(server: ModelServer, model: ModelId) -> str:
    names = [spec.name for spec in server.describe(model)]
    if len(names) != 1:
        raise InvalidModelInput(f"Model {model} takes the inputs {names}, expected is a single one")
    return names[0]
