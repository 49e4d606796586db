"""The jobs on Dramatiq.  Results go to Redis too, since somebody waits for them."""

from __future__ import annotations

import os

import dramatiq
import plain_jobs
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

URL = f"{os.environ['BENCH_REDIS']}/2"

broker = RedisBroker(url=URL)
results = Results(backend=RedisBackend(url=URL), store_results=True)
broker.add_middleware(results)
dramatiq.set_broker(broker)
TASKS = {job.__name__: dramatiq.actor(job) for job in (plain_jobs.nothing, plain_jobs.nap, plain_jobs.segment)}


def push(job: str, *arguments: str) -> None:
    """Submit a job."""
    TASKS[job].send(*arguments)
