from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.chaos.blows import Blow, Hurt
from tests.chaos.checker import Rule
from tests.chaos.faults import Fault, Where
from tests.chaos.report import as_json, judge, stories, table
from tests.chaos.stage import Outcome, Struck
from tests.unit.chaos.logs import CLEAN, JOB, TAKEN_OVER, claimed, evidence, queued, settled, swept

if TYPE_CHECKING:
    from random import Random

    from tests.chaos.checker import Evidence


def nothing(hurt: Hurt, rng: Random) -> Blow:
    raise NotImplementedError(hurt, rng)


KILL, DRAIN = Fault("kill", Where.WORKER, nothing), Fault("drain", Where.WORKER, nothing, drains=True)
AT_WORK = Blow(2.5, 2.5, frozenset({"a"}))


def outcome(found: Evidence, *struck: Struck, asserted: bool = True) -> Outcome:
    return Outcome("single", asserted, found, list(struck), [])


def test_a_row_counts_what_its_fault_did() -> None:
    verdict = judge(outcome(evidence([*TAKEN_OVER, settled(7, "a", "t1")]), Struck(KILL, AT_WORK)))
    (row,) = verdict.rows
    assert (row.times, row.jobs, row.ghosts, row.lost, row.median_s, row.worst_s) == (1, 1, 1, 0, 3.5, 3.5)
    assert "settled under a token that is void" in stories(verdict)
    assert "deliveries=2" in stories(verdict), "the job's story"


def test_a_fault_that_hit_no_job_is_suspected_if_the_job_lived_then() -> None:
    found = evidence(CLEAN, fields={"status": "failed", "reason": "x"})
    near, far = Struck(KILL, Blow(2.5, 2.5, frozenset())), Struck(DRAIN, Blow(90, 90, frozenset()))
    assert [row.failed_wrongly for row in judge(outcome(found, near, far)).rows] == [1, 0]


def test_a_delivery_must_not_count_if_only_drains_hit_the_job() -> None:
    story = [queued(1), claimed(2, "a", "t1"), swept(3), claimed(4, "b", "t2", 2), settled(5, "b", "t2")]
    assert [one.rule for one in judge(outcome(evidence(story), Struck(DRAIN, AT_WORK))).broken] == [Rule.COUNTED]
    assert judge(outcome(evidence(story), Struck(DRAIN, AT_WORK), Struck(KILL, AT_WORK))).broken == []


def test_a_job_that_nobody_relies_on_needs_no_recovery() -> None:
    found = evidence(CLEAN[:3], fields={}, acknowledged=False)
    assert judge(outcome(found, Struck(KILL, AT_WORK))).rows[0].recoveries_s == []


def test_the_file_has_the_totals_and_keeps_what_is_only_reported_apart() -> None:
    good, lost = evidence([*TAKEN_OVER, settled(7, "b", "t2")]), evidence(CLEAN[:2], fields={})
    verdicts = [
        judge(outcome(good, Struck(KILL, AT_WORK))),
        judge(replace(outcome(lost, Struck(KILL, AT_WORK), asserted=False), name="relaxed")),
    ]
    result = json.loads(json.dumps(as_json(verdicts, lease_s=2, seed=1)))
    assert {name: result[name] for name in ("jobs", "faults", "lost", "written_twice", "ghosts", "failed_wrongly")} == {
        "jobs": 2, "faults": 2, "lost": 0, "written_twice": 0, "ghosts": 0, "failed_wrongly": 0,
    }  # fmt: skip
    assert (result["worst_recovery_s"], result["lease_s"], result["reported_only"]["lost"]) == (3.5, 2, 1)
    assert [row["fault"] for row in result["rows"]] == ["kill", "kill"]
    assert result["broken"][0]["job"] == JOB
    lines = table(verdicts).splitlines()
    assert len({len(line) for line in lines}) == 1, "aligned"
    assert "(reported only)" in lines[2]
