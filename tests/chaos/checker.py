"""The invariants, checked against what servers wrote and a poller saw; no worker is believed.

Evidence in, violations out: no process is started here, and nothing is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from tests.chaos.history import FINAL, Event, Kind, by_job
from tests.chaos.ledger import QUEUE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tests.chaos.ledger import Entry, Sight

MISSING = "is not in the bucket"
"""How the reason of a job reads whose image does not exist."""
RECORD_BYTES = 8192
"""A job leaves so much in Redis at most, of ours, until it runs out."""
SHARED_BYTES = 1 << 16
"""What is ours beside that: who ever had a list."""


class Rule(StrEnum):
    """What must not happen."""

    LOST = "lost"
    """A job whose submit was acknowledged is not final at the end, or gone."""
    TWICE = "written twice"
    """A poller saw two different results."""
    GHOST = "ghost accepted"
    """Something was written by who did not hold the job, or a result that was never uploaded was accepted."""
    WRONG = "failed wrongly"
    """A good job failed, a bad one did not, or the result is not that of the job's image."""
    STOLEN = "stolen"
    """A job was claimed while another pod's lease on it ran."""
    COUNTED = "counted"
    """A delivery was counted though nothing cost a run."""
    LEFT = "left behind"
    """Something stands in Redis that nobody needs any more, or that the rest of the Kiosk stumbles over."""
    UNCLEAN = "unclean end"
    """A worker did not end as it should, or at all."""


@dataclass(frozen=True)
class Violation:
    """One broken invariant."""

    rule: Rule
    job: str
    text: str


@dataclass(frozen=True)
class Evidence:
    """Everything that is known about one site, after it stopped."""

    entries: Mapping[str, Entry]
    sights: Mapping[str, Sequence[Sight]]
    histories: Sequence[Sequence[Event]]
    """What each server that was master wrote, each in its own order."""
    final: Mapping[str, Mapping[str, str]]
    """The job hashes at the end."""
    uploads: frozenset[str]
    wrong_results: Mapping[str, str] = field(default_factory=dict)
    """Jobs whose zip does not hold their own image, and what is wrong."""
    keys: Mapping[str, Key] = field(default_factory=dict)
    """Every key that is no job, at the end."""
    lease_seconds: float = 2.0


@dataclass(frozen=True)
class Key:
    """A key of Redis at the end: its type, its length, its bytes, and its seconds to live (-1: for ever)."""

    kind: str
    length: int = 0
    size: int = 0
    ttl: int = -1


def violations(evidence: Evidence) -> list[Violation]:
    """Return every broken invariant."""
    found = [
        *lost(evidence),
        *written_twice(evidence),
        *ghosts(evidence),
        *stolen(evidence),
        *failed_wrongly(evidence),
        *left_behind(evidence),
    ]
    return list(dict.fromkeys(found))


def lost(evidence: Evidence) -> Iterator[Violation]:
    """Yield acknowledged jobs that are not final."""
    for key, entry in evidence.entries.items():
        status = evidence.final.get(key, {}).get("status")
        if entry.acknowledged and status not in FINAL:
            yield Violation(Rule.LOST, key, f"its status is {status}" if status else "its hash is gone")


def written_twice(evidence: Evidence) -> Iterator[Violation]:
    """Yield jobs with two ends; the final hash counts as seen."""
    for key, sights in evidence.sights.items():
        if len(set(sights)) > 1:
            yield Violation(Rule.TWICE, key, f"seen were {', then '.join(map(str, sights))}")


def ghosts(evidence: Evidence) -> Iterator[Violation]:
    """Yield writes without the right to them, in each history by itself, and results that nobody uploaded."""
    for history in evidence.histories:
        for job, story in by_job(history).items():
            yield from _ghosts_of(job, story, evidence.uploads)


