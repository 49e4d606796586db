"""Jobs that do nothing, for workers under a benchmark: what remains is the queue."""

from __future__ import annotations

import os
import time

from tell import tell

from redis_consumer.consumers import Consumer

NAP_VARIABLE = "NAP_SECONDS"


class Nothing(Consumer):
    """What an empty job costs."""

    def _consume(self, redis_hash: str) -> str:  # noqa: ARG002 - the contract's parameter
        tell("began")
        return self.final_status


class Nap(Consumer):
    """A job that waits for somebody else, as most do: for a model server, or for the network."""

    def _consume(self, redis_hash: str) -> str:  # noqa: ARG002 - the contract's parameter
        tell("began")
        time.sleep(float(os.environ[NAP_VARIABLE]))
        return self.final_status
