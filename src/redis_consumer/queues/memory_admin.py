"""Operating the queues in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis_consumer.errors import Failure
from redis_consumer.job import Status
from redis_consumer.queues.admin import DeadLetter, JobState, LaneState, QueueState
from redis_consumer.queues.base import Place
from redis_consumer.queues.depth import age_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis_consumer.queues.broker import MemoryBroker


class MemoryJobAdmin:
    """A `JobAdmin` of one broker.  Its lanes are those that hold a job: nobody registers here."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def lanes(self) -> list[LaneState]:
        """See `JobAdmin.lanes`."""
        with self._broker.changed:
            held = [(key, record) for key, record in self._broker.records.items() if record.token]
            states = [
                LaneState(
                    record.pod,
                    "",
                    record.queue,
                    self._broker.clock(),
                    key,
                    self._broker.jobs[key].get("status", ""),
                    record.since,
                    record.deliveries,
                )
                for key, record in held
            ]
        return sorted(states, key=lambda state: (state.queue, state.pod))

    def queues(self) -> list[QueueState]:
        """See `JobAdmin.queues`."""
        with self._broker.changed:
            names = {record.queue for record in self._broker.records.values()}
            return [self._queue(name) for name in sorted(names)]

    def find(self, queues: Sequence[str], place: str, *, limit: int) -> list[JobState]:
        """See `JobAdmin.find`."""
        with self._broker.changed:
            return [
                JobState(key, queue, place, self._fields(key, place))
                for queue in queues
                for key in self._standing(queue, place)[:limit]
            ]

    def cancel(self, key: str, *, by: str) -> list[str]:
        """See `JobAdmin.cancel`."""
        with self._broker.changed:
            cancelled = [job for job in self._family(key) if self._broker.is_open(job)]
            for job in cancelled:
                reason = f"Cancelled by {by}"
                self._broker.finish(job, Status.FAILED, {"reason": reason}, by, Failure("Cancelled", reason))
        return cancelled

    def requeue(self, key: str, *, by: str) -> str:
        """See `JobAdmin.requeue`."""
        with self._broker.changed:
            if not self._broker.is_open(key):
                return "final" if key in self._broker.jobs else "missing"
            record = self._broker.records[key]
            self._broker.end_delivery(key, f"requeued by {by}")
            record.token, record.due, record.deliveries = "", None, 0
            self._broker.write(key, {"status": Status.NEW}, by)
            self._broker.push(key, Place.FRONT)
        return "requeued"

    def dead_letters(self) -> Iterator[DeadLetter]:
        """See `JobAdmin.dead_letters`."""
        with self._broker.changed:
            letters = list(self._broker.dead.values())
        yield from letters

    def dead_letter(self, key: str) -> DeadLetter | None:
        """See `JobAdmin.dead_letter`."""
        return self._broker.dead.get(key)

    def replay(self, key: str, *, by: str) -> str:
        """See `JobAdmin.replay`."""
        with self._broker.changed:
            if key not in self._broker.dead:
                return "unknown"
            if self._broker.jobs.get(key, {"status": Status.FAILED})["status"] != Status.FAILED:
                return "not failed"
            letter = self._broker.dead.pop(key)
            self._broker.revive(letter, by)
        return "replayed"

    def purge(self, keys: Sequence[str]) -> int:
        """See `JobAdmin.purge`."""
        with self._broker.changed:
            return sum(self._broker.dead.pop(key, None) is not None for key in keys)

    def _family(self, key: str) -> Iterator[str]:
        yield key
        if record := self._broker.records.get(key):
            for child in record.children:
                yield from self._family(child)

    def _fields(self, key: str, place: str) -> dict[str, str]:
        if key not in self._broker.jobs and place == "failed":
            return dict(self._broker.dead[key].fields)
        return dict(self._broker.jobs.get(key, {}))

    def _queue(self, name: str) -> QueueState:
        entries = self._broker.queues[name]
        oldest = self._broker.jobs.get(entries[-1], {}).get("created_at", "") if entries else ""
        places = {place: len(self._standing(name, place)) for place in ("running", "parked", "failed")}
        return QueueState(
            name, len(entries), places["running"], places["parked"], places["failed"], age_seconds(oldest)
        )

    def _standing(self, queue: str, place: str) -> list[str]:
        records = [(key, record) for key, record in self._broker.records.items() if record.queue == queue]
        match place:
            case "waiting":
                return list(reversed(self._broker.queues[queue]))
            case "running":
                return [key for key, record in records if record.token]
            case "parked":
                return [key for key, record in records if record.due is not None]
        letters = [letter for letter in self._broker.dead.values() if letter.queue == queue]
        return [letter.key for letter in sorted(letters, key=lambda letter: letter.died_at, reverse=True)]
