"""When a lane gives up on the model server before it has answered.  Knows neither jobs nor servers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from redis_consumer.errors import ConsumerError

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

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


class Lookout:
    """Ends calls that are given up, each of which blocks a thread of its own.  Safe for several threads.

    One thread looks after all of them, as long as there are any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[object, tuple[Callable[[], object], Stop]] = {}
        self._is_looking = False

    @contextmanager
    def over(self, cancel: Callable[[], object], stop: Stop) -> Iterator[None]:
        """Call `cancel`, in another thread, within two looks after `stop` returns something; until the block ends."""
        call = object()
        with self._lock:
            if not self._is_looking:
                threading.Thread(target=self._look, name="lookout", daemon=True).start()
                self._is_looking = True
            self._calls[call] = cancel, stop
        try:
            yield
        finally:
            with self._lock:
                del self._calls[call]

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            with self._lock:
                calls = list(self._calls.values())
                if not calls:
                    self._is_looking = False
                    return
            for cancel, stop in calls:
                try:
                    if stop():
                        cancel()
                except Exception:  # one call's trouble: the others must be looked after
                    log.exception("A call to the model server could not be given up")
