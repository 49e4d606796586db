"""Logs written by hand, and what they are evidence of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.chaos.checker import Evidence
from tests.chaos.history import Event, Kind
from tests.chaos.ledger import Entry, Sight

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

JOB = "chaos:job-000001.tif:x"
DONE = {"status": "done", "output_file_name": "output/a.zip", "output_url": "http://s3/output/a.zip"}


def event(at: float, kind: Kind, pod: str = "", token: str = "", **fields: str) -> Event:
    """Return what a pod wrote, by its name where it has one."""
    return Event(at, kind, JOB, pod, token, {**({"updated_by": pod} if pod else {}), **fields})


def queued(at: float) -> Event:
    return event(at, Kind.QUEUED)


def moved(at: float, pod: str) -> Event:
    return Event(at, Kind.MOVED, JOB, pod)


def claimed(at: float, pod: str, token: str, deliveries: int = 1) -> Event:
    return event(at, Kind.CLAIMED, pod, token, status="started", deliveries=str(deliveries))


def swept(at: float) -> Event:
    return event(at, Kind.RELEASED)


def settled(at: float, pod: str, token: str, **fields: str) -> Event:
    return event(at, Kind.SETTLED, pod, token, **{**DONE, **fields})


CLEAN = [queued(1), moved(2, "a"), claimed(2.1, "a", "t1"), settled(3, "a", "t1")]
TAKEN_OVER = [queued(1), moved(2, "a"), claimed(2.1, "a", "t1"), swept(5), moved(5.5, "b"), claimed(6, "b", "t2", 2)]


def evidence(
    history: Sequence[Event] = CLEAN,
    *,
    fields: Mapping[str, str] | None = None,
    sights: Sequence[Sight] = (),
    fails: bool = False,
    acknowledged: bool = True,
    **more: object,
) -> Evidence:
    """Return the evidence about one job; without anything said, it ended well."""
    found = Evidence(
        entries={JOB: Entry(JOB, 1, 1.0, fails, acknowledged)},
        sights={JOB: sights},
        histories=[history],
        final={JOB: DONE if fields is None else fields} if fields != {} else {},
        uploads=frozenset({"output/a.zip"}),
    )
    return replace(found, **more)  # type: ignore[arg-type] # of whatever a test wants
