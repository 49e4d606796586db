"""A model server that is waited for: the policy around a `ModelServer`.

A cold or saturated server is waited for in place, for minutes if need be, because the job that waits is what
makes the autoscaler start the GPU.  A server that broke down over a request gets a few more tries.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from redis_consumer.errors import PredictionFailed, ServerNotReady, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis_consumer.arrays import AnyArray
    from redis_consumer.errors import ConsumerError
    from redis_consumer.job import ModelId
    from redis_consumer.models.base import ModelServer, TensorSpec

Result = TypeVar("Result")

_FIRST_PAUSE_SECONDS = 0.25
_LOOK_SECONDS = 0.1
"""How long it takes at most to notice `stop`."""


class PatientModelServer:
    """A `ModelServer` around another one.

    ServerNotReady and ServerBusy are waited for up to `wait_seconds` in all, and then raised.  The pauses double
    up to `max_pause_seconds`, less a random part, so that a job starts soon after the server is up, and not all
    of them at once.  PredictionFailed is retried `max_retry` times with the same pauses.  `stop` (for example the
    `is_set` of an Event) ends every pause at once with ServerNotReady.  `on_retry` is told of every further try.
    One object serves one job, or all: each call counts for itself.
    """

    def __init__(
        self,
        server: ModelServer,
        *,
        wait_seconds: float,
        max_retry: int,
        stop: Callable[[], bool] = lambda: False,
        on_retry: Callable[[ConsumerError], None] | None = None,
        max_pause_seconds: float = 5.0,
    ) -> None:
        self._server = server
        self._wait_seconds = wait_seconds
        self._max_retry = max_retry
        self._stop = stop
        self._on_retry = on_retry
        self._max_pause_seconds = max_pause_seconds

    def describe(self, model: ModelId) -> Sequence[TensorSpec]:
        """Return the model's inputs once the server gives them."""
        return self._insist(lambda: self._server.describe(model))

    def predict(self, model: ModelId, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Return the model's outputs once the server gives them."""
        return self._insist(lambda: self._server.predict(model, inputs))

    def _insist(self, call: Callable[[], Result]) -> Result:
        ends_at = time.monotonic() + self._wait_seconds
        tries = failures = 0
        while True:
            try:
                return call()
            except ServerNotReady as error:
                if time.monotonic() >= ends_at:
                    raise type(error)(f"{error}; waited {self._wait_seconds:g} s for it") from error
                last: ConsumerError = error
            except PredictionFailed as error:
                failures += 1
                if failures > self._max_retry:
                    raise
                last = error
            self._pause(tries, ends_at, last)
            tries += 1
            if self._on_retry is not None:
                self._on_retry(last)

    def _pause(self, tries: int, ends_at: float, last: ConsumerError) -> None:
        """Sleep, the longer the more often we tried; never beyond the end of waiting while that is ahead."""
        seconds = min(_FIRST_PAUSE_SECONDS * 2 ** min(tries, 16), self._max_pause_seconds)
        seconds *= random.uniform(0.5, 1.0)
        now = time.monotonic()
        wake_at = min(now + seconds, max(ends_at, now)) if isinstance(last, ServerNotReady) else now + seconds
        while (left := wake_at - time.monotonic()) > 0 or self._stop():
            if self._stop():
                raise ServerNotReady(f"Stopped while waiting for the model server: {reason_of(last)}") from last
            time.sleep(min(left, _LOOK_SECONDS))
