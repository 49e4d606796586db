from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import groupby
from typing import TYPE_CHECKING, Self

import numpy as np
import pytest
from hypothesis import given, strategies as st

from redis_consumer.errors import LeaseLost, OutOfMemory, PredictionFailed, ServerBusy, ServerNotReady
from redis_consumer.models.batching import predict_stream
from redis_consumer.models.memory import MemoryModelServer
from redis_consumer.models.slots import LEAST, TURN, Line, SharingModelServer, Slots
from redis_consumer.models.stops import LOOK_SECONDS
from redis_consumer.testing.models import EXAM, exam_models

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis_consumer.arrays import AnyArray
    from redis_consumer.job import ModelId

WAIT = 20.0
IMAGE = np.ones((1, 4, 4, 1), np.float32)


def refuse(slots: Slots, *, error: type[Exception] = ServerBusy) -> None:
    with suppress(error), slots.slot():
        raise error("full")


def succeed(slots: Slots, times: int = 1) -> None:
    for _ in range(times):
        with slots.slot():
            pass


class Queue:
    """Calls that wait behind one that holds the slot while the context lasts; `order` is that in which they got it."""

    def __init__(self, slots: Slots, *, holding: Line | None) -> None:
        self.order: list[str] = []
        self._slots = slots
        self._held = slots.slot(line=holding)
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._held.__enter__()
        return self

    def stand(self, name: str, line: Line | None) -> None:
        def call() -> None:
            with self._slots.slot(line=line):
                self.order.append(name)

        before, deadline = len(self._slots._waiting), time.monotonic() + WAIT
        self._threads.append(threading.Thread(target=call))
        self._threads[-1].start()
        while len(self._slots._waiting) == before:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def __exit__(self, *raised: object) -> None:
        self._held.__exit__(None, None, None)
        for thread in self._threads:
            thread.join(WAIT)


class TestHowMany:
    def test_a_refusal_halves_what_was_in_flight(self) -> None:
        slots = Slots(16)
        with ExitStack() as calls:
            for _ in range(5):
                calls.enter_context(slots.slot())
            refuse(slots)  # the sixth
            assert slots.allowed == 3

    def test_there_is_always_one(self) -> None:
        slots = Slots(2)
        for _ in range(5):
            refuse(slots)
        assert slots.allowed == 1
        succeed(slots)

    def test_as_many_successes_as_slots_add_one_up_to_the_most(self) -> None:
        slots = Slots(4)
        refuse(slots)
        seen = []
        for _ in range(8):
            seen.append(slots.allowed)
            succeed(slots)
        assert seen == [1, 2, 2, 3, 3, 3, 4, 4]
        succeed(slots, 100)
        assert slots.allowed == 4

    def test_calls_that_began_before_a_halving_do_not_halve_again(self) -> None:
        slots = Slots(8)
        with ExitStack() as others:
            for _ in range(4):
                others.enter_context(slots.slot())
            with suppress(ServerBusy), slots.slot():
                old = slots.slot()
                old.__enter__()
                raise ServerBusy("full")
            assert slots.allowed == 3
            error = ServerBusy("full, too")
            assert not old.__exit__(type(error), error, None)
            assert slots.allowed == 3

    @pytest.mark.parametrize("error", [PredictionFailed, ServerNotReady])
    def test_other_errors_change_nothing(self, error: type[Exception]) -> None:
        slots = Slots(4)
        refuse(slots, error=error)
        assert slots.allowed == 4

    def test_memory_that_is_full_is_a_refusal(self) -> None:
        slots = Slots(4)
        refuse(slots, error=OutOfMemory)
        assert slots.allowed == 1

    @given(st.lists(st.booleans(), max_size=200), st.integers(1, 20))
    def test_it_stays_between_one_and_the_most_and_is_not_stuck(self, ends: list[bool], most: int) -> None:
        slots = Slots(most)
        for good in ends:
            succeed(slots) if good else refuse(slots)
            assert 1 <= slots.allowed <= most
        succeed(slots, most * most)
        assert slots.allowed == most


