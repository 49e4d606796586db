from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING

import numpy as np
import pytest

from redis_consumer.errors import BatchTooLarge, InvalidModelInput, OutOfMemory, PredictionFailed
from redis_consumer.job import ModelId
from redis_consumer.models.base import TensorSpec
from redis_consumer.models.batching import FITS, BatchLimits, batch_size_for, predict_batches, predict_stream
from redis_consumer.models.memory import MemoryModel, MemoryModelServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_consumer.arrays import AnyArray

MODEL = ModelId("M", 1)
SPEC = TensorSpec("x", np.dtype(np.float32), (None, 4))


def tiles(count: int) -> AnyArray:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4)


def serving(function: Callable[[AnyArray], dict[str, AnyArray]], *specs: TensorSpec) -> MemoryModelServer:
    return MemoryModelServer({MODEL: MemoryModel(specs or [SPEC], lambda inputs: function(inputs["x"]))})


class Limited:
    """A model that refuses more than `limit` entries, and remembers what it was sent."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sizes: list[int] = []

    def __call__(self, x: AnyArray) -> dict[str, AnyArray]:
        self.sizes.append(len(x))
        if len(x) > self.limit:
            raise BatchTooLarge(f"Task size {len(x)}", self.limit)
        return {"y": x}


@pytest.mark.parametrize("in_flight", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_results_stand_in_the_order_of_the_tiles(batch_size: int, in_flight: int) -> None:
    server = serving(lambda x: {"sum": x.astype(np.float64).sum(axis=1), "double": x.astype(np.float32) * 2})
    found = predict_batches(server, MODEL, tiles(7), batch_size=batch_size, in_flight=in_flight)
    assert list(found) == ["double", "sum"]
    np.testing.assert_array_equal(found["double"], tiles(7).astype(np.float32) * 2)
    assert found["sum"].dtype == np.float64
    assert found["sum"].shape == (7,)


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_is_never_empty(batch_size: int) -> None:
    model = Limited(10)
    predict_batches(serving(model), MODEL, tiles(2), batch_size=batch_size)
    assert model.sizes == [1, 1]


def test_the_limit_of_the_server_is_learned_and_kept() -> None:
    limits, model = BatchLimits(), Limited(3)
    for _ in range(2):
        found = predict_batches(serving(model), MODEL, tiles(8), batch_size=8, limits=limits)
        np.testing.assert_array_equal(found["y"], tiles(8))
    assert sorted(model.sizes) == [2, 2, 3, 3, 3, 3, 8]
    assert limits.cap(MODEL, 8) == 3
    assert limits.cap(ModelId("Other"), 8) == 8


@pytest.mark.parametrize("limit", [0, 50])
def test_a_limit_that_makes_no_sense_still_leads_to_smaller_batches(limit: int) -> None:
    def refuse_more_than_two(x: AnyArray) -> dict[str, AnyArray]:
        if len(x) > 2:
            raise BatchTooLarge("too many", limit)
        return {"y": x}

    found = predict_batches(serving(refuse_more_than_two), MODEL, tiles(5), batch_size=4)
    np.testing.assert_array_equal(found["y"], tiles(5))


def test_a_single_tile_that_is_too_many_is_an_error() -> None:
    with pytest.raises(BatchTooLarge):
        predict_batches(serving(Limited(0)), MODEL, tiles(2), batch_size=2)


def test_so_many_requests_are_under_way_and_no_more() -> None:
    together = threading.Barrier(3)
    running = threading.Semaphore(3)

    def meet(x: AnyArray) -> dict[str, AnyArray]:
        assert running.acquire(blocking=False)
        together.wait(timeout=20)  # three at a time, or nobody gets on
        running.release()
        return {"y": x}

    predict_batches(serving(meet), MODEL, tiles(6), batch_size=1, in_flight=3)


def test_tiles_are_made_as_they_are_needed() -> None:
    made: list[int] = []

    def numbered(count: int) -> Iterator[AnyArray]:
        for number in range(count):
            made.append(number)
            yield np.full(4, number, np.float32)

    stream = predict_stream(serving(lambda x: {"y": x}), MODEL, numbered(100), batch_size=2, in_flight=3)
    for taken in range(1, 51):
        np.testing.assert_array_equal(next(stream)["y"][:, 0], [2 * taken - 2, 2 * taken - 1])
        assert len(made) <= min(2 * (taken + 3), 100)
    assert next(stream, None) is None


@pytest.mark.parametrize("in_flight", [1, 2])
def test_what_was_answered_is_kept_nowhere(in_flight: int) -> None:
    made: list[weakref.ref[AnyArray]] = []

    def watched(count: int) -> Iterator[AnyArray]:
        for number in range(count):
            held = [np.full(4, number, np.float32)]
            made.append(weakref.ref(held[0]))
            yield held.pop()

    stream = predict_stream(serving(lambda x: {"y": x + 1}), MODEL, watched(8), batch_size=1, in_flight=in_flight)
    for number, _ in enumerate(stream):
        # A thread lets go of its request a moment after it has given its answer.
        deadline = time.monotonic() + 10
        while any(ref() is not None for ref in made[: number + 1]):
            assert time.monotonic() < deadline, [ref() is not None for ref in made]
            time.sleep(0.01)


def test_a_stream_that_is_left_sends_no_more() -> None:
    model = Limited(10)
    stream = predict_stream(serving(model), MODEL, iter(tiles(100)), batch_size=1, in_flight=2)
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    assert len(model.sizes) <= 3


def test_a_failure_cancels_the_rest() -> None:
    sent: list[int] = []
    lock = threading.Lock()

    def fail_at_once(x: AnyArray) -> dict[str, AnyArray]:
        with lock:
            sent.append(len(x))
        raise PredictionFailed("broken")

    with pytest.raises(PredictionFailed, match="broken"):
        predict_batches(serving(fail_at_once), MODEL, tiles(100), batch_size=1, in_flight=2)
    assert len(sent) < 100


def test_progress_is_told_after_every_batch() -> None:
    told: list[tuple[int, int]] = []
    server = serving(lambda x: {"y": x})
    predict_batches(server, MODEL, tiles(5), batch_size=2, on_batch=lambda done, total: told.append((done, total)))
    assert len(told) == 3
    assert told[-1] == (5, 5)
    assert told == sorted(told)


def test_no_tiles_and_several_inputs_are_refused() -> None:
    with pytest.raises(InvalidModelInput, match=r"no tiles .* \(0, 4\)"):
        predict_batches(serving(lambda x: {"y": x}), MODEL, tiles(0), batch_size=2)
    two = serving(lambda x: {"y": x}, SPEC, TensorSpec("z", SPEC.dtype, SPEC.shape))
    with pytest.raises(InvalidModelInput, match=r"\['x', 'z'\]"):
        predict_batches(two, MODEL, tiles(1), batch_size=2)


def test_outputs_that_do_not_match_the_tiles_are_an_error() -> None:
    with pytest.raises(PredictionFailed, match="one entry for each tile"):
        predict_batches(serving(lambda x: {"y": x.sum(axis=0)}), MODEL, tiles(3), batch_size=3)


@pytest.mark.parametrize(
    ("shape", "maximum", "expected"),
    [
        ((None, 128, 128, 1), 32, 32),
        ((None, 256, 256, 2), 64, 8),
        ((None, 512, 512, 1), 64, 4),
        ((None, 256, 256, 1), 1, 1),
        ((None, 2048, 2048, 1), 64, 1),
        ((None, 64, 64, 1), 32, 32),
        ((None, None, None, 1), 32, 32),
        ((25, 5, 128, 128, 1), 32, 32),
        ((None,), 32, 32),
    ],
)
def test_large_tiles_go_fewer_at_a_time(shape: tuple[int | None, ...], maximum: int, expected: int) -> None:
    assert batch_size_for(shape, maximum) == expected


class Small:
    """A device with room for `room` entries of a request, and what it was sent."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []

    def __call__(self, x: AnyArray) -> dict[str, AnyArray]:
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise OutOfMemory("OOM when allocating tensor")
        return {"y": x}


