"""The jobs on RQ.  A worker has everything imported before it forks for each job, as its documentation advises."""

from __future__ import annotations

import os

import plain_jobs
from redis import Redis
from rq import Queue, Worker

from redis_consumer import processing

URL = f"{os.environ['BENCH_REDIS']}/3"

processing.warm_up()
queue = Queue(connection=Redis.from_url(URL))


def push(job: str, *arguments: str) -> None:
    """Submit a job."""
    queue.enqueue(getattr(plain_jobs, job), *arguments)


class Ready(Worker):
    """A worker that has imported this module."""
