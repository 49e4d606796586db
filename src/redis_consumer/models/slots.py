"""How many predictions are in flight to one model server, over all lanes of this process.

Knows no server: a slot is held for the length of a call, and what the call raises tells how the server feels.
"""

from __future__ import annotations

import logging
import threading
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

LEAST = 2
"""Slots of a process with one lane: one request is computed while the next one travels."""
TURN = 8
"""Calls after which an image counts as large: the batches of one of 2048 x 2048 are one fewer."""


@dataclass(eq=False)
class Line:
    """The calls of one lane, of which one follows the other while it predicts on an image."""

    under_way: int = 0
    """Those that wait or are in flight."""
    in_flight: int = 0
    """Those that have a slot."""
    since: int = 0
    """When it began: a number that grows from image to image of all lines."""
    calls: int = 0
    """Those that were given a slot since then."""

    @property
    def is_long(self) -> bool:
        """Whether its image is a large one, as far as is known."""
        return self.calls >= TURN


@dataclass(eq=False)
class _Call:
    """One call: waiting for its slot, then in it."""

    line: Line
    given: threading.Condition | None = None
    """What it waits on."""
    lowered: int | None = None
    """How often the number allowed had been lowered when the slot was given; None while it waits."""


class Slots:
    """At most `most` slots, fewer while the server refuses.  Safe for several threads.

    Additive increase, multiplicative decrease, as TCP shares a line (RFC 5681): a ServerBusy halves what was in
    flight, as many successes as there are slots add one.  Refusals of calls that began before the last halving
    tell nothing new and change nothing.

    A slot that becomes free goes to the line that began first, until that has no call left: lanes that share a server
    one batch after the other would all be done at the same time, and then it idles.  But lines that have had fewer
    than `TURN` calls go before those of large images, except that after each `TURN` slots these are given as many.
    """

    def __init__(self, most: int) -> None:
        self._most = self._allowed = most
        self._busy = 0
        self._lowered = 0
        self._successes = 0
        self._begun = 0
        self._disputed = 0
        self._waiting: list[_Call] = []
        self._lock = threading.Lock()

    @property
    def allowed(self) -> int:
        """How many calls may be in flight now, at least 1."""
        return self._allowed

    @contextmanager
    def slot(
        self, stop: Stop = never, on_wait: Callable[[], object] = lambda: None, *, line: Line | None = None
    ) -> Iterator[None]:
        """Lend a slot for one call of `line`; without one the call belongs to no other.

        While there is none, `on_wait` is called several times a second, and what `stop` returns is raised.  Not so
        while other calls of the line have one: these bring the job home, or end it, and it does not only wait.
        """
        call = _Call(line or Line())
        self._enter(call, stop, on_wait)
        try:
            yield
            self._succeeded()
        except ServerBusy as error:
            self._refused(call, error)
            raise
        finally:
            self._leave(call)

    def _enter(self, call: _Call, stop: Stop, on_wait: Callable[[], object]) -> None:
        with self._lock:
            if not call.line.under_way:
                self._begun += 1
                call.line.since, call.line.calls = self._begun, 0
            call.line.under_way += 1
            self._waiting.append(call)
            self._hand_out()
            if call.lowered is None:
                call.given = threading.Condition(self._lock)
        try:
            while not self._given(call):
                if not call.line.in_flight:
                    on_wait()
                    check(stop)
        except BaseException:
            self._leave(call)
            raise

    def _given(self, call: _Call) -> bool:
        if call.given is None:
            return True
        with self._lock:
            return call.given.wait_for(lambda: call.lowered is not None, LOOK_SECONDS)

    def _hand_out(self) -> None:
        while self._waiting and self._busy < self._allowed:
            call = self._next()
            self._waiting.remove(call)
            self._busy += 1
            call.lowered = self._lowered
            call.line.calls += 1
            call.line.in_flight += 1
            if call.given:
                call.given.notify()

    def _next(self) -> _Call:
        candidates = self._waiting
        if len({call.line.is_long for call in candidates}) > 1:
            long = self._disputed // TURN % 2 == 1
            self._disputed += 1
            candidates = [call for call in candidates if call.line.is_long is long]
        return min(candidates, key=lambda call: call.line.since)

    def _succeeded(self) -> None:
        with self._lock:
            self._successes += 1
            if self._successes >= self._allowed and self._allowed < self._most:
                self._allowed += 1
                self._successes = 0

    def _refused(self, call: _Call, error: ServerBusy) -> None:
        with self._lock:
            self._successes = 0
            if call.lowered == self._lowered:
                self._lowered += 1
                self._allowed = max(1, min(self._allowed, self._busy) // 2)
                log.info("At most %d requests in flight from now on: %s", self._allowed, error)

    def _leave(self, call: _Call) -> None:
        with self._lock:
            if call.lowered is None:
                self._waiting.remove(call)
            else:
                self._busy -= 1
                call.line.in_flight -= 1
            call.line.under_way -= 1
            self._hand_out()


class SharingModelServer:
    """A `ModelServer` around another one that takes a slot for each prediction, and waits for it.

    One for each lane: its calls are one line.  `stop` and `on_wait` are those of `Slots.slot`.  Descriptions are cheap,
    and mostly known: they take no slot.
    """

    def __init__(
        self, server: ModelServer, slots: Slots, *, stop: Stop = never, on_wait: Callable[[], object] = lambda: None
    ) -> None:
        self._server = server
        self._slots = slots
        self._stop = stop
        self._on_wait = on_wait
        self._line = Line()

    def describe(self, model: ModelId) -> Sequence[TensorSpec]:
        """See `ModelServer.describe`."""
        return self._server.describe(model)

    def predict(self, model: ModelId, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """See `ModelServer.predict`."""
        with self._slots.slot(self._stop, self._on_wait, line=self._line):
            return self._server.predict(model, inputs)
