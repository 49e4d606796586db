"""The book of all jobs: what was submitted and acknowledged, and what a user saw at each end.  Knows no Redis."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from redis_consumer.arrays import AnyArray

QUEUE = "chaos"
SIDE = 64
"""Pixels along each axis of an image."""
MANY_FRAMES = 4
NUMBER = re.compile(r"job-(\d+)\.tif")


class Sight(NamedTuple):
    """What a poller read at the end of a job."""

    status: str
    output_url: str
    reason: str


@dataclass(frozen=True)
class Entry:
    """One job that was submitted."""

    key: str
    number: int
    at: float
    """When the submit was acknowledged, seconds since the epoch."""
    fails: bool = False
    """Whether it must fail: its image does not exist."""
    acknowledged: bool = True
    """Whether the one who submitted it may rely on it."""


class Ledger:
    """Shared by those who submit and those who look.  Safe for several threads."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.sights: dict[str, list[Sight]] = {}
        """Every different end that was seen, by job, in the order of seeing."""
        self.moved_at = time.monotonic()
        """When something was seen to end last."""
        self._open: set[str] = set()
        self._missing: set[str] = set()
        self._lock = threading.Lock()

    def enter(self, entry: Entry) -> None:
        """Note a new job."""
        with self._lock:
            self.entries[entry.key] = entry
            if entry.acknowledged:
                self._open.add(entry.key)

    def open_jobs(self) -> list[str]:
        """Return the acknowledged jobs of which no end was seen."""
        with self._lock:
            return list(self._open)

    def hopeful(self) -> set[str]:
        """Return the open jobs that may still end: one whose hash is gone will not."""
        with self._lock:
            return self._open - self._missing

    def miss(self, key: str) -> None:
        """Note that a job's hash is not there."""
        with self._lock:
            self._missing.add(key)

    def see(self, key: str, sight: Sight) -> None:
        """Note what a job looks like; only ends are kept, each once."""
        with self._lock:
            self._missing.discard(key)
            if sight.status not in ("done", "failed"):
                return
            seen = self.sights.setdefault(key, [])
            if sight not in seen:
                seen.append(sight)
                self.moved_at = time.monotonic()
            self._open.discard(key)


def name_of(number: int) -> str:
    """Return the file name of a job's image."""
    return f"job-{number:06d}.tif"


def number_of(key: str) -> int:
    """Return the number in a job's key; -1 if it is none of ours."""
    found = NUMBER.search(key)
    return int(found[1]) if found else -1


def frames_of(number: int) -> int:
    """Return how many frames a job's image has: every eighth is a short movie, sent as one batch."""
    return MANY_FRAMES if number % 8 == 0 else 1


def picture(number: int) -> AnyArray:
    """Return a job's image, uint16 (Y, X) or (T, Y, X): unlike that of any other of 65,536 jobs."""
    frames = frames_of(number)
    values = np.arange(frames * SIDE * SIDE, dtype=np.uint32) + number * 31
    image = values.astype(np.uint16).reshape(frames, SIDE, SIDE)
    return image if frames > 1 else image[0]
