"""The job queue on Redis or Valkey: a lane's view, and the way in.

A claim is a move into the lane's own list and one script; everything else is one script.  Each claim has a token,
and nothing is written for who does not know it.  The key space stands in `scripts/prelude.lua`, what each step
guards against in docs/decisions/queue.md.  Knows no worker, no image and no model.
"""

from __future__ import annotations

import json
import logging
import math
import platform
import secrets
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from redis_consumer import __version__
from redis_consumer.errors import LeaseLost, QueueUnavailable
from redis_consumer.job import FINAL, Job, Status
from redis_consumer.queues.base import ENDINGS, NO_FAILURE, Place, texts
from redis_consumer.queues.lua import Scripts, packed, pairs
from redis_consumer.redis import Waiter
from redis_consumer.retry import call_with_retries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from redis_consumer.errors import Failure
    from redis_consumer.queues.base import Child, FieldValue
    from redis_consumer.redis import RedisClient

T = TypeVar("T")

log = logging.getLogger(__name__)

SHORTEST_WAIT_SECONDS = 0.001
"""Less is rounded to 0 by some servers, and 0 blocks for ever."""
PATIENCE_SECONDS = 10.0
"""How long a settle or a release is repeated before it is left to the next claim."""
UPDATE_SECONDS = 60.0
"""How long a question or a write about a job in hand is repeated: a server that restarts is back by then."""
DROPPING_SECONDS = 20.0
"""How much longer than its time a claim may go on dropping entries of jobs that are over."""
CHILDREN_AT_A_TIME = 100
"""In one script, during which the server does nothing else."""
CHUNK_SECONDS = 1.0
"""Where children are slow to come, the first are not held up by the others for longer than this."""
VERSION = f"{__version__} on Python {platform.python_version()}"
"""Stands in the history of each delivery."""


@dataclass
class Announced:
    """An update of which the lane has not heard yet."""

    job: Job
    arguments: Sequence[object]
    reply: Callable[[], Any] | None
    """Waits for the server's answer; None once it was lost."""


