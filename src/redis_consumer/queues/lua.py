"""The queue's Lua scripts, called from Python.  What each does stands in its file; the key space in `prelude.lua`."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from redis_consumer.errors import QueueUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from redis_consumer.redis import RedisClient

ANNOUNCED = "update"
"""Loaded with any other: whether the server knows it is learned too late where nobody waits for its answer."""
WAIT_MILLISECONDS = 1000
"""How long replicas may take to confirm a write."""


class Scripts:
    """Runs the scripts on the master, each as one step: by its hash, by its text where the server forgot it."""

    def __init__(self, client: RedisClient, wait_replicas: int = 0) -> None:
        self._client = client
        self._wait_replicas = wait_replicas

    def run(self, name: str, *keys: str, args: Iterable[object] = (), confirm: bool = False) -> Any:
        """Return the script's reply.  QueueUnavailable if none came; the script may have run nevertheless.

        `confirm` also waits for the replicas that were asked for: too few are no reply.
        """
        command = _command(name, keys, args)
        replicas = self._wait_replicas if confirm else 0
        with self._client.translated() as master:
            try:
                reply, confirmed = self._sent(master, command, replicas)
            except NoScriptError:
                for missing in {name, ANNOUNCED}:
                    master.script_load(_text(missing))
                reply, confirmed = self._sent(master, command, replicas)
        if confirmed < replicas:
            raise QueueUnavailable(f"{name}: {confirmed} of {replicas} replicas confirmed it in time")
        return reply

    def begin(self, name: str, *keys: str, args: Iterable[object] = ()) -> Callable[[], Any]:
        """Send a script, and return what waits for its reply: to be called once.  QueueUnavailable of either."""
        command = _command(name, keys, args)
        with self._client.translated():
            sent = self._client.send("EVALSHA", *command)

        def reply() -> Any:
            with self._client.translated() as master:
                try:
                    return sent()
                except NoScriptError:
                    master.script_load(_text(name))
                    return self._client.ask("EVALSHA", *command)

        return reply

    def _sent(self, master: Any, command: tuple[Any, ...], replicas: int) -> tuple[Any, int]:
        """Run a script that the server knows; return its reply, and how many replicas confirmed it if any are asked."""
        if not replicas:
            return self._client.ask("EVALSHA", *command), 0
        # redis-py's own `Script` hashes the text at each use, and in a pipeline asks first whether the server knows it.
        with master.pipeline(transaction=False) as pipe:  # WAIT is about the writes of its own connection
            pipe.evalsha(*command)
            pipe.wait(replicas, WAIT_MILLISECONDS)
            reply, confirmed = pipe.execute()
        return reply, confirmed


def _command(name: str, keys: Iterable[str], args: Iterable[object]) -> tuple[Any, ...]:
    """Return what follows EVALSHA."""
    packed_keys, packed_args = [packed(key) for key in keys], [packed(arg) for arg in args]
    return _sha(name), len(packed_keys), *packed_keys, *packed_args


def packed(value: object) -> bytes:
    """Return what goes over the wire.  Names that are not UTF-8 come back as they were."""
    text = str(value)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, as broken JSON leaves it: no reason to fail over a message
        return text.encode("utf-8", "replace")


def pairs(flat: list[str]) -> dict[str, str]:
    """Return the fields of a hash as a script returns it."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


@cache
def _sha(name: str) -> str:
    return hashlib.sha1(_text(name).encode()).hexdigest()  # noqa: S324 - Redis names scripts so


@cache
def _text(name: str) -> str:
    scripts = files("redis_consumer.queues").joinpath("scripts")
    return "\n".join(scripts.joinpath(f"{part}.lua").read_text("utf-8") for part in ("prelude", name))