class TestOutOfMemory:
    @pytest.mark.parametrize("room", range(1, 9))
    @pytest.mark.parametrize("in_flight", [1, 3])
    def test_halves_the_batch_and_goes_on(self, room: int, in_flight: int) -> None:
        found = predict_batches(serving(Small(room)), MODEL, tiles(21), batch_size=8, in_flight=in_flight)
        np.testing.assert_array_equal(found["y"], tiles(21))

    def test_is_remembered_for_the_model(self) -> None:
        limits, device = BatchLimits(), Small(3)
        for _ in range(2):
            predict_batches(serving(device), MODEL, tiles(8), batch_size=8, limits=limits)
        assert device.sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
        assert limits.cap(ModelId("Other"), 8) == 8

    def test_of_a_single_tile_is_an_error(self) -> None:
        with pytest.raises(OutOfMemory):
            predict_batches(serving(Small(0)), MODEL, tiles(2), batch_size=2)

    def test_of_several_batches_in_flight_halves_once(self) -> None:
        limits = BatchLimits()
        for _ in range(3):
            limits.halve(MODEL, 8)
        assert limits.cap(MODEL, 8) == 4

    def test_is_no_final_word(self) -> None:
        limits, device = BatchLimits(), Small(1)
        limits.halve(MODEL, 8)
        limits.halve(MODEL, 4)
        device.room = 8  # another tenant left
        for _ in range(3 * FITS):
            predict_batches(serving(device), MODEL, tiles(8), batch_size=8, limits=limits, in_flight=1)
        assert limits.cap(MODEL, 8) == 8
        assert max(device.sizes) == 8
        assert device.sizes == sorted(device.sizes)

    def test_that_stays_is_tried_ever_more_rarely(self) -> None:
        limits, device = BatchLimits(), Small(4)
        server = serving(device)
        for _ in range(200):
            predict_batches(server, MODEL, tiles(32), batch_size=8, limits=limits, in_flight=1)
        tried = [number for number, size in enumerate(device.sizes) if size == 8]
        gaps = np.diff(tried)
        assert len(gaps) > 3
        assert list(gaps) == sorted(gaps)
        assert gaps[-1] > 6 * gaps[0]

    def test_a_smaller_batch_that_fits_says_nothing(self) -> None:
        limits = BatchLimits()
        limits.halve(MODEL, 8)
        for _ in range(10 * FITS):
            limits.fitted(MODEL, 3)
        assert limits.cap(MODEL, 8) == 4

    def test_never_lifts_what_the_server_said(self) -> None:
        limits = BatchLimits()
        limits.learn(MODEL, 6)
        limits.halve(MODEL, 6)
        for _ in range(10 * FITS):
            limits.fitted(MODEL, limits.cap(MODEL, 100))
        assert limits.cap(MODEL, 100) == 6