def _ghosts_of(job: str, story: Iterable[Event], uploads: frozenset[str]) -> Iterator[Violation]:
    token, pod, is_final, seen_claim = "", "", False, False
    for event in story:
        ours = event.kind in (Kind.WROTE, Kind.RENEWED, Kind.SETTLED, Kind.RELEASED, Kind.CLAIMED, Kind.ENDED)
        if is_final and ours and event.fields.get("updated_by"):
            yield Violation(Rule.GHOST, job, f"written after it was final: {event}")
        match event.kind:
            case Kind.CLAIMED | Kind.LOADED if event.token:
                token, pod, seen_claim = event.token, event.pod, True
            case Kind.SETTLED | Kind.RENEWED | Kind.WROTE | Kind.RELEASED if seen_claim:
                yield from _judge(job, event, token, pod)
        if event.kind in (Kind.RELEASED, Kind.SETTLED, Kind.ENDED):
            token = pod = ""
        if event.fields.get("status") in FINAL:
            is_final = True
            output = event.fields.get("output_file_name")
            if output and output not in uploads:
                yield Violation(Rule.GHOST, job, f"its result {output} was never uploaded: {event}")


def _judge(job: str, event: Event, token: str, pod: str) -> Iterator[Violation]:
    """Yield what a holder alone may do, done by somebody else.  Who wrote nothing into the hash is the sweep."""
    writer = event.fields.get("updated_by", "")
    if event.kind is Kind.SETTLED and event.token != token:
        yield Violation(Rule.GHOST, job, f"settled under a token that is void: {event}")
    elif writer and writer != pod:
        yield Violation(Rule.GHOST, job, f"written by {writer}, while {pod or 'nobody'} held it: {event}")


def stolen(evidence: Evidence) -> Iterator[Violation]:
    """Yield claims of jobs that another pod held: its lease had not run out, and it had not let go."""
    for history in evidence.histories:
        for job, story in by_job(history).items():
            holder, until = "", 0.0
            for event in story:
                if event.kind is Kind.CLAIMED and event.pod != holder and event.at < until:
                    yield Violation(Rule.STOLEN, job, f"{holder} had it for {until - event.at:.3f} s more: {event}")
                if event.kind in (Kind.CLAIMED, Kind.RENEWED):
                    holder, until = event.pod, event.at + evidence.lease_seconds
                elif event.kind in (Kind.RELEASED, Kind.SETTLED, Kind.ENDED):
                    until = 0.0


def failed_wrongly(evidence: Evidence) -> Iterator[Violation]:
    """Yield jobs whose end is not the right one."""
    for key, fields in evidence.final.items():
        entry = evidence.entries.get(key)
        status, reason = fields.get("status"), fields.get("reason", "")
        if entry is None or status not in FINAL:
            continue
        if entry.fails and (status != "failed" or MISSING not in reason):
            yield Violation(Rule.WRONG, key, f"its image does not exist, and it is {status}: {reason}")
        elif not entry.fails and status == "failed":
            yield Violation(Rule.WRONG, key, reason)
    for key, sights in evidence.sights.items():
        for sight in sights:
            if not (sight.output_url if sight.status == "done" else sight.reason):
                yield Violation(Rule.WRONG, key, f"seen was {sight}: it does not say all that a page shows")
    for key, what in evidence.wrong_results.items():
        yield Violation(Rule.WRONG, key, what)


def left_behind(evidence: Evidence) -> Iterator[Violation]:
    """Yield entries, leases and sightings that are left, keys of a wrong type, and records that grow or stay."""
    records = 0
    for name, key in evidence.keys.items():
        if name.startswith("processing-") and key.kind != "list":
            yield Violation(Rule.LEFT, name, f"a key under processing- is a {key.kind}")
        elif key.kind == "list" and key.length:
            yield Violation(Rule.LEFT, name, f"a list of {key.length} entries")
        elif name in TRANSIENT and key.length:
            yield Violation(Rule.LEFT, name, f"{key.length} members")
        elif name.startswith("redis-consumer:job:"):
            records += 1
            if key.ttl < 0 or key.size > RECORD_BYTES:
                yield Violation(Rule.LEFT, name, f"a record of {key.size} bytes that lives {key.ttl} s")
    ours = sum(key.size for name, key in evidence.keys.items() if name.startswith("redis-consumer:"))
    if ours > SHARED_BYTES + 2 * RECORD_BYTES * len(evidence.final):
        yield Violation(Rule.LEFT, "redis-consumer:*", f"{ours} bytes for {len(evidence.final)} jobs")
    if records > len(evidence.final):
        yield Violation(Rule.LEFT, "redis-consumer:job:*", f"{records} records of {len(evidence.final)} jobs")


TRANSIENT = ("redis-consumer:leases", "redis-consumer:seen", "redis-consumer:due", f"redis-consumer:submitted:{QUEUE}")
