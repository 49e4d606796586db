"""A model server that is waited for: the policy around a `ModelServer`.

A cold or saturated server is waited for in place, for minutes if need be, because the job that waits is what
makes the autoscaler start the GPU.  A server that broke down over a request gets a few more tries, and so does one
that does not know the model: it may have been started this moment.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from redis_consumer.errors import ModelNotFound, ModelNotLoaded, OutOfMemory, PredictionFailed, ServerNotReady
from redis_consumer.models.stops import never, rest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis_consumer.arrays import AnyArray
    from redis_consumer.errors import ConsumerError
    from redis_consumer.job import ModelId
    from redis_consumer.models.base import ModelServer, TensorSpec
    from redis_consumer.models.stops import Stop

Result = TypeVar("Result")

_FIRST_PAUSE_SECONDS = 0.25
_LOOKS, _BETWEEN_LOOKS_SECONDS = 3, 5.0
"""For a model that was not found."""


class PatientModelServer:
    """A `ModelServer` around another one.

    ServerNotReady and ServerBusy are waited for up to `wait_seconds` in all, and then raised.  The pauses double
    up to `max_pause_seconds`, less a random part, so that a job starts soon after the server is up, and not all
    of them at once.  PredictionFailed is retried `max_retry` times with the same pauses, ModelNotFound twice within
    ten seconds.  OutOfMemory over several entries is raised at once where the caller `divides` them, and waited for
    otherwise.  What `stop` returns ends every pause at once.  `on_retry` is told of every further try.
    One object serves one job, or all: each call counts for itself.
    """

    def __init__(
        self,
        server: ModelServer,
        *,
        wait_seconds: float,
        max_retry: int,
        stop: Stop = never,
        on_retry: Callable[[ConsumerError], None] = lambda _: None,
        max_pause_seconds: float = 5.0,
        divides: bool = True,
        pause: Callable[[float, Stop], None] = rest,
    ) -> None:
        self._server = server
        self._wait_seconds = wait_seconds
        self._max_retry = max_retry
        self._stop = stop
        self._on_retry = on_retry
        self._max_pause_seconds = max_pause_seconds
        self._divides = divides
        self._pause = pause

    def describe(self, model: ModelId) -> Sequence[TensorSpec]:
        """Return the model's inputs once the server gives them."""
        return self._insist(lambda: self._server.describe(model))

    def predict(self, model: ModelId, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Return the model's outputs once the server gives them."""
        several = any(array.ndim and len(array) > 1 for array in inputs.values())
        return self._insist(lambda: self._server.predict(model, inputs), divide=self._divides and several)

    def _insist(self, call: Callable[[], Result], *, divide: bool = False) -> Result:
        ends_at = time.monotonic() + self._wait_seconds
        tries = failures = misses = 0
        while True:
            try:
                return call()
            except ModelNotLoaded:
                raise
            except ServerNotReady as error:
                if divide and isinstance(error, OutOfMemory):
                    self._on_retry(error)
                    raise
                left = ends_at - time.monotonic()
                if left <= 0:
                    raise type(error)(f"{error}; waited {self._wait_seconds:g} s for it") from error
                last: ConsumerError = error
                seconds = min(self._backoff(tries), left)
            except PredictionFailed as error:
                failures += 1
                if failures > self._max_retry:
                    raise
                last, seconds = error, self._backoff(tries)
            except ModelNotFound as error:
                misses += 1
                if misses == _LOOKS:
                    raise
                last, seconds = error, _BETWEEN_LOOKS_SECONDS
            self._pause(seconds, self._stop)
            tries += 1
            self._on_retry(last)

    def _backoff(self, tries: int) -> float:
        """Return a pause, the longer the more often we tried."""
        seconds = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(tries, 16), self._max_pause_seconds)
        return seconds * random.uniform(0.5, 1.0)
