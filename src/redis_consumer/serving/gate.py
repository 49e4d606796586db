"""Bounds what runs at a time and what waits for it, and refuses the rest as a full batching queue does."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from redis_consumer.serving.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator


class Gate:
    """Lets `max_in_flight` through at a time; `max_queued` more wait for their turn."""

    def __init__(self, max_in_flight: int, max_queued: int) -> None:
        self._running = threading.Semaphore(max_in_flight)
        self._places = threading.Semaphore(max_in_flight + max_queued)
        self._max_queued = max_queued

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Wait for a turn; Refusal (UNAVAILABLE) where too many wait already."""
        if not self._places.acquire(blocking=False):
            raise Refusal(
                grpc.StatusCode.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full; currently "
                f"{self._max_queued} batches enqueued and max_enqueued_batches is {self._max_queued}",
            )
        try:
            with self._running:
                yield
        finally:
            self._places.release()
