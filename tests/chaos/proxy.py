"""TCP proxies on the loopback that cut, delay, stall and answer in another's place.  They know no worker.

All run in one thread with an event loop of its own; what they do to connections is switched from any thread.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from redis_consumer.testing.servers import HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[object, object, None]]

CHUNK_BYTES = 1 << 16
TAIL_BYTES = 64
"""Longer than any marker."""
LOOK_SECONDS = 0.02
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST, and what was not sent is dropped."""
NOTHING = (b"$-1\r\n", b"*-1\r\n", b"_\r\n", b":0\r\n")
"""Replies without news; losing one proves nothing."""
REQUEST = re.compile(rb"(GET|PUT|HEAD|POST|DELETE) /")
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass
class Loss:
    """One reply to a request that contains `marker` will be lost after the command ran, and the connection with it.

    With `late_seconds` the request itself is late: its sender hears nothing but the end of the connection, and the
    server gets it so much later.
    """

    marker: bytes
    late_seconds: float = 0.0
    happened: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, eq=False)
class Spell:
    """What a proxy does to everything that passes while it is under it."""

    delay_seconds: float = 0.0
    """Holds back every piece."""
    stalled: bool = False
    """Keeps everything, and nobody is told."""
    refusing: bool = False
    """Ends new connections at once."""
    http_status: int = 0
    """Answers each HTTP request in the server's place."""


@dataclass(eq=False)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    tail: bytes = b""
    """The end of what the client sent: a marker may come in two pieces."""
    loss: Loss | None = None


class Loop:
    """The thread that all proxies run in."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, work: Coroutine[object, object, object]) -> None:
        """Do something in the loop and wait for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def listen(self, serve: Serve) -> asyncio.Server:
        """Serve a free port until the loop ends, or the server is closed."""
        server = await asyncio.start_server(serve, HOST, 0)
        self._servers.append(server)
        return server

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Proxy:
    """Listens on `port`, a free one, and passes on to `target()`, which is asked at each connection."""

    def __init__(self, loop: Loop, target: Callable[[], int]) -> None:
        self.port = 0
        self._target = target
        self._loop = loop
        self._links: set[_Link] = set()
        self._losses: list[Loss] = []
        self._spells: list[Spell] = []
        self._server: asyncio.Server | None = None
        loop.run(self._listen())

    def close(self) -> None:
        """Listen no more, and end the connections."""
        self._loop.run(self._end())

    def cut(self, *, reset: bool = False) -> None:
        """End every connection, as a dying machine (`reset`) or an orderly one."""
        self._loop.run(self._cut(reset=reset))

    @contextmanager
    def under(self, spell: Spell) -> Iterator[None]:
        """Be under a spell inside the block; several add up."""
        self._spells.append(spell)
        try:
            yield
        finally:
            self._spells.remove(spell)

    def lose(self, loss: Loss) -> None:
        """Lose one reply, or delay one request, as soon as there is one."""
        self._losses.append(loss)

    def forget(self, loss: Loss) -> None:
        """Lose it no more."""
        with suppress(ValueError):
            self._losses.remove(loss)

    async def _listen(self) -> None:
        self._server = await self._loop.listen(self._serve)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        if self._server:
            self._server.close()
        await self._cut(reset=False)

    async def _cut(self, *, reset: bool) -> None:
        for link in list(self._links):
            _close(link.client, reset=reset)
            _close(link.server)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if any(spell.refusing for spell in self._spells):
            _close(writer, reset=True)
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(HOST, self._target())
        except OSError:
            _close(writer, reset=True)
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        try:
            both = asyncio.gather(self._requests(link, reader), self._replies(link, server_reader))
            with suppress(OSError, asyncio.CancelledError):  # cancelled is who waits when the loop ends
                await both
        finally:
            self._links.discard(link)
            _close(writer)
            _close(server_writer)

    async def _requests(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._hold()
            status = max((spell.http_status for spell in self._spells), default=0)
            if status and REQUEST.match(chunk):
                await _refuse(link, reader, chunk, status)
                break
            self._look_for_loss(link, chunk)
            if link.loss and link.loss.late_seconds:
                await _deliver_late(link, chunk, link.loss)
                break
            link.server.write(chunk)
            await link.server.drain()
        _close(link.server)

    async def _replies(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._hold()
            if link.loss and self._lost(link, link.loss, chunk):
                break
            link.client.write(chunk)
            await link.client.drain()
        _close(link.client)

    async def _hold(self) -> None:
        for spell in list(self._spells):
            await asyncio.sleep(spell.delay_seconds)
        while any(spell.stalled for spell in self._spells):  # noqa: ASYNC110 - switched from other threads
            await asyncio.sleep(LOOK_SECONDS)

    def _look_for_loss(self, link: _Link, chunk: bytes) -> None:
        text, known = link.tail + chunk, len(link.tail)
        link.tail = text[-TAIL_BYTES:]
        for loss in self._losses:
            if text.find(loss.marker, max(0, known - len(loss.marker) + 1)) >= 0:
                link.loss = loss

    def _lost(self, link: _Link, loss: Loss, reply: bytes) -> bool:
        link.loss = None
        if loss not in self._losses or reply.startswith(NOTHING):
            return False
        self.forget(loss)
        loss.happened.set()
        return True


async def _deliver_late(link: _Link, request: bytes, loss: Loss) -> None:
    _close(link.client, reset=True)
    await asyncio.sleep(loss.late_seconds)
    link.server.write(request)
    await link.server.drain()
    await asyncio.sleep(0.2)  # closing at once could overtake the request inside the server
    loss.happened.set()


async def _refuse(link: _Link, reader: asyncio.StreamReader, request: bytes, status: int) -> None:
    """Read an HTTP request to its end and answer it: a reply before that would look like a cut."""
    while b"\r\n\r\n" not in request and (more := await reader.read(CHUNK_BYTES)):
        request += more
    head, _, body = request.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    missing = (int(length[1]) if length else 0) - len(body)
    while missing > 0 and (more := await reader.read(CHUNK_BYTES)):
        missing -= len(more)
    link.client.write(b"HTTP/1.1 %d Chaos\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
    await link.client.drain()
    _close(link.client)


def _close(writer: asyncio.StreamWriter, *, reset: bool = False) -> None:
    if reset and (sock := writer.get_extra_info("socket")):
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.close()