class TestWaiting:
    def test_no_more_are_in_flight_than_allowed(self) -> None:
        slots, running, most = Slots(3), 0, 0
        lock = threading.Lock()

        def call() -> None:
            nonlocal running, most
            with slots.slot():
                with lock:
                    running += 1
                    most = max(most, running)
                time.sleep(0.002)
                with lock:
                    running -= 1

        with ThreadPoolExecutor(12) as pool:
            for future in [pool.submit(call) for _ in range(60)]:
                future.result(WAIT)
        assert most == 3

    def test_first_come_first_served(self) -> None:
        with Queue(Slots(1), holding=None) as queue:
            for number in range(5):
                queue.stand(str(number), None)
        assert queue.order == ["0", "1", "2", "3", "4"]

    def test_a_line_goes_on_before_a_later_one_begins(self) -> None:
        early, late = Line(), Line()
        with Queue(Slots(1), holding=early) as queue:
            for name, line in [("late", late), ("alone", None), ("early", early), ("late", late), ("early", early)]:
                queue.stand(name, line)
        assert queue.order == ["early", "early", "late", "late", "alone"]

    def test_a_line_without_calls_has_had_its_turn(self) -> None:
        slots, first, second = Slots(1), Line(), Line()
        with slots.slot(line=first):
            pass
        with Queue(slots, holding=None) as queue:
            queue.stand("second", second)
            queue.stand("first", first)
            queue.stand("second", second)
        assert queue.order == ["second", "second", "first"]

    def test_short_lines_go_before_a_long_one(self) -> None:
        long = Line()
        with Queue(Slots(1), holding=long) as queue:
            for _ in range(2 * TURN):
                queue.stand("long", long)
            queue.stand("short", Line())
            queue.stand("other", Line())
        assert queue.order == (TURN - 1) * ["long"] + ["short", "other"] + (TURN + 1) * ["long"]

    def test_a_long_line_goes_on_before_a_later_one_that_is_long_too(self) -> None:
        early, late = Line(), Line()
        with Queue(Slots(1), holding=early) as queue:
            for _ in range(2 * TURN):
                queue.stand("early", early)
                queue.stand("late", late)
        assert queue.order == (TURN - 1) * ["early"] + TURN * ["late"] + (TURN + 1) * ["early"] + TURN * ["late"]

    def test_a_long_line_has_half_of_the_slots_whatever_short_ones_come(self) -> None:
        long = Line()
        with Queue(Slots(1), holding=long) as queue:
            for _ in range(3 * TURN):
                queue.stand("long", long)
            for _ in range(3 * TURN):
                queue.stand("short", None)
        blocks = [(name, len(list(group))) for name, group in groupby(queue.order)]
        short, longer = ("short", TURN), ("long", TURN)
        assert blocks == [("long", TURN - 1), short, longer, short, longer, short, ("long", 1)]

    def test_who_gives_up_leaves_its_line(self) -> None:
        slots, line = Slots(1), Line()

        def bug() -> None:
            raise RuntimeError("bug")

        with slots.slot(), pytest.raises(RuntimeError, match="bug"), slots.slot(on_wait=bug, line=line):
            pass
        with Queue(slots, holding=None) as queue:
            queue.stand("first", Line())
            queue.stand("line", line)
        assert queue.order == ["first", "line"]

    def test_ends_with_what_stop_returns_and_lets_the_next_one_pass(self) -> None:
        slots = Slots(1)
        lost: list[LeaseLost] = []
        waits = threading.Event()

        def give_up() -> str:
            with pytest.raises(LeaseLost, match="another"), slots.slot(lambda: lost[0] if lost else None, waits.set):
                pass
            return "gave up"

        with ThreadPoolExecutor(2) as pool:
            with slots.slot():
                first = pool.submit(give_up)
                assert waits.wait(WAIT)
                second = pool.submit(succeed, slots)
                lost.append(LeaseLost("claimed by another"))
                assert first.result(WAIT) == "gave up"
            second.result(WAIT)

    def test_a_slot_that_is_free_is_taken_whatever_stop_says(self) -> None:
        """A draining worker may still send what brings its job home."""
        with Slots(1).slot(lambda: ServerNotReady("the worker stops")):
            pass

    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError, PredictionFailed])
    def test_a_lane_that_dies_in_a_call_leaves_its_slot(self, error: type[BaseException]) -> None:
        slots = Slots(1)
        for _ in range(3):
            with suppress(error), slots.slot():
                raise error
        succeed(slots)

    def test_a_lane_that_dies_while_it_waits_is_no_obstacle(self) -> None:
        slots = Slots(1)

        def bug() -> None:
            raise RuntimeError("bug")

        with slots.slot(), pytest.raises(RuntimeError, match="bug"), slots.slot(on_wait=bug):
            pass
        succeed(slots)


