"""Our consumers as a benchmark wants them: one that does nothing, one that waits, and the Kiosk's that tells."""

from __future__ import annotations

import plain_jobs
from tell import tell

from redis_consumer.consumers import Consumer
from redis_consumer.consumers.segmentation import SegmentationConsumer


class Nothing(Consumer):
    """What an empty job costs."""

    def _consume(self, redis_hash: str) -> str:  # noqa: ARG002 - the contract's parameter
        plain_jobs.nothing()
        return self.final_status


class Nap(Consumer):
    """A job that waits for somebody else, as most do: for a model server, or for the network."""

    def _consume(self, redis_hash: str) -> str:  # noqa: ARG002 - the contract's parameter
        plain_jobs.nap()
        return self.final_status


class Segment(SegmentationConsumer):
    """The image job as it is."""

    def _consume(self, redis_hash: str) -> str:
        tell("began")
        status = super()._consume(redis_hash)
        tell("ended")
        return status
