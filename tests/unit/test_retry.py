from __future__ import annotations

import time

import pytest

from redis_consumer.retry import call_with_retries


class Flaky:
    """Fails `times` times with `error`, then returns 7."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error, self.calls = times, error, 0

    def __call__(self) -> int:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return 7


def test_what_passes_is_tried_again() -> None:
    flaky = Flaky(3, ConnectionError())
    assert call_with_retries(flaky, on=OSError, seconds=10, longest_wait=0.01) == 7
    assert flaky.calls == 4


def test_the_last_error_leaves_as_it_is() -> None:
    error = TimeoutError("the last word")
    with pytest.raises(TimeoutError, match="the last word") as caught:
        call_with_retries(Flaky(99, error), on=(OSError,), seconds=10, attempts=3, longest_wait=0.01)
    assert caught.value is error


def test_other_errors_are_not_tried_again() -> None:
    flaky = Flaky(1, KeyError("x"))
    with pytest.raises(KeyError):
        call_with_retries(flaky, on=OSError, seconds=10)
    assert flaky.calls == 1


def test_the_time_limit_ends_it() -> None:
    flaky, begun = Flaky(10**6, OSError()), time.monotonic()
    with pytest.raises(OSError):  # noqa: PT011 - the bare error of the fake
        call_with_retries(flaky, on=OSError, seconds=0.1, attempts=10**6, longest_wait=0.02)
    assert 1 < flaky.calls < 10**5
    assert time.monotonic() - begun < 60


def test_a_first_call_that_takes_all_the_time_is_the_only_one() -> None:
    flaky = Flaky(1, OSError())

    def slow() -> int:
        time.sleep(0.02)
        return flaky()

    with pytest.raises(OSError):  # noqa: PT011 - the bare error of the fake
        call_with_retries(slow, on=OSError, seconds=0.01)
    assert flaky.calls == 1