class RedisJobQueue:
    """One lane of one pod on one queue.  Its processing list is ``processing-<queue>:<lane>:<pod>``.

    `claim`, `update` and `announce` are for the lane's own thread; `settle`, `heartbeat`, `wake`, `release` and `close`
    for any.
    """

    def __init__(
        self,
        client: RedisClient,
        *,
        queue: str,
        lane: str,
        pod: str,
        lease_seconds: float = 30.0,
        max_deliveries: int = 5,
        wait_replicas: int = 0,
    ) -> None:
        self._queue, self._pod = queue, pod
        # The janitor takes what follows the last colon for the pod, and re-queues the jobs of pods that are gone.
        self._list = f"processing-{queue}:{lane}:{pod}"
        self._lease_ms = round(lease_seconds * 1000)
        self._client = client
        self._max_deliveries = max_deliveries
        self._scripts = Scripts(client, wait_replicas)
        self._waiter = Waiter(client)
        self._unanswered: tuple[str, str] | None = None
        self._unfinished: Callable[[], str] | None = None
        self._holding: Job | None = None
        self._kept: dict[str, str] = {}
        self._announced: Announced | None = None
        self._thread = threading.get_ident()
        self._giving_back = threading.Lock()
        self._closed = threading.Event()

    def claim(self, *, timeout: float) -> Job | None:
        """See `JobQueue.claim`."""
        self._thread = threading.get_ident()
        self._finish_unfinished()
        self._forget_announced()
        deadline = time.monotonic() + timeout
        while not self._closed.is_set():
            there, due_seconds = self._next_entry()
            key = there or self._wait_for_entry(min(deadline - time.monotonic(), due_seconds))
            if key is None:
                return None
            if self._closed.is_set():
                self._give_back()
                return None
            if job := self._claim(key):
                return job
            if time.monotonic() > deadline + DROPPING_SECONDS:
                return None  # so that the lane is seen to move
        return None

    def update(self, job: Job, fields: Mapping[str, FieldValue]) -> None:
        """See `JobQueue.update`."""
        arguments = self._to_write(job, fields)
        if arguments is None:
            patiently(self._hear)
        else:
            self._demand(job, patiently(lambda: self._ask("update", job, arguments)) == "held")

    def announce(self, job: Job, fields: Mapping[str, FieldValue]) -> None:
        """See `JobQueue.announce`: the answer is read by whatever says more about the job."""
        patiently(self._hear)
        arguments = self._to_write(job, fields)
        if arguments is None:
            return
        try:
            reply = self._scripts.begin("update", job.key, args=arguments)
        except QueueUnavailable:
            self.update(job, fields)
        else:
            self._announced = Announced(job, arguments, reply)

    def settle(self, job: Job, status: str, fields: Mapping[str, FieldValue], failure: Failure | None = None) -> None:
        """See `JobQueue.settle`."""
        written = texts(fields) | self._kept
        written.pop("status", None)
        arguments = [job.token, self._pod, status, letter(failure), *flat(written)]
        self._finish(job, "settle", arguments)

    def release(self, job: Job, to: Place, *, seconds: float = 0.0, failure: Failure | None = None) -> Status:
        """See `JobQueue.release`."""
        how = failure.reason if failure else ENDINGS.get(to, "the job was not finished")
        limits = round(seconds * 1000), self._max_deliveries
        arguments = [job.token, self._pod, to, *limits, how, letter(failure)]
        answer = self._finish(job, "release", arguments)
        return Status.FAILED if answer == "failed" else Status.NEW

    def submit_children(self, parent: Job, children: Iterable[Child]) -> list[str]:
        """See `JobQueue.submit_children`."""
        there = len(self._children(parent))
        left = iter(islice(children, there, None))
        complete = False
        while not complete:
            chunk, complete = next_chunk(left)
            self._submit_chunk(parent, there, chunk, complete=complete)
            there += len(chunk)  # as far as the source was read: a late chunk of an earlier call may be ahead of it
        return self._children(parent)

    def children(self, parent: Job) -> Iterator[tuple[str, dict[str, str]]]:
        """See `JobQueue.children`."""
        keys = self._children(parent)
        for start in range(0, len(keys), CHILDREN_AT_A_TIME):
            chunk = keys[start : start + CHILDREN_AT_A_TIME]
            yield from zip(chunk, patiently(partial(hashes, self._client, chunk)), strict=True)

    def heartbeat(self, job: Job) -> None:
        """See `JobQueue.heartbeat`."""
        arguments = [job.token, self._pod, self._lease_ms]
        self._demand(job, self._scripts.run("heartbeat", job.key, args=arguments) == "held")

    def wake(self) -> None:
        """See `JobQueue.wake`."""
        self._waiter.end()

    def close(self) -> None:
        """See `JobQueue.close`."""
        self._closed.set()
        self.wake()
        self._finish_unfinished()
        self._give_back()
        self._waiter.close()

    # Claiming.

    def _next_entry(self) -> tuple[str | None, float]:
        """Return what stands in the own list now, and in how many seconds there may be more to do.

        That is a move or a claim whose answer was lost, a job that came back, or the next of the queue.
        """
        entries, due_seconds = self._register(self._queue)
        if self._unanswered and self._unanswered[0] in entries:
            return self._unanswered[0], due_seconds
        self._unanswered = None
        return (entries[-1] if entries else None), due_seconds

    def _register(self, *queue: str) -> tuple[list[str], float]:
        entries, due_ms = self._scripts.run("register", self._list, *queue)
        return entries, due_ms / 1000 if due_ms >= 0 else math.inf

    def _wait_for_entry(self, seconds: float) -> str | None:
        if seconds < SHORTEST_WAIT_SECONDS:
            return None
        move = packed(self._queue), packed(self._list), "RIGHT", "LEFT"
        entry: str | None = self._waiter.call("BLMOVE", *move, seconds, seconds=seconds)
        return entry

    def _claim(self, key: str) -> Job | None:
        # Asked again with the same token, the server answers as the first time: no claim is counted twice.
        if self._unanswered is None:
            self._unanswered = key, secrets.token_hex(16)
        token = self._unanswered[1]
        arguments = [token, self._pod, VERSION, self._lease_ms, self._max_deliveries]
        answer, *rest = self._scripts.run("claim", key, self._list, args=arguments, confirm=True)
        self._unanswered = None
        if answer != "taken":
            log.info("Entry %s is dropped: %s", key, answer)
            return None
        deliveries, fields = rest
        self._kept = {}
        self._holding = Job(key, self._queue, pairs(fields), token, deliveries)
        return self._holding

    # Writing.

    def _to_write(self, job: Job, fields: Mapping[str, FieldValue]) -> list[str] | None:
        """Return the arguments of an update; None for a final status, whose fields are kept for the settle."""
        written = texts(fields)
        if written.get("status") in FINAL:
            self._kept |= written
            return None
        return [job.token, self._pod, *flat(written)]

    def _ask(self, script: str, job: Job, arguments: Sequence[object], *, confirm: bool = False) -> Any:
        """Run a script about a job, after what was announced before it."""
        self._hear()
        return self._scripts.run(script, job.key, args=arguments, confirm=confirm)

    def _hear(self) -> None:
        """Wait for the answer to what was announced; one that does not come is asked for with the next call."""
        announced = self._announced
        if announced is None or threading.get_ident() != self._thread:  # who ends our job for us waits for nothing
            return
        try:
            answer = self._answer(announced)
        except QueueUnavailable:
            raise
        except Exception:
            self._announced = None  # asked again it would fail again, whatever the job says next
            raise
        self._announced = None
        self._demand(announced.job, answer == "held")

    def _answer(self, announced: Announced) -> Any:
        reply, announced.reply = announced.reply, None
        return reply() if reply else self._scripts.run("update", announced.job.key, args=announced.arguments)

    def _forget_announced(self) -> None:
        """Clear away what nobody heard of: the job went another way."""
        announced, self._announced = self._announced, None
        if announced and announced.reply:
            with suppress(QueueUnavailable):
                announced.reply()

    # Letting go.

    def _finish(self, job: Job, script: str, arguments: Sequence[object]) -> str:
        """End our hold on a job.  A lost reply is asked for again: now, and if need be before the next claim."""

        def ask() -> str:
            return str(self._ask(script, job, arguments, confirm=True))

        def finish() -> str:
            try:
                answer = call_with_retries(
                    ask, on=QueueUnavailable, seconds=PATIENCE_SECONDS, attempts=100, longest_wait=1
                )
            except QueueUnavailable:
                raise
            except Exception:
                self._unfinished = None  # asked again it would fail again, and hold up the lane for ever
                raise
            self._unfinished = self._holding = None
            self._demand(job, answer != "lost")
            return answer

        self._unfinished = finish
        return finish()

    def _finish_unfinished(self) -> None:
        if self._unfinished:
            try:
                self._unfinished()
            except LeaseLost as error:
                log.warning("%s", error)

    def _give_back(self) -> None:
        """Put back what stands in the own list and is not worked on: the newest first, so that order is kept."""
        with self._giving_back:  # `claim` and `close` may both do it: twice, an entry would be there twice
            while entries := self._strangers():
                for key in entries:
                    self._scripts.run("give_back", self._list, key, args=[self._pod])

    def _strangers(self) -> list[str]:
        held = self._holding.key if self._holding else None
        return [key for key in self._register()[0] if key != held]

    # Children.

    def _children(self, parent: Job) -> list[str]:
        def ask() -> list[str]:
            with self._client.translated() as master:
                keys: list[str] = master.zrange(packed(f"redis-consumer:children:{parent.key}"), 0, -1)
            return keys

        return patiently(ask)

    def _submit_chunk(self, parent: Job, first: int, children: list[Child], *, complete: bool) -> None:
        arguments: list[object] = [parent.token, self._pod, first, int(complete)]
        for child in children:
            fields = flat(texts(child.fields))
            arguments += [f"{child.queue}:{child.name}:{uuid.uuid4().hex}", child.queue, len(fields), *fields]

        def ask() -> Any:
            return self._ask("submit_children", parent, arguments, confirm=True)

        answer, *known = call_with_retries(ask, on=QueueUnavailable, seconds=PATIENCE_SECONDS)
        self._demand(parent, answer == "held")
        if known[0] < first + len(children):
            # Their source has moved on, so it must be opened anew.
            raise QueueUnavailable(f"Redis forgot children of {parent.key}")

    def _demand(self, job: Job, ours: bool) -> None:  # noqa: FBT001 - the answer, in a word
        if not ours:
            if self._holding is job:  # a late heartbeat may be about the job before
                self._holding = None
            raise LeaseLost(f"Job {job.key} is final, gone, or somebody else's")


