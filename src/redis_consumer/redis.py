"""The connection to Redis: finds the master, reconnects by itself, and never waits for ever.

Knows no queue, no key and no job.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.connection import DefaultParser
from redis.retry import Retry
from redis.sentinel import Sentinel

from redis_consumer.errors import ConsumerError, QueueUnavailable, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

MOST_REPLY_BYTES = 256 * 2**20
"""Far more than any list or job that is read at once."""
TRIES = 10
"""Of a command that is called by attribute, while Redis does not answer."""
HEALTH_SECONDS = 30
"""A connection that was idle for longer is tried with a PING before it is used."""
FRESH_SECONDS = 1.0
"""A connection that answered so lately needs no look whether it is still there."""
DEFAULT_MASTER = "mymaster"
"""The set of Redis servers to use where a Sentinel watches several."""

_REFUSED = (
    redis.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.AuthenticationWrongNumberOfArgsError,
    redis.exceptions.NoPermissionError,
)
_UNAVAILABLE = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.InvalidResponse,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterError,
    OSError,
)
# An error inside a script comes as text; before Redis 7 the word stands in the middle of it.
_WORDS_FOR_NOW = re.compile(
    r"\b(READONLY|LOADING|BUSY|MASTERDOWN|TRYAGAIN|OOM|MISCONF|NOREPLICAS|CLUSTERDOWN|UNBLOCKED)\b"
)
_WORDS_OF_ACCESS = re.compile(r"\bNOPERM\b|ACL failure|has no permissions")
_WORDS_OF_TLS = re.compile(r"CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|_ALERT_|certificate")
_WORDS_OF_AGE = re.compile(r"unknown command.{0,3}(blmove|lpos)|unknown (redis )?command called from", re.IGNORECASE)


class RedisClient:
    """Any command of redis-py by attribute, as in ``client.hgetall(key)``; replies are `str`.

    `host` is Redis, Valkey or a Sentinel: it is asked which at the first command, and every command goes to the
    master.  Nothing is connected before.  Every answer has a time limit.  While Redis does not answer, a command
    is repeated, with pauses of up to `backoff` seconds, so that it may run twice; after `TRIES` tries it is
    QueueUnavailable.  SettingsError if Redis refuses the credentials or we its certificate.
    """

    def __init__(
        self,
        host: str,
        port: int,
        backoff: float = 1,
        *,
        username: str = "",
        password: str = "",
        tls: bool = False,
        ca_certs: Path | None = None,
        timeout_seconds: float = 5.0,
        client_name: str = "redis-consumer",
    ) -> None:
        self.host, self.port, self.backoff = host, port, backoff
        self._options: dict[str, Any] = {
            "username": username or None,
            "password": password or None,
            "client_name": client_name,
            "socket_timeout": timeout_seconds,
            "socket_connect_timeout": timeout_seconds,
            "socket_keepalive": True,
            "health_check_interval": HEALTH_SECONDS,
            "decode_responses": True,
            # Names come from users: a key that is not UTF-8 must survive the way here and back.
            "encoding_errors": "surrogateescape",
            "protocol": 2,
            # Each lane holds one while it waits, and there may be more lanes than redis-py allows connections.
            "max_connections": 2**31,
            # Who repeats a command must know that it did: see `__getattr__`, and the queue.
            "retry": Retry(NoBackoff(), 0),
        }
        if tls:
            self._options |= {"ssl": True, "ssl_check_hostname": True, "ssl_ca_certs": ca_certs and str(ca_certs)}
        self._retry = Retry(ExponentialBackoff(cap=backoff, base=0.1), TRIES - 1, (QueueUnavailable,))
        self._lock = threading.Lock()
        self._master: Any = None
        self._kept: Any = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(redis.Redis, name):
            raise AttributeError(f"redis-py has no command {name!r}")
        return partial(self._repeated, name)

    def hmset(self, name: str, mapping: Mapping[str, Any]) -> bool:
        """Write fields of a hash.  redis-py deprecates its own `hmset`, consumers still call it."""
        self.hset(name, mapping=mapping)
        return True

    @contextmanager
    def translated(self) -> Iterator[Any]:
        """Give redis-py's client of the master, which repeats nothing; its errors leave as ours."""
        try:
            yield self._found()
        except (redis.RedisError, OSError) as error:
            ours = translate(error, f"{self.host}:{self.port}")
            if ours is None:
                raise
            raise ours from error

    def ask(self, *command: str | bytes | float) -> Any:
        """Return the reply to a command, which is sent once; redis-py's errors leave as they are: see `translated`."""
        return self.send(*command)()

    def send(self, *command: str | bytes | float) -> Callable[[], Any]:
        """Send a command once, and return what waits for its reply: to be called once.  Errors as `ask`, of either."""
        self._found()
        reply: Callable[[], Any] = self._kept.send(*command)
        return reply

    def close(self) -> None:
        """Close all connections; the next command opens new ones."""
        with self._lock:
            if self._master is not None:
                self._master.connection_pool.disconnect()

    def _repeated(self, name: str, *args: Any, **kwargs: Any) -> Any:
        def once() -> Any:
            with self.translated() as master:
                return getattr(master, name)(*args, **kwargs)

        return self._retry.call_with_retry(once, lambda _: None)

    def _found(self) -> Any:
        with self._lock:
            if self._master is None:
                self._master = self._find()
                self._kept = KeptConnections(self._master.connection_pool)
            return self._master

    def _find(self) -> Any:
        """Ask whoever answers at our address.  A Sentinel is asked again at each new connection."""
        options, masters = self._ask()
        if masters is None:
            master: Any = redis.Redis(self.host, self.port, **self._options)
        else:
            sentinel: Any = Sentinel([(self.host, self.port)], sentinel_kwargs=options, **self._options)  # type: ignore[no-untyped-call]  # redis-py leaves it so
            master = sentinel.master_for(self._choose(masters))
        master.connection_pool.connection_kwargs["parser_class"] = BoundedParser
        return master

    def _ask(self) -> tuple[dict[str, Any], list[str] | None]:
        """Return the options that opened the door, and the master sets; None if this is no Sentinel."""
        try:
            return self._options, self._master_sets(self._options)
        except redis.AuthenticationError as error:
            if "without any password configured" not in str(error):
                raise
        # Servers with a password are often watched by Sentinels without one.
        open_door = self._options | {"username": None, "password": None}
        return open_door, self._master_sets(open_door)

    def _master_sets(self, options: dict[str, Any]) -> list[str] | None:
        with redis.Redis(self.host, self.port, **options) as asked:
            try:
                return list(asked.sentinel_masters())
            except redis.ResponseError as error:
                if "unknown command" in str(error):
                    return None
                raise

    def _choose(self, masters: list[str]) -> str:
        if len(masters) == 1:
            return masters[0]
        if not masters:
            raise QueueUnavailable(f"The Sentinel at {self.host}:{self.port} knows no master yet")
        if DEFAULT_MASTER in masters:
            return DEFAULT_MASTER
        raise SettingsError(
            f"REDIS_HOST is {self.host!r}, a Sentinel of {', '.join(sorted(masters))}; "
            f"allowed is one that watches a single master, or {DEFAULT_MASTER}"
        )


