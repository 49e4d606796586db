from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from redis_consumer.errors import QueueUnavailable
from redis_consumer.queues.depth import Depth, queue_depth
from redis_consumer.queues.redis import RedisSubmitter
from redis_consumer.redis import RedisClient
from redis_consumer.testing.servers import free_port, start_redis

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisClient]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield RedisClient(server.host, server.port)


def test_an_empty_queue_has_no_age(client: RedisClient) -> None:
    assert queue_depth(client, "empty") == Depth(0, 0.0)


def test_the_age_is_that_of_the_job_that_is_next(client: RedisClient) -> None:
    submitter = RedisSubmitter(client, host="host")
    submitter.submit("q", "first.tif", {"created_at": "2020-01-01T00:00:00.000Z"})
    submitter.submit("q", "second.tif", {})
    depth = queue_depth(client, "q")
    assert depth.jobs == 2
    assert depth.oldest_seconds > 365 * 86400


def test_an_entry_without_a_job_or_with_an_odd_name_is_counted_all_the_same(client: RedisClient) -> None:
    client.lpush("odd", b"\xff\xfe")
    assert queue_depth(client, "odd") == Depth(1, 0.0)


def test_who_does_not_answer_is_asked_once() -> None:
    with pytest.raises(QueueUnavailable):
        queue_depth(RedisClient("127.0.0.1", free_port(), backoff=600), "q")