def patiently(ask: Callable[[], T]) -> T:
    """Return what Redis answers in the middle of a job.  Given up, the job would start again after its lease."""
    return call_with_retries(ask, on=QueueUnavailable, seconds=UPDATE_SECONDS, attempts=1000, longest_wait=1)


def letter(failure: Failure | None) -> str:
    """Return the dead letter's part of a failure, as the scripts take it."""
    failure = failure or NO_FAILURE
    known = {"error": failure.error} | ({"traceback": failure.traceback} if failure.traceback else {})
    # Lua refuses the escapes of bytes that are not UTF-8, and takes the bytes.
    return json.dumps(known, ensure_ascii=False)


class RedisSubmitter:
    """Puts new jobs into queues.  `host` is who submits: it stands in `identity_upload`."""

    def __init__(self, client: RedisClient, *, host: str, wait_replicas: int = 0) -> None:
        self._client = client
        self._host = host
        self._scripts = Scripts(client, wait_replicas)

    def submit(self, queue: str, name: str, fields: Mapping[str, FieldValue]) -> str:
        """See `Submitter.submit`."""
        key = f"{queue}:{name}:{uuid.uuid4()}"
        arguments = [self._host, *flat(texts(fields))]
        call_with_retries(
            lambda: self._scripts.run("submit", key, queue, args=arguments, confirm=True),
            on=QueueUnavailable,
            seconds=PATIENCE_SECONDS,
        )
        return key

    def read(self, key: str) -> dict[str, str]:
        """See `Submitter.read`."""
        fields: dict[str, str] = self._client.hgetall(packed(key))
        return fields


def next_chunk(children: Iterator[Child]) -> tuple[list[Child], bool]:
    """Return the children that come within a moment, and whether they were the last ones."""
    chunk, ends = [], time.monotonic() + CHUNK_SECONDS
    for child in children:
        chunk.append(child)
        if len(chunk) == CHILDREN_AT_A_TIME or time.monotonic() > ends:
            return chunk, False
    return chunk, True


def hashes(client: RedisClient, keys: Iterable[str]) -> list[dict[str, str]]:
    """Return the fields of each job, in one exchange; empty where there is no such hash."""
    with client.translated() as master, master.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hgetall(packed(key))
        found: list[dict[str, str]] = pipe.execute()
    return found


def flat(fields: Mapping[str, str]) -> list[str]:
    """Return names and values by turns, as a script takes them."""
    return [item for pair in fields.items() for item in pair]
