from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from redis_consumer.errors import ServerNotReady
from redis_consumer.models.channels import Channels

if TYPE_CHECKING:
    import grpc


class FakeChannel:
    closed = False

    def close(self) -> None:
        self.closed = True


class House:
    """Channels over a clock that we turn."""

    def __init__(self) -> None:
        self.now = 0.0
        self.opened: list[FakeChannel] = []
        self.channels = Channels(self._open, recycle_seconds=60, clock=lambda: self.now)

    def _open(self) -> grpc.Channel:
        self.opened.append(FakeChannel())
        return cast("grpc.Channel", self.opened[-1])


def test_one_channel_serves_many_calls() -> None:
    house = House()
    with house.channels.borrow() as first, house.channels.borrow() as second:
        assert first is second
    with house.channels.borrow() as third:
        assert third is first
    assert not house.opened[0].closed


def test_an_old_channel_is_renewed_and_closes_after_its_last_call() -> None:
    house = House()
    with house.channels.borrow() as old:
        house.now = 61
        with house.channels.borrow() as new:
            assert new is not old
        assert [channel.closed for channel in house.opened] == [False, False]
    assert [channel.closed for channel in house.opened] == [True, False]


def test_an_idle_old_channel_closes_when_the_new_one_opens() -> None:
    house = House()
    with house.channels.borrow():
        pass
    house.now = 61
    with house.channels.borrow():
        assert [channel.closed for channel in house.opened] == [True, False]


def test_a_retired_channel_is_lent_no_more_and_retired_once() -> None:
    house = House()
    with house.channels.borrow() as bad, house.channels.borrow():
        house.channels.retire(bad)
        house.channels.retire(bad)
        with house.channels.borrow() as good:
            assert good is not bad
        house.channels.retire(bad)
    assert [channel.closed for channel in house.opened] == [True, False]


def test_closing_closes_all_and_refuses_further_calls() -> None:
    house = House()
    with house.channels.borrow():
        house.channels.close()
        assert house.opened[0].closed
    with pytest.raises(ServerNotReady), house.channels.borrow():
        pass
