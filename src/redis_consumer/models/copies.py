"""Copies of models' metadata that the consumers of a Kiosk share.

They spare the model server a question, and nothing depends on them: whoever keeps them may be away.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import redis

from redis_consumer.errors import QueueUnavailable, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_consumer.job import ModelId
    from redis_consumer.redis import RedisClient

log = logging.getLogger(__name__)

FIELD = "metadata"


class MetadataCopies(Protocol):
    """Where copies are kept.  No method raises; a text that is read may be anything."""

    def read(self, model: ModelId) -> str | None:
        """Return the copy, or None."""

    def write(self, model: ModelId, metadata: str) -> None:
        """Keep a copy for a while."""


class NoCopies:
    """Keeps none."""

    def read(self, _model: ModelId) -> None:
        """Return None."""

    def write(self, _model: ModelId, _metadata: str) -> None:
        """Forget it."""


class RedisCopies:
    """The hash ``<Name>:<version>``, its field ``metadata``, for `expire_seconds`.

    Nothing is kept for the latest version of a model, which has no name of its own and may change.
    """

    def __init__(self, client: RedisClient, expire_seconds: int) -> None:
        self._client = client
        self._expire_seconds = expire_seconds

    def read(self, model: ModelId) -> str | None:
        """Return the copy; one that would stay for ever, because its writer died half-way, counts as none."""
        found: list[tuple[str | None, int]] = []

        def ask() -> None:
            with self._client.translated() as master, master.pipeline(transaction=False) as pipe:
                found.append(pipe.hget(str(model), FIELD).ttl(str(model)).execute())

        self._try(model, ask)
        return next((text for text, seconds in found if seconds >= 0), None)

    def write(self, model: ModelId, metadata: str) -> None:
        """Keep a copy; in two commands, so that a key that is something else does not expire."""

        def keep() -> None:
            with self._client.translated() as master:
                master.hset(str(model), FIELD, metadata)
                master.expire(str(model), self._expire_seconds)

        self._try(model, keep)

    def _try(self, model: ModelId, action: Callable[[], None]) -> None:
        if model.version is None:
            return
        try:
            action()
        except (QueueUnavailable, SettingsError, redis.RedisError) as error:
            log.debug("No copy of the metadata of model %s: %s", model, error)
