"""The ports of the job queue.  Each docstring is the contract; `redis_consumer.testing.queues` examines it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from numbers import Real
from typing import TYPE_CHECKING, Protocol

from redis_consumer.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from redis_consumer.job import Job, Status

FieldValue = str | int | float
"""What a hash field takes.  Written as text; numbers by `str`."""


def texts(fields: Mapping[str, FieldValue]) -> dict[str, str]:
    """Return the fields as they are written; TypeError for a value that is neither text nor a number."""
    for name, value in fields.items():
        if not isinstance(value, (str, Real)):
            raise TypeError(f"field {name!r} is {value!r}; allowed are text and numbers")
    return {name: str(value) for name, value in fields.items()}


class Place(StrEnum):
    """Where a released job goes."""

    FRONT = "front"
    """Next in line, not counted as a delivery: a worker that stops hands back what it could not finish."""
    BACK = "back"
    """Last in line, counted."""
    LATER = "later"
    """Aside for some seconds, then next in line, counted: the world failed the job.  Others see it all the time."""
    WAITING = "waiting"
    """Aside until its children are final, or for some seconds if it has none; not counted, its status as it is."""


ENDINGS = {Place.FRONT: "handed back", Place.WAITING: "waits"}
"""How a delivery ended that nothing failed, in the history of the job."""
NO_FAILURE = Failure("Failed", "The consumer gave no reason")
"""Of a consumer that returns `failed` without raising anything."""


@dataclass(frozen=True, slots=True)
class Child:
    """A job that its parent submits."""

    queue: str
    name: str
    """What the user calls it; part of its key."""
    fields: Mapping[str, FieldValue]


class JobQueue(Protocol):
    """A lane's view of one queue.  One lane, one thread, one job at a time; `heartbeat` from another thread."""

    def claim(self, *, timeout: float) -> Job | None:
        """Return the next job, now ours alone, with status `started`; None after `timeout` seconds, or when woken.

        Entries whose hash is missing or final, and second entries of a job that is already held, are dropped.
        A job that was delivered too often is made `failed` and not returned.  QueueUnavailable may be raised;
        then call again, and nothing is lost.
        """

    def update(self, job: Job, fields: Mapping[str, FieldValue]) -> None:
        """Write `fields`, with `updated_at` and `updated_by`, into the hash of a job that we hold; else LeaseLost.

        A final `status` is not written: its fields are kept and written by `settle`, in one step.
        """

    def announce(self, job: Job, fields: Mapping[str, FieldValue]) -> None:
        """Write as `update` does, but perhaps leave the answer to the next call about the job.

        That raises what `update` would have raised, LeaseLost above all, and writes after it.
        """

    def settle(self, job: Job, status: str, fields: Mapping[str, FieldValue], failure: Failure | None = None) -> None:
        """Make the job final: the kept fields, `fields` and the status in one write, the entry removed.

        Fields kept by `update` win over `fields`.  LeaseLost, with nothing written, if the job is not ours.
        A `done` job gets `finished_at`, `total_time` (seconds since the claim) and `total_jobs` where they are
        missing; a `failed` one a `reason`, without blank lines at its end, and a dead letter with the `failure`, in
        the same step.  A parent that waits has its `progress` written (percent of its children that are final, or as
        much of the field `children_share`), and is woken with the last one.  May come from another thread than `claim`.

        QueueUnavailable after several tries: it may or may not be written.  Then call it again, or go on: the next
        `claim`, or `close`, asks again first.  A repeated settle counts once.
        """

    def release(self, job: Job, to: Place, *, seconds: float = 0.0, failure: Failure | None = None) -> Status:
        """Give the job back with status `new`; LeaseLost, with nothing written, if it is not ours.

        `seconds` are for a place that is left by itself; `failure` says why, for the history of the job.  Returns
        the status that the job has now: a delivery that counts and was the last one ends it, as `failed`.
        QueueUnavailable as in `settle`, and as safe to repeat.  May come from another thread than `claim`.
        """

    def submit_children(self, parent: Job, children: Iterable[Child]) -> list[str]:
        """Submit the children of a job that we hold, in their order, and return all their keys.

        Once for each parent, whatever happens: who claims the parent after a death submits those that are missing,
        and gets the keys of those that are there.  So `children` must come in the same order each time.  It is read
        as it is submitted, and may be a generator.  A child whose fields have a final `status` is not queued, and
        nobody waits for it.  LeaseLost if the parent is not ours.
        """

    def children(self, parent: Job) -> Iterator[tuple[str, dict[str, str]]]:
        """Give key and fields of each child in the order of submission; no fields for one that vanished."""

    def heartbeat(self, job: Job) -> None:
        """Renew the lease and `updated_at`; LeaseLost if the job is not ours.  Never takes a lost lease again."""

    def wake(self) -> None:
        """Make a `claim` that blocks in another thread return soon; without one, the next that would block."""

    def close(self) -> None:
        """Hand back every entry that this lane moved to itself and does not hold.  Claim no more after it."""


class Sweeper(Protocol):
    """Who brings back what dead lanes left.  Anyone may sweep, at any time, in any number."""

    def sweep(self) -> int:
        """Put jobs back into their queues whose lease ran out, or that a lane moved and never claimed.

        Returns how many.  Swept at least every half lease period, a job is back within two.
        """


class Submitter(Protocol):
    """The way in: what the Kiosk's frontend does."""

    def submit(self, queue: str, name: str, fields: Mapping[str, FieldValue]) -> str:
        """Write a new job hash and push it, in one step; return the key ``<queue>:<name>:<uuid4>``.

        `status`, `created_at`, `updated_at` and `identity_upload` are added where they are missing.
        """

    def read(self, key: str) -> dict[str, str]:
        """Return the fields of a job; empty if there is no such hash."""