class KeptConnections:
    """Connections of a pool that are used again and again.  Safe for several threads.

    Half of what a command costs redis-py are counters, tries, and a look whether the connection is still there each
    time that the pool lends it.  So a command on one that was cut less than `FRESH_SECONDS` ago fails.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._idle: deque[tuple[Any, float]] = deque()

    def send(self, *command: str | bytes | float) -> Callable[[], Any]:
        """Send a command, and return what waits for its reply: to be called once."""
        connection = self._taken()
        with self._released_if_it_fails(connection):
            connection.send_command(*command)
        return partial(self._reply, connection, time.monotonic())

    def _reply(self, connection: Any, sent_at: float) -> Any:
        with self._released_if_it_fails(connection):
            # Said, because Sentinel's connections would go back with the reply still to come, for the next one to read.
            reply = connection.read_response(disconnect_on_error=True)
        self._idle.append((connection, sent_at))  # the reply may have been there for long
        return reply

    @contextmanager
    def _released_if_it_fails(self, connection: Any) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._pool.release(connection)
            raise

    def _taken(self) -> Any:
        with suppress(IndexError):
            connection, used_at = self._idle.pop()
            # Sentinel's pool does not own what leads to a former master.
            if time.monotonic() - used_at < FRESH_SECONDS and self._pool.owns_connection(connection):
                return connection
            self._pool.release(connection)
        return self._pool.get_connection()


class BoundedParser(DefaultParser):  # type: ignore[valid-type,misc] # redis-py chooses it: hiredis, which we depend on
    """Reads replies, but none larger than `MOST_REPLY_BYTES`: who answers more is no Redis of ours.

    Waits for them by the system's time limits.
    """

    def on_connect(self, connection: Any, **kwargs: Any) -> None:
        """Begin to read from a new connection."""
        super().on_connect(connection, **kwargs)
        self._reader: Any = BoundedReader(self._reader)
        _timed_by_the_system(self._sock, connection.socket_timeout)

    def read_from_socket(self, **how: Any) -> Any:
        """Read what has come; TimeoutError if nothing comes in time, which a `timeout` of None does not limit."""
        while True:
            try:
                return super().read_from_socket(**how)
            except redis.ConnectionError as error:
                if not isinstance(error.__context__, BlockingIOError):  # which the system's time limit raises
                    raise
                if how.get("timeout", self) is not None:
                    raise redis.TimeoutError("Timeout reading from socket") from error


def _timed_by_the_system(connected: socket.socket, seconds: float) -> None:
    """Give a socket the system's time limits in place of Python's, which cost another call at each read and write."""
    if isinstance(connected, ssl.SSLSocket):  # which can do without Python's only where it reads what was waited for
        return
    limit = struct.pack("ll", int(seconds), max(int(seconds % 1 * 1e6), 1))  # a timeval; all zeros are no limit
    connected.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connected.setsockopt(socket.SOL_SOCKET, option, limit)


class BoundedReader:
    """hiredis' reader, which counts what it is fed between two replies."""

    def __init__(self, reader: Any) -> None:
        self._reader, self._bytes = reader, 0
        self._nothing = reader.gets()
        """What it says where there is no whole reply yet."""

    def feed(self, data: bytes | bytearray, start: int, length: int) -> None:
        """Take bytes from the wire."""
        self._bytes += length
        if self._bytes > MOST_REPLY_BYTES:
            raise redis.ConnectionError(f"a reply is larger than {MOST_REPLY_BYTES} bytes")
        self._reader.feed(data, start, length)

    def gets(self, *args: Any) -> Any:
        """Return the next reply, or that there is not enough data yet."""
        reply = self._reader.gets(*args)
        if reply is not self._nothing:
            self._bytes = 0
        return reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


