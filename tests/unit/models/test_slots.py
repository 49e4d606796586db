from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import numpy as np
import pytest
from hypothesis import given, strategies as st

from redis_consumer.errors import LeaseLost, OutOfMemory, PredictionFailed, ServerBusy, ServerNotReady
from redis_consumer.models.memory import MemoryModelServer
from redis_consumer.models.slots import SharingModelServer, Slots
from redis_consumer.testing.models import EXAM, exam_models

WAIT = 20.0
IMAGE = np.ones((1, 4, 4, 1), np.float32)


def refuse(slots: Slots, *, error: type[Exception] = ServerBusy) -> None:
    with suppress(error), slots.slot():
        raise error("full")


def succeed(slots: Slots, times: int = 1) -> None:
    for _ in range(times):
        with slots.slot():
            pass


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
        slots = Slots(1)
        order: list[int] = []

        def call(number: int, waits: threading.Event) -> None:
            with slots.slot(on_wait=waits.set):
                order.append(number)

        threads = []
        with slots.slot():
            for number in range(5):
                waits = threading.Event()
                threads.append(threading.Thread(target=call, args=(number, waits)))
                threads[-1].start()
                assert waits.wait(WAIT)
        for thread in threads:
            thread.join(WAIT)
        assert order == list(range(5))

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


def test_the_server_around_it_predicts_in_a_slot_and_describes_without() -> None:
    slots, told = Slots(1), threading.Event()
    server = SharingModelServer(MemoryModelServer(exam_models()), slots, on_wait=told.set)
    with ThreadPoolExecutor(1) as pool:
        with slots.slot():
            prediction = pool.submit(server.predict, EXAM, {"image": IMAGE})
            assert told.wait(WAIT)
            assert [spec.name for spec in server.describe(EXAM)] == ["image"]
        assert list(prediction.result(WAIT)) == ["bright", "doubled"]
