from __future__ import annotations

import threading
import time

import pytest

from redis_consumer.errors import LeaseLost, ServerNotReady
from redis_consumer.models.stops import LOOK_SECONDS, Lookout, Stops, never, rest


def lost() -> LeaseLost:
    return LeaseLost("claimed by another")


def stopping() -> ServerNotReady:
    return ServerNotReady("the worker stops")


def test_waiting_ends_for_either_reason_and_the_lease_comes_first() -> None:
    assert Stops().waiting() is None
    assert isinstance(Stops(drain=stopping).waiting(), ServerNotReady)
    assert isinstance(Stops(drop=lost, drain=stopping).waiting(), LeaseLost)


def test_a_call_in_flight_ends_for_the_lease_alone() -> None:
    assert Stops(drain=stopping).drop() is None


def test_a_rest_is_over_after_its_time_or_at_once() -> None:
    began = time.monotonic()
    rest(0.25, lambda: None)
    assert time.monotonic() - began >= 0.25
    with pytest.raises(LeaseLost, match="another"):
        rest(600, lost)
    with pytest.raises(LeaseLost, match="another"):
        rest(0, lost)


class TestLookout:
    def test_the_call_that_is_given_up_is_cancelled_and_no_other(self) -> None:
        lookout, cancelled, other, given_up = Lookout(), threading.Event(), threading.Event(), threading.Event()
        with (
            lookout.over(other.set, never),
            lookout.over(cancelled.set, lambda: lost() if given_up.is_set() else None),
        ):
            assert not cancelled.wait(3 * LOOK_SECONDS)
            given_up.set()
            assert cancelled.wait(10)
        assert not other.is_set()

    def test_one_that_cannot_be_given_up_does_not_keep_it_from_the_others(self) -> None:
        def broken() -> LeaseLost:
            raise RuntimeError("a bug")

        lookout, cancelled = Lookout(), threading.Event()
        with lookout.over(threading.Event().set, broken), lookout.over(cancelled.set, lost):
            assert cancelled.wait(10)

    def test_it_looks_again_after_it_had_nothing_to_look_at(self) -> None:
        lookout = Lookout()
        for _ in range(2):
            cancelled = threading.Event()
            with lookout.over(cancelled.set, lost):
                assert cancelled.wait(10)
            deadline = time.monotonic() + 10
            while any(thread.name == "lookout" for thread in threading.enumerate()):
                assert time.monotonic() < deadline, "its thread ends with the calls"
                time.sleep(0.01)

    def test_a_call_that_has_ended_is_not_cancelled(self) -> None:
        cancelled = threading.Event()
        with Lookout().over(cancelled.set, lost):
            pass
        assert not cancelled.wait(3 * LOOK_SECONDS)
