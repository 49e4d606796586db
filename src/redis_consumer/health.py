"""The health of this process over HTTP: `/live`, `/ready`, `/metrics`.  Knows no Redis, no images and no worker.

It asks.  What is asked of this process alone (`live`) is answered at once.  What is asked of others (`ready`) is
asked beside the request, with a time limit, and the answer is kept for a few seconds, so that many probes cost no
more than one.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import parse_qs, urlsplit

from redis_consumer.errors import SettingsError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

T = TypeVar("T")

log = logging.getLogger(__name__)

ANSWER_SECONDS = 4.0
"""Others must have answered by then; a probe waits longer."""
KEEP_SECONDS = 5.0
REQUEST_SECONDS = 5.0
"""A client that stands still for so long is let go."""
POLL_SECONDS = 0.5
"""How soon the server notices that it should stop."""
MOST_REQUESTS = 16
"""At the same time; further ones are let go at once."""
OK = "ok"
JSON_TYPE, TEXT_TYPE = "application/json", "text/plain; version=0.0.4; charset=utf-8"


class Question(Generic[T]):
    """Something that is asked in a thread of its own, so that nobody waits for it for ever; never twice at a time."""

    def __init__(
        self,
        ask: Callable[[], T],
        *,
        answer_seconds: float = ANSWER_SECONDS,
        keep_seconds: float = KEEP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._clock = ask, clock
        self._answer_seconds, self._keep_seconds = answer_seconds, keep_seconds
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._answer: T | None = None
        self._asked_at: float | None = None

    def begin(self) -> None:
        """Ask, unless it is being asked, or the last answer is fresh."""
        with self._lock:
            if self._asked_at is not None and not self._stale():
                return
            self._asked_at = self._clock()
            self._answered.clear()
        threading.Thread(target=self._run, name="question", daemon=True).start()

    def answer(self) -> T | None:
        """Return the answer, at most a few seconds old; None if there was none in time, or an error."""
        self.begin()
        with self._lock:
            ends_at = (self._asked_at or 0.0) + self._answer_seconds
        return self._answer if self._answered.wait(max(0.0, ends_at - self._clock())) else None

    def _stale(self) -> bool:
        asked_at = self._asked_at or 0.0
        return self._answered.is_set() and self._clock() - asked_at >= self._keep_seconds

    def _run(self) -> None:
        try:
            self._answer = self._ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            log.warning("A health check stumbled: %s: %s", type(error).__name__, error)
            self._answer = None
        self._answered.set()


class Health:
    """A companion that answers probes on `port`; 0 for any free one.

    Each of `live` says what is wrong, or nothing; each of `ready` asks the same of others.  The names stand in the
    answer.  `metrics` gives Prometheus' text format.  SettingsError at the start if the port is taken.
    """

    def __init__(
        self,
        port: int,
        *,
        live: Mapping[str, Callable[[], str]],
        ready: Mapping[str, Question[str]],
        metrics: Callable[[], bytes],
    ) -> None:
        self._port = port
        self._live, self._ready, self._metrics = live, ready, metrics
        self._server: Server | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.server_address[1] if self._server else self._port

    def start(self) -> None:
        """Listen, and answer in threads beside the lanes."""
        try:
            self._server = Server(("0.0.0.0", self._port), self.page)  # noqa: S104 - probes come from outside the pod
        except OSError as error:
            raise SettingsError(f"HEALTH_PORT is {self._port}: {error.strerror}; allowed is a free port") from error
        threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), name="health", daemon=True).start()

    def stop(self) -> None:
        """Answer no more."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def page(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Return status, type and content of a page."""
        address = urlsplit(path)
        match address.path:
            case "/live":
                return report({name: fault() for name, fault in self._live.items()})
            case "/ready":
                return report(self._readiness(parse_qs(address.query).get("except", [])))
            case "/metrics":
                return HTTPStatus.OK, TEXT_TYPE, self._metrics()
        return HTTPStatus.NOT_FOUND, TEXT_TYPE, b"There are /live, /ready and /metrics\n"

    def _readiness(self, left_out: list[str]) -> dict[str, str]:
        asked = {name: question for name, question in self._ready.items() if name not in left_out}
        for question in asked.values():
            question.begin()  # all at once, so that together they take no longer than one
        answers = {name: question.answer() for name, question in asked.items()}
        return {name: "no answer" if fault is None else fault for name, fault in answers.items()}


def report(faults: Mapping[str, str]) -> tuple[HTTPStatus, str, bytes]:
    """Return a page: 200 if nothing is wrong, else 503; what was looked at, and what is wrong with it."""
    status = HTTPStatus.SERVICE_UNAVAILABLE if any(faults.values()) else HTTPStatus.OK
    content = {name: fault or OK for name, fault in faults.items()}
    return status, JSON_TYPE, json.dumps(content, indent=1).encode() + b"\n"


class Server(ThreadingTCPServer):
    """A small HTTP server: few requests at a time, each with a time limit."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], page: Callable[[str], tuple[HTTPStatus, str, bytes]]) -> None:
        self.page = page
        self._places = threading.BoundedSemaphore(MOST_REQUESTS)
        super().__init__(address, Requests)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Answer in a thread; without a free place, not at all."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Answer, and give the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log in a line; a client that goes away is no event."""
        log.debug("A probe of %s broke off (%r)", client_address, request)


class Requests(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    timeout = REQUEST_SECONDS
    server_version, sys_version = "redis-consumer", ""

    def do_GET(self) -> None:
        """Send the page."""
        try:
            status, kind, content = self.server.page(self.path)
        except Exception:
            log.exception("The page %s stumbled", self.path)
            status, kind, content = HTTPStatus.INTERNAL_SERVER_ERROR, TEXT_TYPE, b"See the log\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        """Log probes where somebody looks for them only: there is one every few seconds."""
        log.debug(format, *args)
