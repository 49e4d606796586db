"""The port of whoever operates the queues, and what they see.  `redis_consumer.testing.admin` examines it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class LaneState:
    """What one lane does now."""

    pod: str
    lane: str
    queue: str
    seen_at: float
    """Its last sign of life, seconds since 1970."""
    job: str = ""
    status: str = ""
    since: float = 0.0
    """When the job took this status, seconds since 1970."""
    deliveries: int = 0


@dataclass(frozen=True, slots=True)
class QueueState:
    """How much stands where in one queue."""

    queue: str
    waiting: int
    running: int
    parked: int
    """Delayed retries, and parents that wait for their children."""
    dead: int
    oldest_seconds: float
    """Age of the job that is next; 0 where nothing waits or its age is not known."""


@dataclass(frozen=True, slots=True)
class JobState:
    """One job, and where it stands."""

    key: str
    queue: str
    place: str
    """`waiting`, `running`, `parked` or `failed`."""
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One claim of a job, as its history tells it."""

    at: str
    by: str
    """The pod."""
    version: str = ""
    ended_at: str = ""
    how: str = ""
    """How it ended; blank if nobody knows."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that failed, with all that is known of it.  No secrets."""

    key: str
    queue: str
    died_at: str
    error: str
    """The class of the error."""
    reason: str
    traceback: str
    deliveries: Sequence[Delivery]
    fields: Mapping[str, str]
    """The job's hash as it was."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self) | {"deliveries": [asdict(one) for one in self.deliveries]}


class JobAdmin(Protocol):
    """What an operator does to jobs.  Every change is one step, whatever the workers do meanwhile."""

    def lanes(self) -> list[LaneState]:
        """Return the lanes that gave a sign of life lately, or hold a job; by queue and pod."""

    def queues(self) -> list[QueueState]:
        """Return the queues that somebody serves or served lately, by name."""

    def find(self, queues: Sequence[str], place: str, *, limit: int) -> list[JobState]:
        """Return at most `limit` jobs of each queue that stand at `place`, queue by queue.

        Waiting jobs come in the order in which they are given out, failed ones with the latest first.  A failed job
        whose hash is gone has the fields of its dead letter.
        """

    def cancel(self, key: str, *, by: str) -> list[str]:
        """Make an open job `failed`, and its children and theirs; return the keys of all that were open, parents first.

        Whoever works on them learns of it at the next heartbeat and writes nothing more.
        """

    def requeue(self, key: str, *, by: str) -> str:
        """Put an open job to the front of its queue, its deliveries forgotten, wherever it stands.

        Returns `requeued`, `final` or `missing`.
        """

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Give every dead letter, in no order."""

    def dead_letter(self, key: str) -> DeadLetter | None:
        """Return one; None if there is none."""

    def replay(self, key: str, *, by: str) -> str:
        """Put a dead job back into its queue under its name, also when its hash expired.

        A parent that is open still waits for it again.  Returns `replayed`, `unknown` (no such dead letter) or
        `not failed` (somebody did it already).
        """

    def purge(self, keys: Sequence[str]) -> int:
        """Forget dead letters; the jobs' hashes stay.  Returns how many there were."""
