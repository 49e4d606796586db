"""Two threads: one makes rows, the other follows behind; what ends one ends both."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from redis_consumer.consumers.follower import Follower

if TYPE_CHECKING:
    from redis_consumer.consumers.follower import Wait

LONGEST_SECONDS = 10.0


def nothing() -> None:
    """Do nothing meanwhile."""


def followers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "follower"]


def test_no_step_sees_rows_that_are_not_there() -> None:
    made: list[tuple[int, int]] = []
    seen: list[tuple[int, int, tuple[int, int]]] = []

    def step(number: int, wait: Wait) -> None:
        for row in (1, 4, 7, 10):
            wait(row)
            seen.append((number, row, made[-1]))

    with Follower(step, 3) as follower:
        for number in range(3):
            for row in range(2, 11, 2):
                made.append((number, row))
                follower.reached(number, row)
        follower.finish(3, nothing)
    assert [(number, row) for number, row, _ in seen] == [(n, row) for n in range(3) for row in (1, 4, 7, 10)]
    assert all(there >= (number, row) for number, row, there in seen)


def test_it_follows_while_rows_are_still_made() -> None:
    followed = threading.Event()

    def step(_: int, wait: Wait) -> None:
        wait(5)
        followed.set()
        wait(10)

    with Follower(step, 1) as follower:
        follower.reached(0, 5)
        assert followed.wait(LONGEST_SECONDS)
        follower.reached(0, 10)
        follower.finish(1, nothing)


def test_steps_before_may_be_waited_for() -> None:
    """What they work on may be made anew then."""
    ended = []

    def step(number: int, wait: Wait) -> None:
        wait(1)
        ended.append(number)

    with Follower(step, 3) as follower:
        follower.finish(0, nothing)
        for number in range(3):
            follower.reached(number, 1)
            follower.finish(number + 1, nothing)
            assert ended == list(range(number + 1))


class Stumbled(BaseException):
    """Not even an Exception: a panic of a library, say."""


@pytest.mark.parametrize("kind", [ValueError, MemoryError, Stumbled])
@pytest.mark.parametrize("told", ["check", "reached", "finish"])
def test_an_error_of_a_step_is_raised_here(kind: type[BaseException], told: str) -> None:
    error = kind("of a step")
    done = []

    def step(number: int, wait: Wait) -> None:
        wait(1)
        done.append(number)
        if number:
            raise error

    def lead() -> None:
        with Follower(step, 3) as follower:
            follower.reached(0, 1)
            follower.finish(1, nothing)
            follower.reached(1, 1)
            (thread,) = followers()
            if told == "finish":
                follower.finish(3, nothing)
            thread.join(LONGEST_SECONDS)
            if told == "check":
                follower.check()
            follower.reached(2, 1)

    with pytest.raises(kind) as raised:
        lead()
    assert raised.value is error
    assert done == [0, 1]
    assert not followers()


def test_an_error_here_ends_the_step_at_its_next_wait() -> None:
    seen = []
    begun, failed = threading.Event(), threading.Event()

    def step(_: int, wait: Wait) -> None:
        for row in range(1, 100):
            wait(row)
            seen.append(row)
            begun.set()
            failed.wait(LONGEST_SECONDS)

    class Failing(Follower):
        def __exit__(self, *raised: object) -> None:
            threading.Timer(0.3, failed.set).start()  # once the other thread is told to end
            super().__exit__(*raised)

    def lead() -> None:
        with Failing(step, 1) as follower:
            follower.reached(0, 100)
            assert begun.wait(LONGEST_SECONDS)
            raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        lead()
    assert seen == [1]
    assert not followers()


def test_an_error_here_ends_the_wait_for_rows() -> None:
    def lead() -> None:
        with Follower(lambda _, wait: wait(10), 2) as follower:
            follower.reached(0, 5)
            raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        lead()
    assert not followers()


def test_who_waits_may_do_something_whenever_the_step_goes_on() -> None:
    """And what that raises ends both."""
    seen = []
    looked = threading.Semaphore(0)

    def step(_: int, wait: Wait) -> None:
        for row in range(1, 100):
            wait(row)
            seen.append(row)
            if row > 1:
                assert looked.acquire(timeout=LONGEST_SECONDS)

    def look() -> None:
        looked.release()
        if len(seen) > 10:
            raise LookupError("no longer ours")

    def lead() -> None:
        with Follower(step, 1) as follower:
            follower.reached(0, 100)
            follower.finish(1, look)

    with pytest.raises(LookupError):
        lead()
    assert 10 < len(seen) < 99
    assert not followers()
