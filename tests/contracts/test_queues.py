"""The queue in memory and the one on real servers sit the same exams."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter
from redis_consumer.queues.memory_admin import MemoryJobAdmin
from redis_consumer.queues.redis import RedisJobQueue, RedisSubmitter
from redis_consumer.queues.redis_admin import RedisJobAdmin
from redis_consumer.queues.sweeper import RedisSweeper
from redis_consumer.redis import RedisClient
from redis_consumer.testing.admin import JobAdminExam
from redis_consumer.testing.parking import ParkingExam
from redis_consumer.testing.queues import QUEUE, JobQueueExam, Stage
from redis_consumer.testing.servers import Server, find_redis, start_redis

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from redis_consumer.job import Job
    from redis_consumer.queues.admin import JobAdmin
    from redis_consumer.queues.base import JobQueue, Submitter


# Debian's Redis, where it is installed, beside the Valkey that every installation for development has.
SERVERS = [find_redis(), *filter(None, [shutil.which("redis-server")])]


class MemoryStage:
    def __init__(self) -> None:
        self.late = 0.0
        self.broker = MemoryBroker(clock=lambda: time.time() + self.late)

    def lane(self, *, pod: str = "pod-1", max_deliveries: int = 5) -> JobQueue:
        return MemoryJobQueue(self.broker, queue=QUEUE, pod=pod, max_deliveries=max_deliveries)

    def submitter(self) -> Submitter:
        return MemorySubmitter(self.broker)

    def entries(self) -> list[str]:
        return list(self.broker.queues[QUEUE])

    def push(self, key: str) -> None:
        with self.broker.changed:
            self.broker.queues[QUEUE].appendleft(key)
            self.broker.changed.notify_all()

    def write(self, key: str, fields: Mapping[str, str]) -> None:
        self.broker.jobs.setdefault(key, {}).update(fields)

    def vanish(self, key: str) -> None:
        del self.broker.jobs[key]

    def lose(self, job: Job) -> None:
        self.late += 31.0
        assert self.broker.sweep() == 1
        assert job.key in self.entries()

    def pass_time(self, seconds: float) -> None:
        with self.broker.changed:
            self.late += seconds
            self.broker.changed.notify_all()

    def sweep(self) -> None:
        self.broker.sweep()

    def admin(self) -> JobAdmin:
        return MemoryJobAdmin(self.broker)


class RedisStage:
    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self.sweeper = RedisSweeper(client, lease_seconds=0)
        self.sweeper.sweep()
        self.lanes: list[RedisJobQueue] = []

    def lane(self, *, pod: str = "pod-1", max_deliveries: int = 5) -> JobQueue:
        number = len(self.lanes)
        lane = RedisJobQueue(self.client, queue=QUEUE, lane=f"exam-{number}", pod=pod, max_deliveries=max_deliveries)
        self.lanes.append(lane)
        return lane

    def submitter(self) -> Submitter:
        return RedisSubmitter(self.client, host="frontend")

    def entries(self) -> list[str]:
        entries: list[str] = self.client.lrange(QUEUE, 0, -1)
        return entries

    def push(self, key: str) -> None:
        self.client.lpush(QUEUE, key)

    def write(self, key: str, fields: Mapping[str, str]) -> None:
        self.client.hset(key, mapping=fields)

    def vanish(self, key: str) -> None:
        self.client.delete(key)

    def lose(self, job: Job) -> None:
        self.client.zadd("redis-consumer:leases", {job.key: 1})
        assert self.sweeper.sweep() == 1

    def pass_time(self, seconds: float) -> None:
        for job in self.client.zrange("redis-consumer:due", 0, -1):
            self.client.zincrby("redis-consumer:due", -1000 * seconds, job)

    def sweep(self) -> None:
        self.sweeper.sweep()

    def admin(self) -> JobAdmin:
        return RedisJobAdmin(self.client)


@contextmanager
def redis_stage(server: Server) -> Iterator[RedisStage]:
    client = RedisClient(server.host, server.port)
    stage = RedisStage(client)
    yield stage
    for lane in stage.lanes:
        lane.close()
    client.flushall()
    client.close()


@pytest.fixture(scope="module", params=SERVERS, ids=lambda path: Path(path).name)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_redis(tmp_path_factory.mktemp("server"), binary=request.param) as server:
        yield server


class OnMemory:
    @pytest.fixture
    def stage(self) -> Stage:
        return MemoryStage()


class OnRedis:
    @pytest.fixture
    def stage(self, server: Server) -> Iterator[Stage]:
        with redis_stage(server) as stage:
            yield stage


class TestMemory(OnMemory, JobQueueExam):
    pass


class TestRedis(OnRedis, JobQueueExam):
    pass


class TestParkingInMemory(OnMemory, ParkingExam):
    pass


class TestParkingOnRedis(OnRedis, ParkingExam):
    pass


class TestAdminInMemory(OnMemory, JobAdminExam):
    pass


class TestAdminOnRedis(OnRedis, JobAdminExam):
    pass
