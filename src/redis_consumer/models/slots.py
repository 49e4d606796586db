"""How many predictions are in flight to one model server, over all lanes of this process.

Knows no server: a slot is held for the length of a call, and what the call raises tells how the server feels.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis_consumer.errors import ServerBusy
from redis_consumer.models.stops import LOOK_SECONDS, check, never

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from redis_consumer.arrays import AnyArray
    from redis_consumer.job import ModelId
    from redis_consumer.models.base import ModelServer, TensorSpec
    from redis_consumer.models.stops import Stop

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Turn:
    """One call: waiting for its slot, then in it."""

    lowered: int = 0
    """How often the number allowed had been lowered when the slot was given."""


class Slots:
    """At most `most` slots, fewer while the server refuses.  Safe for several threads.

    Additive increase, multiplicative decrease, as TCP shares a line (RFC 5681): a ServerBusy halves what was in
    flight, as many successes as there are slots add one.  Refusals of calls that began before the last halving
    tell nothing new and change nothing.
    """

    def __init__(self, most: int) -> None:
        self._most = self._allowed = most
        self._busy = 0
        self._lowered = 0
        self._successes = 0
        self._waiting: deque[_Turn] = deque()
        self._changed = threading.Condition()

    @property
    def allowed(self) -> int:
        """How many calls may be in flight now, at least 1."""
        return self._allowed

    @contextmanager
    def slot(self, stop: Stop = never, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Lend a slot for one call; first come, first served.

        While there is none, `on_wait` is called several times a second, and what `stop` returns is raised.
        """
        turn = self._enter(stop, on_wait)
        try:
            yield
            self._succeeded()
        except ServerBusy as error:
            self._refused(turn, error)
            raise
        finally:
            self._leave()

    def _enter(self, stop: Stop, on_wait: Callable[[], object]) -> _Turn:
        turn = _Turn()
        with self._changed:
            self._waiting.append(turn)
        try:
            while not self._given(turn):
                on_wait()
                check(stop)
        except BaseException:
            with self._changed:  # whoever stands behind must not wait for one who went away
                self._waiting.remove(turn)
                self._changed.notify_all()
            raise
        return turn

    def _given(self, turn: _Turn) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_next(turn), LOOK_SECONDS):
                return False
            self._waiting.popleft()
            self._busy += 1
            turn.lowered = self._lowered
            self._changed.notify_all()
            return True

    def _is_next(self, turn: _Turn) -> bool:
        return self._waiting[0] is turn and self._busy < self._allowed

    def _succeeded(self) -> None:
        with self._changed:
            self._successes += 1
            if self._successes >= self._allowed and self._allowed < self._most:
                self._allowed += 1
                self._successes = 0

    def _refused(self, turn: _Turn, error: ServerBusy) -> None:
        with self._changed:
            self._successes = 0
            if turn.lowered == self._lowered:
                self._lowered += 1
                self._allowed = max(1, min(self._allowed, self._busy) // 2)
                log.info("At most %d requests in flight from now on: %s", self._allowed, error)

    def _leave(self) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()


class SharingModelServer:
    """A `ModelServer` around another one that takes a slot for each prediction, and waits for it.

    `stop` and `on_wait` are those of `Slots.slot`.  Descriptions are cheap, and mostly known: they take no slot.
    """

    def __init__(
        self, server: ModelServer, slots: Slots, *, stop: Stop = never, on_wait: Callable[[], object] = lambda: None
    ) -> None:
        self._server = server
        self._slots = slots
        self._stop = stop
        self._on_wait = on_wait

    def describe(self, model: ModelId) -> Sequence[TensorSpec]:
        """See `ModelServer.describe`."""
        return self._server.describe(model)

    def predict(self, model: ModelId, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """See `ModelServer.predict`."""
        with self._slots.slot(self._stop, self._on_wait):
            return self._server.predict(model, inputs)
