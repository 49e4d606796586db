"""When a lane gives up on the model server before it has answered.  Knows neither jobs nor servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from redis_consumer.errors import ConsumerError

Stop: TypeAlias = Callable[[], ConsumerError | None]
"""Returns the error to raise instead of waiting on, or None.  Asked several times a second, by several threads."""

LOOK_SECONDS = 0.1
"""How long it takes at most to notice a stop."""


def never() -> None:
    """Return None: nothing stops us."""


@dataclass(frozen=True, slots=True)
class Stops:
    """The two reasons of a lane to stop."""

    drop: Stop = never
    """The job is no longer ours: everything ends, a call in flight too."""
    drain: Stop = never
    """The worker ends: waiting ends, but a call in flight may bring the job home."""

    def waiting(self) -> ConsumerError | None:
        """Return what ends a pause, or the wait for a slot."""
        return self.drop() or self.drain()


def check(stop: Stop) -> None:
    """Raise what `stop` returns, if it returns something."""
    if error := stop():
        raise error


def rest(seconds: float, stop: Stop) -> None:
    """Sleep; raise what `stop` returns as soon as it returns something."""
    wake_at = time.monotonic() + seconds
    while True:
        check(stop)
        left = wake_at - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, LOOK_SECONDS))
