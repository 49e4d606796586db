"""Children go to the server in chunks: bounded in number, and in the time that the first one waits."""

from __future__ import annotations

import pytest

from redis_consumer.queues import redis
from redis_consumer.queues.base import Child
from redis_consumer.queues.redis import CHILDREN_AT_A_TIME, next_chunk


def children(count: int) -> list[Child]:
    return [Child("q", f"{number}.tif", {}) for number in range(count)]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (0, [0]),
        (1, [1]),
        (CHILDREN_AT_A_TIME - 1, [CHILDREN_AT_A_TIME - 1]),
        (CHILDREN_AT_A_TIME, [CHILDREN_AT_A_TIME, 0]),
        (2 * CHILDREN_AT_A_TIME + 1, [CHILDREN_AT_A_TIME, CHILDREN_AT_A_TIME, 1]),
    ],
)
def test_the_last_chunk_is_known_as_the_last(count: int, sizes: list[int]) -> None:
    left, found, last = iter(children(count)), [], False
    while not last:
        chunk, last = next_chunk(left)
        found.append(len(chunk))
    assert found == sizes


def test_slow_children_are_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "CHUNK_SECONDS", -1.0)
    left = iter(children(2))
    assert [len(next_chunk(left)[0]) for _ in range(3)] == [1, 1, 0]
