"""Brings back the jobs of lanes that died, hung or were cut off, from Redis or Valkey.  Knows no lane by name."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from redis_consumer.errors import QueueUnavailable
from redis_consumer.queues.lua import Scripts

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_consumer.redis import RedisClient

SWEPT = "redis-consumer:swept"
"""When somebody swept last."""
FORGET_MILLISECONDS = 86_400_000
"""An empty list is swept for so long after its owner's last sign of life."""


class RedisSweeper:
    """Sweeps every queue of one Redis.  All who sweep, and all lanes, must agree on `lease_seconds`.

    While Redis was away no lease could be renewed.  So for one lease period after it came back, after a restart
    or a failover, and at the beginning, nothing is swept: first the owners may speak.
    """

    def __init__(
        self, client: RedisClient, *, lease_seconds: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._run_id = ""
        self._quiet_until = 0.0

    def sweep(self) -> int:
        """See `Sweeper.sweep`."""
        if self._clock() < self._quiet_until:
            return 0
        try:
            arguments = [self._run_id, round(self._lease_seconds * 1000), FORGET_MILLISECONDS]
            run_id, returned = self._scripts.run("sweep", args=arguments)
        except QueueUnavailable:
            self._run_id = ""
            raise
        if run_id != self._run_id:
            self._run_id = run_id
            self._quiet_until = self._clock() + self._lease_seconds
        return int(returned)

    def sweep_now(self) -> int:
        """Sweep because somebody asks for it, whoever swept a moment ago; waits only where the server is that young."""
        with self._client.translated() as master:
            up_seconds = float(master.info("server")["uptime_in_seconds"])
            master.delete(SWEPT)
        time.sleep(max(0.0, self._lease_seconds - up_seconds))
        self.sweep()
        self._quiet_until = 0.0
        return self.sweep()