def test_what_a_lane_began_is_brought_home_by_a_worker_that_stops() -> None:
    """Of its three requests two are computed: the third one waits for them, not for a server that may never come."""
    stopping, waits = threading.Event(), list[None]()

    class Slow(MemoryModelServer):
        def predict(self, model: ModelId, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
            stopping.wait(WAIT)
            time.sleep(3 * LOOK_SECONDS)  # so that who waits looks
            return super().predict(model, inputs)

    def stop() -> ServerNotReady | None:
        return ServerNotReady("the worker stops") if stopping.is_set() else None

    server = SharingModelServer(Slow(exam_models()), Slots(LEAST), stop=stop, on_wait=lambda: waits.append(None))
    stream = predict_stream(server, EXAM, iter(np.ones((6, 4, 4, 1), np.float32)), batch_size=1)
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(list, stream)
        time.sleep(2 * LOOK_SECONDS)
        stopping.set()
        assert len(made.result(WAIT)) == 6
    assert not waits  # a time limit goes on


def test_who_has_no_slot_waits_and_is_stopped() -> None:
    slots, waits = Slots(LEAST), list[None]()
    server = SharingModelServer(
        MemoryModelServer(exam_models()), slots, stop=lambda: ServerNotReady("stop"), on_wait=lambda: waits.append(None)
    )
    with slots.slot(), slots.slot(), pytest.raises(ServerNotReady, match="stop"):
        list(predict_stream(server, EXAM, iter(np.ones((6, 4, 4, 1), np.float32)), batch_size=1))
    assert waits


def test_the_server_around_it_predicts_in_a_slot_and_describes_without() -> None:
    slots, told = Slots(1), threading.Event()
    server = SharingModelServer(MemoryModelServer(exam_models()), slots, on_wait=told.set)
    with ThreadPoolExecutor(1) as pool:
        with slots.slot():
            prediction = pool.submit(server.predict, EXAM, {"image": IMAGE})
            assert told.wait(WAIT)
            assert [spec.name for spec in server.describe(EXAM)] == ["image"]
        assert list(prediction.result(WAIT)) == ["bright", "doubled"]


def test_the_calls_through_one_server_around_it_are_one_line() -> None:
    slots, order, waiting = Slots(1), list[int](), set[int]()

    class Noting(MemoryModelServer):
        def predict(self, model: ModelId, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
            order.append(len(inputs["image"]))
            return super().predict(model, inputs)

    def note() -> None:
        waiting.add(threading.get_ident())

    first, second = (SharingModelServer(Noting(exam_models()), slots, on_wait=note) for _ in range(2))
    with ThreadPoolExecutor(4) as pool, slots.slot():
        for number, (server, size) in enumerate([(first, 1), (second, 2), (first, 1), (second, 2)], start=1):
            pool.submit(server.predict, EXAM, {"image": np.repeat(IMAGE, size, axis=0)})
            ends_at = time.monotonic() + WAIT
            while len(waiting) < number:
                assert time.monotonic() < ends_at
                time.sleep(0.01)
    assert order == [1, 1, 2, 2]
