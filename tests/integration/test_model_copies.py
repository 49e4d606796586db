"""Metadata of models in Redis, shared with the other consumers of a Kiosk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from redis_consumer.job import ModelId
from redis_consumer.models.copies import RedisCopies
from redis_consumer.redis import RedisClient
from redis_consumer.testing.servers import HOST, Server, free_port, start_redis

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = ModelId("Nuclei", 3)
KEY = "Nuclei:3"


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


def test_what_is_written_is_read_and_expires(client: RedisClient) -> None:
    copies = RedisCopies(client, 30)
    assert copies.read(MODEL) is None
    copies.write(MODEL, "{}")
    assert copies.read(MODEL) == "{}"
    assert client.hgetall(KEY) == {"metadata": "{}"}
    assert 0 < client.ttl(KEY) <= 30


def test_a_copy_that_would_stay_for_ever_is_none_and_is_overwritten(client: RedisClient) -> None:
    copies = RedisCopies(client, 30)
    client.hset(KEY, "metadata", "old")
    assert copies.read(MODEL) is None
    copies.write(MODEL, "new")
    assert copies.read(MODEL) == "new"


def test_a_key_that_is_something_else_stays_as_it_is(client: RedisClient) -> None:
    copies = RedisCopies(client, 30)
    client.lpush(KEY, "a job")
    assert copies.read(MODEL) is None
    copies.write(MODEL, "{}")
    assert (client.lrange(KEY, 0, -1), client.ttl(KEY)) == (["a job"], -1)


def test_the_latest_version_has_no_copy(client: RedisClient) -> None:
    copies = RedisCopies(client, 30)
    copies.write(ModelId("Nuclei"), "{}")
    assert copies.read(ModelId("Nuclei")) is None
    assert client.keys("*") == []


def test_a_server_that_is_away_keeps_none_and_breaks_nothing() -> None:
    copies = RedisCopies(RedisClient(HOST, free_port(), timeout_seconds=1.0), 30)
    copies.write(MODEL, "{}")
    assert copies.read(MODEL) is None
