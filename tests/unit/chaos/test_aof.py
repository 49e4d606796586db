from __future__ import annotations

from typing import TYPE_CHECKING

import redis
from tests.acceptance.bench import wait_until
from tests.chaos import aof
from tests.chaos.servers import options

from redis_consumer.testing.servers import HOST, start_redis

if TYPE_CHECKING:
    from pathlib import Path


def wire(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w.encode()), w.encode()) for w in words)


def test_commands_have_the_time_that_stands_before_them() -> None:
    data = b"#TS:100\r\n" + wire("set", "a", "1\r\n*") + wire("DEL", "a") + b"#TS:102\r\n" + wire("SET", "b", "ü")
    assert list(aof.commands(data)) == [
        aof.Command(100, ("SET", "a", "1\r\n*")),
        aof.Command(100, ("DEL", "a")),
        aof.Command(102, ("SET", "b", "ü")),
    ]


def test_a_transaction_is_one_step_and_without_its_end_it_never_ran() -> None:
    data = wire("SET", "a", "1") + wire("MULTI") + wire("SET", "b", "1") + wire("DEL", "a") + wire("EXEC")
    data += wire("MULTI") + wire("SET", "c", "1")
    assert [[command.words[0] for command in step] for step in aof.steps(aof.commands(data))] == [
        ["SET"],
        ["SET", "DEL"],
    ]


def test_half_a_command_at_the_end_never_ran() -> None:
    whole = wire("SET", "a", "1")
    for size in range(len(wire("SET", "b", "22"))):
        assert len(list(aof.commands(whole + wire("SET", "b", "22")[:size]))) == 1


def test_a_disk_that_was_written_to_last_a_while_ago() -> None:
    first, second = b"#TS:100\r\n" + wire("SET", "a", "1"), b"#TS:101\r\n" + wire("SET", "b", "1")
    assert aof.cut_before(first + second, 100.5) == first
    assert aof.cut_before(first + second, 101) == first + second


def test_a_real_log_says_what_a_script_wrote_as_one_step(tmp_path: Path) -> None:
    with start_redis(tmp_path, 0, *options("always")) as server, redis.Redis(HOST, server.port) as client:
        client.lpush("queue", "job")
        client.blmove("queue", "list", 1, "RIGHT", "LEFT")
        client.eval("redis.call('HSET', 'a', 'x', 1) redis.call('HDEL', 'a', 'x')", 0)
        log = aof.read(tmp_path / "appendonlydir")

        def timed() -> bool:  # the first second has no mark
            client.set("b", 1)
            return aof.read(tmp_path / "appendonlydir").steps[-1][0].at > 0

        wait_until(timed, "a mark of time")
    assert log.base == []
    written = [step for step in log.steps if step[0].words[0] != "SELECT"]
    assert [[command.words for command in step] for step in written] == [
        [("LPUSH", "queue", "job")],
        [("LMOVE", "queue", "list", "RIGHT", "LEFT")],
        [("HSET", "a", "x", "1"), ("HDEL", "a", "x")],
    ]