class Waiter:
    """A connection of its own for commands that block, so that they hold up nobody and can be ended.

    One thread calls; any other may `end` the call.
    """

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._pool: Any = None
        self._connection: Any = None
        self._id = 0
        self._idle = threading.Event()
        self._idle.set()
        self._ended = threading.Event()

    def call(self, *command: str | bytes | float, seconds: float) -> Any:
        """Return the reply to a command that blocks for up to `seconds`; None if it was ended."""
        self._idle.clear()
        try:
            # Looked at after `_idle` is cleared, or an `end` could slip in between.
            return None if self._ended.is_set() else self._reply(command, seconds)
        finally:
            self._ended.clear()
            self._idle.set()

    def end(self, seconds: float = 1.0) -> None:
        """Make the call in another thread return, or the next one if there is none; tries for `seconds`."""
        self._ended.set()
        deadline = time.monotonic() + seconds
        while not self._idle.is_set() and time.monotonic() < deadline:
            with suppress(ConsumerError), self._client.translated() as master:
                # 0: the command is on its way, or answered already.
                if self._id and master.client_unblock(self._id):
                    return
            time.sleep(0.01)

    def close(self, seconds: float = 1.0) -> None:
        """Close the connection; the next call opens another.  A call that was ended has `seconds` to return."""
        self._idle.wait(seconds)  # a connection that is closed while it is read fails in odd ways
        self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection, self._id = self._connection, None, 0
        if connection is not None:
            connection.disconnect()
            self._pool.release(connection)

    def _reply(self, command: tuple[str | bytes | float, ...], seconds: float) -> Any:
        with self._client.translated() as master:
            try:
                connection = self._opened(master)
                connection.send_command(*command, check_health=False)
                # Without an answer by then, reading it runs into the ordinary time limit: the connection is dead.
                connection.can_read(timeout=seconds)
                return connection.read_response()
            except BaseException:
                # A demoted master answers with an error too: ask for the master anew.
                self._disconnect()
                raise

    def _opened(self, master: Any) -> Any:
        if self._connection is not None and self._stale():
            self._disconnect()
        if self._connection is None:
            self._pool = master.connection_pool
            self._connection = self._pool.get_connection()
            self._connection.send_command("CLIENT", "ID", check_health=False)
            self._id = self._connection.read_response()
        return self._connection

    def _stale(self) -> bool:
        """Nothing was asked, so whatever there is to read is the end of the connection."""
        try:
            return bool(self._connection.can_read())
        except (redis.RedisError, OSError):
            return True


def translate(error: Exception, where: str) -> ConsumerError | None:
    """Return our error for one of redis-py's; None for a mistake in the command itself."""
    text = " ".join(str(error).split())
    if isinstance(error, _REFUSED) or _WORDS_OF_ACCESS.search(text):
        return SettingsError(f"REDIS_USERNAME, REDIS_PASSWORD: the Redis at {where} refuses us: {text}")
    if _WORDS_OF_TLS.search(text):
        return SettingsError(f"REDIS_TLS, REDIS_CA_CERTS: no trusted connection to {where}: {text}")
    if _WORDS_OF_AGE.search(text):
        return SettingsError(f"REDIS_HOST is {where}, which is too old: allowed are Redis from 6.2 and Valkey")
    if isinstance(error, _UNAVAILABLE) or _WORDS_FOR_NOW.search(text):
        return QueueUnavailable(f"Redis at {where} does not answer: {text}")
    return None
