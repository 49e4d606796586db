"""How long jobs were without a living holder after a fault, from the servers' own logs.

A fault *hits* the jobs that one of its workers (any worker, for a fault that hits all) held or had just moved to
itself at some time between its begin and the moment from which recovery counts.  That moment is the kill, the stop or
the parting itself where a worker is lost, else the end of the outage; of two faults at once, the later one's.

A job *is back* at the first of these after that moment: it is claimed, its lease is renewed by its holder, it is
final.  The recovery time of the fault is that of its last job; a fault that hit none has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.chaos.history import FINAL, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tests.chaos.blows import Blow
    from tests.chaos.history import Event

ALIVE = (Kind.CLAIMED, Kind.RENEWED, Kind.SETTLED, Kind.ENDED)


@dataclass(frozen=True)
class Hold:
    """A time in which a pod held a job, or had its entry."""

    job: str
    pod: str
    since: float
    until: float


def holds(stories: Mapping[str, Sequence[Event]]) -> list[Hold]:
    """Return every hold in every job's story; one that never ended lasts for ever."""
    return [hold for job, story in stories.items() for hold in _holds_of(job, story)]


def _holds_of(job: str, story: Iterable[Event]) -> Iterator[Hold]:
    pod, since = "", 0.0
    for event in story:
        begins = event.kind in (Kind.MOVED, Kind.CLAIMED)
        ends = event.kind in (Kind.SETTLED, Kind.ENDED, Kind.RELEASED, Kind.QUEUED, Kind.VANISHED)
        if pod and (ends or (begins and event.pod != pod)):
            yield Hold(job, pod, since, event.at)
            pod = ""
        if begins and not pod:
            pod, since = event.pod, event.at
    if pod:
        yield Hold(job, pod, since, float("inf"))


def hit(blow: Blow, every: Iterable[Hold]) -> set[str]:
    """Return the jobs that a fault hits."""
    return {
        hold.job
        for hold in every
        if hold.since <= blow.over and hold.until >= blow.began and (blow.pods is None or hold.pod in blow.pods)
    }


def recovery(blow: Blow, jobs: Iterable[str], stories: Mapping[str, Sequence[Event]]) -> float | None:
    """Return the seconds until the last of these jobs is back; None without one, infinity if one never is."""
    return max((_back(stories[job], blow.over) - blow.over for job in jobs), default=None)


def _back(story: Sequence[Event], moment: float) -> float:
    for event in story:
        if event.fields.get("status") in FINAL and event.at < moment:
            return moment
        if event.at >= moment and event.kind in ALIVE:
            return event.at
    return float("inf")


def lives(stories: Mapping[str, Sequence[Event]]) -> dict[str, tuple[float, float]]:
    """Return when each job was seen first and when it became final (infinity: never).

    A server does not note the time in its first second.
    """
    return {job: (next((event.at for event in story if event.at), 0.0), _end(story)) for job, story in stories.items()}


def _end(story: Sequence[Event]) -> float:
    return next((event.at for event in story if event.fields.get("status") in FINAL), float("inf"))
