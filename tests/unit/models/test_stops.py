from __future__ import annotations

import time

import pytest

from redis_consumer.errors import LeaseLost, ServerNotReady
from redis_consumer.models.stops import Stops, rest


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
