"""Those who submit and those who look: threads that stand for the Kiosk's frontend and for our own Submitter."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import redis
from tests.acceptance.bench import job_hash, tiff
from tests.chaos.ledger import QUEUE, Entry, Sight, frames_of, name_of, picture

from redis_consumer.errors import ConsumerError
from redis_consumer.queues.redis import RedisSubmitter
from redis_consumer.redis import RedisClient
from redis_consumer.testing.servers import HOST

if TYPE_CHECKING:
    from random import Random

    from obstore.store import S3Store
    from tests.chaos.ledger import Ledger
    from tests.chaos.servers import Site

LOOK_SECONDS = 0.05
AGAIN_SECONDS = 30.0
"""How long an ended job is still looked at while jobs run; all are looked at in the end."""
PAUSE_SECONDS = 0.1
"""After an error."""
WAIT_MILLISECONDS = 2000
SUBMITTED_SHARE, FAILING_SHARE = 1 / 3, 0.03
_FOR_NOW = (redis.RedisError, OSError)


class Background(threading.Thread):
    """A thread that does its step again and again until it is stopped; Redis may be away."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.bug: BaseException | None = None
        """What ended it before its time."""
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Step until `stop`."""
        try:
            while not self._stop_asked.is_set():
                try:
                    self.step()
                except _FOR_NOW:
                    time.sleep(PAUSE_SECONDS)
        except BaseException as error:  # noqa: BLE001 - shown by whoever stops it
            self.bug = error

    def step(self) -> None:
        """Do one thing."""
        raise NotImplementedError

    def stop(self) -> None:
        """End it, and raise what ended it earlier."""
        self._stop_asked.set()
        self.join(60)
        if self.bug:
            raise self.bug


class Poller(Background):
    """Reads status, output_url and reason of all open jobs from the master, again and again, as the frontend does."""

    def __init__(self, site: Site, ledger: Ledger) -> None:
        super().__init__("poller")
        self._redis = site.connect()
        self._ledger = ledger
        self._ended: deque[tuple[float, str]] = deque()
        self._again_at = 0.0

    def step(self) -> None:
        """Look at every open job, and now and then at those that ended."""
        before = set(self._ledger.open_jobs())
        self.look(before)
        now = time.monotonic()
        self._ended.extend((now, key) for key in before - set(self._ledger.open_jobs()))
        while self._ended and self._ended[0][0] < now - AGAIN_SECONDS:
            self._ended.popleft()
        if now >= self._again_at:
            self._again_at = now + 10 * LOOK_SECONDS
            self.look({key for _, key in self._ended})
        time.sleep(LOOK_SECONDS)

    def look(self, keys: set[str]) -> None:
        """Read these jobs once."""
        order = list(keys)
        with self._redis.pipeline(transaction=False) as pipe:
            for key in order:
                pipe.hmget(key, "status", "output_url", "reason")
            for key, values in zip(order, pipe.execute(), strict=True):
                self._ledger.see(key, Sight(*(value or "" for value in values)))


class Load(Background):
    """Submits jobs whenever fewer than `backlog` are open: two of three as the frontend, one by our Submitter."""

    def __init__(self, site: Site, store: S3Store, ledger: Ledger, rng: Random, *, first: int, backlog: int) -> None:
        super().__init__("load")
        self._replicas = site.replicas
        self._redis: Any = site.connect()
        client = RedisClient(HOST, site.port(), 1, timeout_seconds=2)
        self._submitter = RedisSubmitter(client, host="submitter", wait_replicas=site.replicas)
        self._store = store
        self._ledger = ledger
        self._rng = rng
        self._backlog = backlog
        self.number = first
        """Of the next job."""
        self.paused = threading.Event()

    def step(self) -> None:
        """Submit one job, or wait."""
        if self.paused.is_set() or len(self._ledger.open_jobs()) >= self._backlog:
            time.sleep(LOOK_SECONDS / 5)
            return
        number, self.number = self.number, self.number + 1
        fails = self._rng.random() < FAILING_SHARE
        through_us = self._rng.random() < SUBMITTED_SHARE
        source = f"uploads/{number}/{name_of(number)}"
        if not fails:
            self._store.put(source, tiff(picture(number)))
        fields = fields_of(number)
        if through_us:
            self._submit(number, source, fields, fails=fails)
        else:
            self._push(number, source, fields, fails=fails)

    def _push(self, number: int, source: str, fields: dict[str, str], *, fails: bool) -> None:
        """Do what the frontend does; a job is acknowledged when every command was answered."""
        key, values = job_hash(QUEUE, source, **fields)
        acknowledged = False
        try:
            with self._redis.pipeline(transaction=False) as pipe:  # WAIT is about the writes of its own connection
                pipe.execute_command("HMSET", key, *[word for pair in values.items() for word in pair])
                pipe.execute_command("LPUSH", QUEUE, key)
                if self._replicas:
                    pipe.wait(self._replicas, WAIT_MILLISECONDS)
                acknowledged = pipe.execute()[-1] >= 1
        finally:
            self._ledger.enter(Entry(key, number, time.time(), fails, acknowledged))

    def _submit(self, number: int, source: str, fields: dict[str, str], *, fails: bool) -> None:
        with suppress(ConsumerError):  # not acknowledged, and its key is not known
            key = self._submitter.submit(QUEUE, name_of(number), {**fields, "input_file_name": source})
            self._ledger.enter(Entry(key, number, time.time(), fails))


def fields_of(number: int) -> dict[str, str]:
    """Return the fields of a job that gives its image back."""
    return {
        "original_name": name_of(number),
        "preprocess_function": "none",
        "postprocess_function": "none",
        "dimension_order": "BXY" if frames_of(number) > 1 else "XY",
    }
