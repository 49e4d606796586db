"""Many tiles through a model: cut into batches, several in flight, results in their order.

Knows neither how tiles are made nor how a server is reached.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from operator import call
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from redis_consumer.errors import BatchTooLarge, InvalidModelInput, OutOfMemory, PredictionFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from redis_consumer.arrays import AnyArray
    from redis_consumer.job import ModelId
    from redis_consumer.models.base import ModelServer

T = TypeVar("T")

IN_FLIGHT = 3
"""Requests under way for one image: one is computed, one travels, and one waits for its slot, so that no other image
takes that in between."""
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


def predict_stream(
    server: ModelServer,
    model: ModelId,
    tiles: Iterable[AnyArray],
    *,
    batch_size: int,
    in_flight: int = IN_FLIGHT,
    limits: BatchLimits | None = None,
) -> Iterator[dict[str, AnyArray]]:
    """Yield the outputs for `tiles` batch by batch in their order: arrays (n, ...) by name, sorted by name.

    Sends at most `batch_size` tiles at a time, fewer where the server said so or ran out of memory (`limits` keeps
    that for the next call).  Tiles are made as they are needed.  In memory are `in_flight` requests while an answer is
    waited for, one fewer while the caller works on it, and nothing of what was handed over.  The first batch that
    fails cancels those not yet sent, and its error is raised.  InvalidModelInput where the model takes more than one
    input.
    """
    name, known = _only_input(server, model), limits or BatchLimits()
    requests = _Requests(server, model, known)
    batches = _batches(iter(tiles), lambda: known.cap(model, batch_size))
    calls = map(lambda batch: partial(requests, {name: batch}), batches)  # noqa: C417 - a loop's variable keeps the last
    yield from _in_parallel(calls, in_flight) if in_flight > 1 else map(call, calls)


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

    As `predict_stream`; `on_batch(done, total)` is told of every batch.  InvalidModelInput where there are no tiles.
    """
    if not len(tiles):
        raise InvalidModelInput(f"Model {model}: no tiles to predict on, the array has shape {tiles.shape}")
    outputs: dict[str, AnyArray] = {}
    done = 0
    for made in predict_stream(server, model, tiles, batch_size=batch_size, in_flight=in_flight, limits=limits):
        size = len(next(iter(made.values())))
        if size == len(tiles):
            outputs = made
        for name, array in made.items() if size < len(tiles) else ():
            outputs.setdefault(name, np.empty((len(tiles), *array.shape[1:]), array.dtype))[done : done + size] = array
        done += size
        if on_batch is not None:
            on_batch(done, len(tiles))
    return outputs


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
    return _Requests(server, model, limits or BatchLimits(), batch_size)(inputs)


class _Requests:
    """Sends entries to one model, as many at a time as it takes.  Safe for several threads."""

    def __init__(self, server: ModelServer, model: ModelId, limits: BatchLimits, most: int = sys.maxsize) -> None:
        self._server = server
        self._model = model
        self._limits = limits
        self._most = most
        self._expected: dict[str, tuple[int, ...]] = {}
        self._lock = threading.Lock()

    def __call__(self, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Return the outputs for `inputs`, arrays (N, ...), in several requests where they are too many."""
        count, start, parts = len(next(iter(inputs.values()))), 0, []
        while start < count:
            size = self._limits.cap(self._model, min(self._most, count - start))
            made = self._attempt({name: array[start : start + size] for name, array in inputs.items()}, size)
            if made is not None:
                parts.append(made)
                start += size
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _attempt(self, batch: Mapping[str, AnyArray], size: int) -> dict[str, AnyArray] | None:
        """Return the outputs for `batch`, sorted by name; None where it was too large, and a smaller one is due."""
        try:
            made = self._server.predict(self._model, batch)
        except BatchTooLarge as error:
            if size == 1:
                raise
            self._limits.learn(self._model, min(error.limit, size - 1))
            return None
        except OutOfMemory:
            if size == 1:
                raise
            self._limits.halve(self._model, size)
            return None
        self._limits.fitted(self._model, size)
        self._check(size, made)
        return dict(sorted(made.items()))

    def _check(self, size: int, made: Mapping[str, AnyArray]) -> None:
        found = {name: array.shape for name, array in made.items()}
        with self._lock:
            self._expected = self._expected or {name: shape[1:] for name, shape in found.items()}
        expected = {name: (size, *shape) for name, shape in self._expected.items()}
        if found != expected:
            raise PredictionFailed(
                f"Model {self._model} gave outputs of shape {found}, expected are {expected}: "
                "one entry for each tile, and all tiles alike"
            )


def _batches(tiles: Iterator[AnyArray], size: Callable[[], int]) -> Iterator[AnyArray]:
    while batch := list(islice(tiles, size())):
        made = [np.stack(batch) if len(batch) > 1 else batch[0][np.newaxis]]
        del batch  # neither the tiles nor what is made of them stays here
        yield made.pop()


def _in_parallel(calls: Iterator[Callable[[], T]], in_flight: int) -> Iterator[T]:
    """Yield what the calls return, in their order, with so many of them under way."""
    first = deque(islice(calls, 2))
    if len(first) < 2:  # noqa: PLR2004 - no company, no threads
        if first:
            yield first.popleft()()
        return
    calls = chain((first.popleft() for _ in range(2)), calls)  # a call has its tiles: it must not stay here
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="predict")
    waiting = deque(map(pool.submit, islice(calls, in_flight)))
    try:
        while waiting:
            # Of what is handed over nothing stays here, and the next one is sent after it was worked on: the server
            # has others meanwhile, and one more, with its reply, would be the most of a job's memory.
            yield waiting.popleft().result()
            waiting.extend(map(pool.submit, islice(calls, 1)))
    finally:
        pool.shutdown(cancel_futures=True)


def _only_input(server: ModelServer, model: ModelId) -> str:
    names = [spec.name for spec in server.describe(model)]
    if len(names) != 1:
        raise InvalidModelInput(f"Model {model} takes the inputs {names}, expected is a single one")
    return names[0]
