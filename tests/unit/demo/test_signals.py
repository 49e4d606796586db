"""Signals as one exception, at a good moment."""

from __future__ import annotations

import os
import signal

import pytest

from redis_consumer.demo.signals import Signals


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_ctrl_c_raises_as_ever() -> None:
    with pytest.raises(KeyboardInterrupt), Signals():
        send(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_others_exit_with_the_shells_code(number: signal.Signals) -> None:
    with pytest.raises(SystemExit) as exit_, Signals():
        send(number)
    assert exit_.value.code == 128 + number


def test_while_held_a_signal_waits() -> None:
    reached = []

    def work() -> None:
        with Signals() as signals:
            with signals.held():
                send(signal.SIGINT)
                reached.append("the end of the block")
            reached.append("what follows it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["the end of the block"]


def test_a_second_signal_does_not_disturb_the_clearing_up() -> None:
    cleared = []

    def work() -> None:
        with Signals():
            try:
                send(signal.SIGTERM)
            finally:
                send(signal.SIGINT)
                cleared.append(True)

    with pytest.raises(SystemExit):
        work()
    assert cleared


def test_ignored_ctrl_c_counts_inside_and_stays_ignored_after() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), Signals():
            send(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_without_a_signal_nothing_happens() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Signals() as signals, signals.held():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
