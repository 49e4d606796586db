"""Turns the steps of an append-only file into what happened to each job.  Believes no worker: these are the writes.

It knows the key space of `src/redis_consumer/queues/scripts/prelude.lua`, and no script.  The moves of entries
carry no job's name, so the lists are kept as the server kept them.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.chaos.aof import Command, Log, Step

RECORD = "redis-consumer:job:"
LEASES = "redis-consumer:leases"
OURS = "redis-consumer:"
FINAL = ("done", "failed")


class Kind(StrEnum):
    """What happened to a job."""

    MOVED = "moved"
    """Its entry went from the queue into a lane's list; `pod` is the lane's."""
    CLAIMED = "claimed"
    """A new token was written; `pod` is that of the list on record."""
    RENEWED = "renewed"
    """The lease was prolonged by `pod`."""
    WROTE = "wrote"
    """Fields of the job's hash were written by `pod`; nothing else."""
    SETTLED = "settled"
    """The hash became final, under the token `token`."""
    ENDED = "ended"
    """The hash became final without a token: given out too often, or cancelled."""
    RELEASED = "released"
    """The token was taken back by `pod`, who handed the job on; or by nobody (""), the sweep."""
    QUEUED = "queued"
    """The entry was pushed: by a submit, or by the sweep where nobody held the job."""
    VANISHED = "vanished"
    """The hash was deleted, or ran out."""
    LOADED = "loaded"
    """Nothing happened: the log begins with this."""


@dataclass(frozen=True)
class Event:
    """One step, as far as it is about one job."""

    at: float
    """Seconds since the epoch, by the server's clock: exact where a script wrote its time, else whole seconds."""
    kind: Kind
    job: str
    pod: str = ""
    token: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        told = {name: text for name, text in self.fields.items() if name in SHOWN}
        words = [f"{self.at:.3f}", self.kind, self.pod, self.token[:8], " ".join(f"{k}={v}" for k, v in told.items())]
        return "  ".join(word for word in words if word)


SHOWN = ("status", "reason", "output_file_name", "deliveries", "updated_by")


def events(log: Log, queue: str) -> list[Event]:
    """Return what happened to the jobs of `queue`, in order."""
    reader = _Reader(queue)
    loaded = [replace(event, kind=Kind.LOADED) for step in log.base for event in reader.read(step)]
    return loaded + [event for step in log.steps for event in reader.read(step)]


def by_job(found: Iterable[Event]) -> dict[str, list[Event]]:
    """Return the events of each job, in the order in which they came."""
    stories: dict[str, list[Event]] = {}
    for event in found:
        stories.setdefault(event.job, []).append(event)
    return stories


def pod_of(name: str) -> str:
    """Return the pod of a processing list: what follows the last colon."""
    return name.rpartition(":")[2]


@dataclass
class _Writes:
    """What one step wrote about one job."""

    fields: dict[str, str] = field(default_factory=dict)
    record: dict[str, str] = field(default_factory=dict)
    voided: bool = False
    leased: bool = False
    pushed: bool = False
    vanished: bool = False
    moved_to: str = ""


class _Reader:
    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._lists: dict[str, deque[str]] = {}
        self._now = 0.0

    def read(self, step: Step) -> list[Event]:
        written: dict[str, _Writes] = {}
        for command in step:
            self._now = max(self._now, command.at)
            self._apply(command, written)
        for writes in written.values():
            self._now = max(self._now, _time_of(writes))
        return [self._event(job, writes) for job, writes in written.items() if writes != _Writes()]

    def _apply(self, command: Command, written: dict[str, _Writes]) -> None:
        name, *words = command.words
        match name:
            case "HSET" | "HMSET":
                self._note_fields(words, written)
            case "HDEL" if words[0].startswith(RECORD) and "token" in words[1:]:
                _writes(written, words[0].removeprefix(RECORD)).voided = True
            case "ZADD" if words[0] == LEASES:
                _writes(written, words[-1]).leased = True
            case "DEL" | "UNLINK":
                for key in words:
                    self._lists.pop(key, None)
                    if self._is_job(key):
                        _writes(written, key).vanished = True
            case "LPUSH" | "RPUSH" | "LREM" | "LMOVE" | "RPOPLPUSH" if not words[0].startswith(OURS):
                self._apply_to_list(name, words, written)

    def _note_fields(self, words: list[str], written: dict[str, _Writes]) -> None:
        key, fields = words[0], dict(zip(words[1::2], words[2::2], strict=True))
        if key.startswith(RECORD):
            _writes(written, key.removeprefix(RECORD)).record |= fields
        elif self._is_job(key):
            _writes(written, key).fields |= fields

    def _apply_to_list(self, name: str, words: list[str], written: dict[str, _Writes]) -> None:
        entries = self._lists.setdefault(words[0], deque())
        match name:
            case "LPUSH" | "RPUSH":
                for job in words[1:]:
                    (entries.appendleft if name == "LPUSH" else entries.append)(job)
                    _writes(written, job).pushed = True
            case "LREM":
                self._lists[words[0]] = deque(removed(list(entries), int(words[1]), words[2]))
            case _ if entries:
                ends = (words[2].upper(), words[3].upper()) if name == "LMOVE" else ("RIGHT", "LEFT")
                job = entries.pop() if ends[0] == "RIGHT" else entries.popleft()
                target = self._lists.setdefault(words[1], deque())
                (target.appendleft if ends[1] == "LEFT" else target.append)(job)
                _writes(written, job).moved_to = words[1]

    def _event(self, job: str, writes: _Writes) -> Event:
        kind, pod, token = _judge(writes)
        return Event(self._now, kind, job, pod, token, {**writes.record, **writes.fields})

    def _is_job(self, key: str) -> bool:
        return key.startswith(f"{self._queue}:")


def _judge(writes: _Writes) -> tuple[Kind, str, str]:
    """Return what a step was, by whom and under which token; the strongest of its writes decides."""
    record, writer = writes.record, writes.fields.get("updated_by", "")
    if "token" in record and "list" in record:
        return Kind.CLAIMED, pod_of(record["list"]), record["token"]
    if writes.fields.get("status") in FINAL:
        return (Kind.SETTLED if "settled" in record else Kind.ENDED), writer, record.get("settled", "")
    if writes.moved_to:
        return Kind.MOVED, pod_of(writes.moved_to), ""
    lesser = (
        (writes.voided, Kind.RELEASED),
        (writes.leased, Kind.RENEWED),
        (writes.vanished, Kind.VANISHED),
        (writes.pushed, Kind.QUEUED),
        (bool(writes.fields), Kind.WROTE),
        (True, Kind.QUEUED),
    )
    return next(kind for is_so, kind in lesser if is_so), writer, ""


def _writes(written: dict[str, _Writes], job: str) -> _Writes:
    return written.setdefault(job, _Writes())


def _time_of(writes: _Writes) -> float:
    if "claimed" in writes.record:
        return float(writes.record["claimed"]) / 1000
    stamp = writes.fields.get("updated_at", "")
    if not stamp or not writes.fields.get("updated_by"):  # a frontend's clock is not the server's
        return 0.0
    return dt.datetime.fromisoformat(stamp).timestamp()


def removed(entries: Sequence[str], count: int, job: str) -> list[str]:
    """Return the entries after ``LREM list count job``: all for 0, else so many from the left, or the right below 0."""
    order = [index for index, entry in enumerate(entries) if entry == job]
    gone = set(order[-1::-1][:-count] if count < 0 else order[: count or None])
    return [entry for index, entry in enumerate(entries) if index not in gone]
