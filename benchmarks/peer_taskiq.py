"""The jobs on taskiq, by the broker of taskiq-redis that acknowledges.  Results go to Redis too."""

from __future__ import annotations

import asyncio
import os
from functools import cache

import plain_jobs
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

URL = f"{os.environ['BENCH_REDIS']}/4"

broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL))
TASKS = {job.__name__: broker.task(job) for job in (plain_jobs.nothing, plain_jobs.nap, plain_jobs.segment)}
loop = asyncio.new_event_loop()


@cache
def started() -> None:
    """Make the stream's group of readers: what is submitted before there is one, no worker ever sees."""
    loop.run_until_complete(broker.startup())


def push(job: str, *arguments: str) -> None:
    """Submit a job."""
    started()
    loop.run_until_complete(TASKS[job].kiq(*arguments))
