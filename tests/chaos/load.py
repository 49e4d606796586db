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
FAILING_SHARE = 0.03
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
                if values == [None, None, None]:
                    self._ledger.miss(key)
                else:
                    self._ledger.see(key, Sight(*(value or "" for value in values)))


class Pace:
    """When the next job may come: some a second, more when they are granted, never more than `backlog` open ones."""

    def __init__(self, ledger: Ledger, *, per_second: float, backlog: int, first: int) -> None:
        self._ledger = ledger
        self._per_second = per_second
        self._backlog = backlog
        self._granted = 0
        self._next_at = time.monotonic()
        self._lock = threading.Lock()
        self.number = first
        """Of the next job."""

    def grant(self, jobs: int) -> None:
        """Let so many jobs come as fast as they can be done."""
        self._granted = jobs

    def take(self) -> int | None:
        """Return the number of a job to submit now; None if there should be none."""
        with self._lock:
            now = time.monotonic()
            if len(self._ledger.hopeful()) >= self._backlog or (now < self._next_at and not self._granted):
                return None
            if self._granted:
                self._granted -= 1
            else:
                self._next_at = now + 1 / self._per_second
            self.number += 1
            return self.number - 1


class Load(Background):
    """Submits jobs at a pace.  Their images are there before them, but of those that must fail."""

    def __init__(self, name: str, pace: Pace, store: S3Store, ledger: Ledger, rng: Random) -> None:
        super().__init__(name)
        self._pace = pace
        self._store = store
        self._ledger = ledger
        self._rng = rng

    def step(self) -> None:
        """Submit one job, or wait."""
        number = self._pace.take()
        if number is None:
            time.sleep(LOOK_SECONDS / 10)
            return
        fails = self._rng.random() < FAILING_SHARE
        source = f"uploads/{number}/{name_of(number)}"
        if not fails:
            self._store.put(source, tiff(picture(number)))
        self.submit(number, source, fails=fails)

    def submit(self, number: int, source: str, *, fails: bool) -> None:
        """Bring the job to its queue, and enter it into the ledger."""
        raise NotImplementedError

    def enter(self, key: str, number: int, *, fails: bool, acknowledged: bool = True) -> None:
        """Note a job in the ledger."""
        self._ledger.enter(Entry(key, number, time.time(), fails, acknowledged))


class Frontend(Load):
    """Submits as the Kiosk's frontend does: HMSET, LPUSH.  A job is acknowledged when every command was answered."""

    def __init__(self, site: Site, pace: Pace, store: S3Store, ledger: Ledger, rng: Random) -> None:
        super().__init__("frontend", pace, store, ledger, rng)
        self._replicas = site.replicas
        self._redis: Any = site.connect()

    def submit(self, number: int, source: str, *, fails: bool) -> None:
        """Push the job; WAIT where replicas must know it, as an undone push is lost."""
        key, values = job_hash(QUEUE, source, **fields_of(number))
        acknowledged = False
        try:
            with self._redis.pipeline(transaction=False) as pipe:  # WAIT is about the writes of its own connection
                pipe.execute_command("HMSET", key, *[word for pair in values.items() for word in pair])
                pipe.execute_command("LPUSH", QUEUE, key)
                if self._replicas:
                    pipe.wait(self._replicas, WAIT_MILLISECONDS)
                acknowledged = pipe.execute()[-1] >= 1
        finally:
            self.enter(key, number, fails=fails, acknowledged=acknowledged)


class OurSubmitter(Load):
    """Submits through the program's own Submitter."""

    def __init__(self, site: Site, pace: Pace, store: S3Store, ledger: Ledger, rng: Random) -> None:
        super().__init__("submitter", pace, store, ledger, rng)
        client = RedisClient(HOST, site.port(), 1, timeout_seconds=2)
        self._submitter = RedisSubmitter(client, host="submitter", wait_replicas=site.replicas)

    def step(self) -> None:
        """Submit one job and let the frontend submit two."""
        super().step()
        time.sleep(self._rng.uniform(0, 4 * LOOK_SECONDS))

    def submit(self, number: int, source: str, *, fails: bool) -> None:
        """Submit the job; one that is not acknowledged may be there, under a key that nobody knows."""
        with suppress(ConsumerError):
            fields = {**fields_of(number), "input_file_name": source}
            key = self._submitter.submit(QUEUE, name_of(number), fields)
            self.enter(key, number, fails=fails)


def fields_of(number: int) -> dict[str, str]:
    """Return the fields of a job that gives its image back."""
    return {
        "original_name": name_of(number),
        "preprocess_function": "none",
        "postprocess_function": "none",
        "dimension_order": "BXY" if frames_of(number) > 1 else "XY",
    }
