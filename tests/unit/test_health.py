from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from redis_consumer import cli, health
from redis_consumer.errors import SettingsError
from redis_consumer.health import MOST_REQUESTS, Health, Question
from redis_consumer.testing.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = "127.0.0.1"
WAIT = 10.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """What the pages are made of."""

    def __init__(self) -> None:
        self.lane = self.redis = self.server = ""
        self.asked = 0
        self.broken = False

    def ask_redis(self) -> str:
        self.asked += 1
        return self.redis

    def metrics(self) -> bytes:
        if self.broken:
            raise ValueError("/etc/secret")
        return b"jobs_total 1\n"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def running(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Health]:
    monkeypatch.setattr(health, "POLL_SECONDS", 0.01)
    server = Health(
        0,
        live={"lane-0": lambda: world.lane, "heartbeat": lambda: ""},
        ready={
            "redis": Question(world.ask_redis, keep_seconds=0),
            "model-server": Question(lambda: world.server, keep_seconds=0),
        },
        metrics=world.metrics,
    )
    server.start()
    yield server
    server.stop()


def get(running: Health, page: str, method: str = "GET") -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://{HOST}:{running.port}{page}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=WAIT) as reply:  # noqa: S310 - same
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def looked_at(running: Health, page: str) -> tuple[int, Any]:
    status, kind, content = get(running, page)
    assert kind == "application/json"
    return status, json.loads(content)


class TestPages:
    def test_a_worker_that_moves_is_alive(self, running: Health) -> None:
        assert looked_at(running, "/live") == (200, {"lane-0": "ok", "heartbeat": "ok"})

    def test_a_thread_that_stands_still_makes_it_dead_and_is_named(self, running: Health, world: World) -> None:
        world.lane = "has not moved for 200 s"
        assert looked_at(running, "/live") == (503, {"lane-0": "has not moved for 200 s", "heartbeat": "ok"})

    def test_trouble_of_others_makes_it_unready_and_never_dead(self, running: Health, world: World) -> None:
        assert looked_at(running, "/ready") == (200, {"redis": "ok", "model-server": "ok"})
        world.redis = "does not answer"
        assert looked_at(running, "/ready") == (503, {"redis": "does not answer", "model-server": "ok"})
        assert looked_at(running, "/live")[0] == 200

    def test_a_server_that_may_be_away_can_be_left_out(self, running: Health, world: World) -> None:
        world.server = "does not answer"
        assert looked_at(running, "/ready")[0] == 503
        assert looked_at(running, "/ready?except=model-server") == (200, {"redis": "ok"})

    def test_metrics_are_what_prometheus_reads(self, running: Health) -> None:
        assert get(running, "/metrics") == (200, "text/plain; version=0.0.4; charset=utf-8", "jobs_total 1\n")

    @pytest.mark.parametrize(("page", "method", "status"), [("/", "GET", 404), ("/etc", "GET", 404)])
    def test_there_is_nothing_else(self, running: Health, page: str, method: str, status: int) -> None:
        assert get(running, page, method)[0] == status

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
    def test_nothing_can_be_changed(self, running: Health, method: str) -> None:
        assert get(running, "/live", method)[0] == 501

    def test_a_bug_is_told_to_the_log_alone(
        self, running: Health, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.broken = True
        status, _, content = get(running, "/metrics")
        assert (status, content) == (500, "See the log\n")
        assert "/etc/secret" in caplog.text


class TestServer:
    def test_a_port_that_is_taken_stops_the_start(self) -> None:
        with socket.create_server((HOST, 0)) as other:
            port = other.getsockname()[1]
            taken = Health(port, live={}, ready={}, metrics=bytes)
            with pytest.raises(SettingsError, match=f"HEALTH_PORT is {port}: .* allowed is a free port"):
                taken.start()

    def test_one_that_was_never_started_can_be_stopped(self) -> None:
        Health(0, live={}, ready={}, metrics=bytes).stop()

    def test_clients_that_say_nothing_are_let_go(self, running: Health, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(health.Requests, "timeout", 0.05)
        with socket.create_connection((HOST, running.port), WAIT) as silent:
            assert silent.recv(1) == b""

    def test_clients_beyond_the_places_are_let_go_and_the_places_come_back(
        self, running: Health, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(health.Requests, "timeout", WAIT)
        with ExitStack() as stack:
            for _ in range(MOST_REQUESTS):
                stack.enter_context(socket.create_connection((HOST, running.port), WAIT))
            one_more = stack.enter_context(socket.create_connection((HOST, running.port), WAIT))
            assert one_more.recv(1) == b""
        for _ in range(100):
            try:
                assert get(running, "/live")[0] == 200
            except OSError:  # the places become free one by one
                continue
            return
        pytest.fail("no place is free")

    def test_a_client_that_sends_rubbish_hurts_nobody(self, running: Health) -> None:
        with socket.create_connection((HOST, running.port), WAIT) as client:
            client.sendall(b"\x00\xff" * 100 + b"\r\n\r\n")
            while client.recv(4096):
                pass
        assert get(running, "/live")[0] == 200


class TestQuestion:
    def test_many_probes_cost_one_question_and_later_there_is_another(self) -> None:
        clock, answers = Clock(), iter(["first", "second"])
        question = Question(lambda: next(answers), keep_seconds=5, clock=clock)
        assert [question.answer(), question.answer()] == ["first", "first"]
        clock.now += 5
        assert question.answer() == "second"

    def test_who_does_not_answer_in_time_is_not_waited_for_nor_asked_twice(self) -> None:
        may_answer, asked = threading.Event(), list[int]()

        def ask() -> str:
            asked.append(1)
            assert may_answer.wait(WAIT)
            return "late"

        question = Question(ask, answer_seconds=0.01)
        assert question.answer() is None
        assert question.answer() is None
        may_answer.set()
        assert question._answered.wait(WAIT)
        assert question.answer() == "late"
        assert asked == [1]

    def test_an_error_is_no_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        def ask() -> str:
            raise KeyError("x")

        assert Question(ask).answer() is None
        assert "A health check stumbled: KeyError" in caplog.text

    def test_all_are_asked_at_once(self) -> None:
        both = threading.Barrier(2)

        def ask() -> str:
            both.wait(WAIT)  # breaks unless the other is asked too
            return ""

        server = Health(0, live={}, ready={"a": Question(ask), "b": Question(ask)}, metrics=bytes)
        assert server.page("/ready")[0] == 200


class TestCommand:
    """`redis-consumer health`."""

    @pytest.fixture
    def command(self, running: Health, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
        monkeypatch.setenv("HEALTH_PORT", str(running.port))
        return lambda *words: cli.main(["health", *words])

    def test_asks_both_and_prints_a_line_for_each_thing(
        self, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command() == 0
        assert capsys.readouterr().out.splitlines() == [
            "live\tlane-0\tok",
            "live\theartbeat\tok",
            "ready\tredis\tok",
            "ready\tmodel-server\tok",
        ]

    def test_one_question_can_be_left_out(self, command: Callable[..., int], world: World) -> None:
        world.redis = "does not answer"
        assert [command("--live"), command("--ready"), command()] == [0, 1, 1]

    def test_nobody_there_is_no_health(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = free_port()
        monkeypatch.setenv("HEALTH_PORT", str(port))
        assert cli.main(["health", "--live"]) == 1
        assert capsys.readouterr().out == f"live\tno answer on port {port}: ConnectionRefusedError\n"

    def test_without_a_port_there_is_nobody_to_ask(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["health", "--set", "HEALTH_PORT=0"]) == 2
        assert "HEALTH_PORT is 0: allowed is the port" in capsys.readouterr().err
