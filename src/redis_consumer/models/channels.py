"""One gRPC channel at a time, renewed now and then.

In Kubernetes a ClusterIP pins a connection to one pod for as long as it lasts, so a channel kept for ever would
never see the pods that the autoscaler adds.  A retired channel is closed after its last call, not before.
Knows nothing of what is called.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis_consumer.errors import ServerNotReady

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc


@dataclass(eq=False)
class _Slot:
    channel: grpc.Channel
    opened_at: float
    calls: int = 0
    retired: bool = False


class Channels:
    """Lends the current channel.  Safe for several threads."""

    def __init__(
        self,
        open_channel: Callable[[], grpc.Channel],
        *,
        recycle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open = open_channel
        self._recycle_seconds = recycle_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._slots: list[_Slot] = []  # the last one may be current, the others wait for their last call
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[grpc.Channel]:
        """Lend the current channel for one call; a new one if the current one is old or retired."""
        slot = self._enter()
        try:
            yield slot.channel
        finally:
            self._leave(slot)

    def retire(self, channel: grpc.Channel) -> None:
        """Lend this channel no more, for example because whoever stands behind it refused a call."""
        with self._lock:
            for slot in self._slots:
                slot.retired |= slot.channel is channel
        self._close_idle()

    def close(self) -> None:
        """Close all channels; calls in flight end as cancelled, further ones are refused."""
        with self._lock:
            self._closed = True
            slots, self._slots = self._slots, []
        for slot in slots:
            slot.channel.close()

    def _enter(self) -> _Slot:
        with self._lock:
            if self._closed:
                raise ServerNotReady("The connection to the model server is closed, this worker stops")
            if self._slots and self._clock() - self._slots[-1].opened_at > self._recycle_seconds:
                self._slots[-1].retired = True
            if not self._slots or self._slots[-1].retired:
                self._slots.append(_Slot(self._open(), self._clock()))
            slot = self._slots[-1]
            slot.calls += 1
        self._close_idle()
        return slot

    def _leave(self, slot: _Slot) -> None:
        with self._lock:
            slot.calls -= 1
        self._close_idle()

    def _close_idle(self) -> None:
        with self._lock:
            idle = [slot for slot in self._slots if slot.retired and not slot.calls]
            self._slots = [slot for slot in self._slots if slot not in idle]
        for slot in idle:  # outside the lock: closing waits for gRPC's own threads
            slot.channel.close()
