from __future__ import annotations

import contextlib
import socket
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.acceptance.bench import wait_until
from tests.chaos.blows import moves, scripts
from tests.chaos.proxy import Loop, Loss, Proxy, Spell

from redis_consumer.testing.servers import HOST, start_redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis_consumer.testing.servers import Server

WAIT = 10.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as running:
        yield running


@pytest.fixture
def proxy(loop: Loop, server: Server) -> Proxy:
    return Proxy(loop, lambda: server.port)


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Any]:
    with redis.Redis(HOST, proxy.port, socket_timeout=WAIT, retry=Retry(NoBackoff(), 0)) as connected:
        connected.flushall()
        yield connected


def test_it_passes_on_what_it_gets_both_ways(client: Any) -> None:
    value = b"x" * 300_000
    client.set("a", value)
    assert client.get("a") == value


def test_a_lost_reply_is_lost_once_and_its_command_ran(proxy: Proxy, client: Any) -> None:
    loss = Loss(b"INCR")
    proxy.lose(loss)
    client.ping()
    assert not loss.happened.is_set()
    with pytest.raises(redis.ConnectionError):
        client.execute_command("INCR", "n")
    assert loss.happened.is_set()
    assert client.execute_command("INCR", "n") == 2


def test_a_reply_without_news_is_not_worth_losing(proxy: Proxy, client: Any) -> None:
    loss = Loss(moves()[0])
    proxy.lose(loss)
    assert client.blmove("queue", "list", 0.01, "RIGHT", "LEFT") is None
    client.lpush("queue", "job")
    with pytest.raises(redis.ConnectionError):
        client.blmove("queue", "list", 1, "RIGHT", "LEFT")
    assert client.lrange("list", 0, -1) == [b"job"]


def test_a_late_command_runs_after_its_sender_gave_up(proxy: Proxy, client: Any) -> None:
    loss = Loss(b"INCR", late_seconds=0.2)
    proxy.lose(loss)
    with pytest.raises(redis.ConnectionError):
        client.execute_command("INCR", "n")
    assert client.get("n") is None
    assert loss.happened.wait(WAIT)
    assert client.get("n") == b"1"


def test_scripts_are_known_by_their_digest(server: Server) -> None:
    from redis_consumer.queues import lua

    with redis.Redis(HOST, server.port) as asked:
        assert [asked.script_load(lua._text("claim")).encode()] == scripts("claim")


def test_a_cut_ends_connections_and_new_ones_work(proxy: Proxy, client: Any) -> None:
    client.ping()
    for reset in (False, True):
        proxy.cut(reset=reset)
        with contextlib.suppress(redis.ConnectionError):
            client.ping()
        assert client.ping()


def test_a_refusing_proxy_takes_nobody(proxy: Proxy, client: Any) -> None:
    client.connection_pool.disconnect()
    with proxy.under(Spell(refusing=True)), pytest.raises(redis.ConnectionError):
        client.ping()
    assert client.ping()


def test_a_stall_keeps_everything_until_it_is_over(proxy: Proxy, client: Any) -> None:
    client.ping()
    answered = threading.Event()

    def ask() -> None:
        client.ping()
        answered.set()

    with proxy.under(Spell(stalled=True)):
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        assert not answered.wait(0.2)
    assert answered.wait(WAIT)


def test_delays_add_up(proxy: Proxy, client: Any) -> None:
    client.ping()
    began = time.monotonic()
    with proxy.under(Spell(delay_seconds=0.05)), proxy.under(Spell(delay_seconds=0.05)):
        client.ping()
    assert time.monotonic() - began >= 0.2, "each way"


def test_nobody_behind_it_is_a_reset(loop: Loop) -> None:
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        port = closed.getsockname()[1]
    proxy = Proxy(loop, lambda: port)
    with redis.Redis(HOST, proxy.port) as client, pytest.raises(redis.ConnectionError):
        client.ping()


class Storage(BaseHTTPRequestHandler):
    """Takes uploads."""

    protocol_version = "HTTP/1.1"
    taken = 0

    def do_PUT(self) -> None:
        Storage.taken += len(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Say nothing."""


@pytest.fixture
def storage() -> Iterator[int]:
    with ThreadingHTTPServer((HOST, 0), Storage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("status", [500, 503])
def test_it_answers_whole_requests_in_the_servers_place(loop: Loop, storage: int, status: int) -> None:
    proxy = Proxy(loop, lambda: storage)
    body, before = b"x" * 1_000_000, Storage.taken
    connection = HTTPConnection(HOST, proxy.port, timeout=WAIT)
    with proxy.under(Spell(http_status=status)):
        connection.request("PUT", "/bucket/output/a.zip", body)
        with connection.getresponse() as reply:
            assert reply.status == status
    assert Storage.taken == before
    connection.request("PUT", "/bucket/output/a.zip", body)
    with connection.getresponse() as reply:
        assert reply.status == 200
    assert Storage.taken == before + len(body)
    connection.close()
    wait_until(lambda: not proxy._links, "the links to end")
