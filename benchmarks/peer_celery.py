"""The jobs on Celery.  Results go to Redis too, since somebody waits for them."""

from __future__ import annotations

import os

import plain_jobs
from celery import Celery

URL = f"{os.environ['BENCH_REDIS']}/1"

app = Celery("bench", broker=URL, backend=URL)
if os.environ.get("BENCH_ACKS_LATE"):  # what its documentation advises for long tasks
    app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1)
TASKS = {job.__name__: app.task(job) for job in (plain_jobs.nothing, plain_jobs.nap, plain_jobs.segment)}


def push(job: str, *arguments: str) -> None:
    """Submit a job."""
    TASKS[job].delay(*arguments)
