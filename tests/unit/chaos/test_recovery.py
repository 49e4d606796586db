from __future__ import annotations

import math

from tests.chaos.blows import Blow
from tests.chaos.history import Event, Kind
from tests.chaos.recovery import hit, holds, recovery
from tests.unit.chaos.logs import CLEAN, JOB, TAKEN_OVER, event, moved, queued, settled

KILLED = Blow(2.5, 2.5, frozenset({"a"}))


def seconds(blow: Blow, story: list[Event]) -> float | None:
    stories = {JOB: story}
    return recovery(blow, hit(blow, holds(stories)), stories)


def test_a_killed_workers_job_is_back_when_another_claims_it() -> None:
    assert seconds(KILLED, TAKEN_OVER) == 3.5


def test_a_job_that_never_comes_back_takes_for_ever() -> None:
    assert seconds(KILLED, TAKEN_OVER[:5]) == math.inf


def test_who_held_nothing_hits_nothing() -> None:
    assert seconds(Blow(2.5, 2.5, frozenset({"z"})), TAKEN_OVER) is None
    assert seconds(Blow(3.5, 3.5, frozenset({"a"})), CLEAN) is None


def test_an_entry_that_was_moved_and_not_yet_claimed_is_hit() -> None:
    story = [queued(1), moved(2, "a"), *TAKEN_OVER[3:]]
    assert seconds(KILLED, story) == 3.5


def test_an_outage_is_over_for_a_job_with_the_next_heartbeat() -> None:
    story = [*CLEAN[:3], event(5.25, Kind.RENEWED, "a"), settled(9, "a", "t1")]
    assert seconds(Blow(2.5, 5, None), story) == 0.25


def test_a_job_that_ended_during_the_outage_has_recovered() -> None:
    assert seconds(Blow(2.5, 5, None), CLEAN) == 0


def test_holds_end_when_somebody_else_has_the_job() -> None:
    assert [(hold.pod, hold.since, hold.until) for hold in holds({JOB: TAKEN_OVER})] == [
        ("a", 2, 5),
        ("b", 5.5, math.inf),
    ]
