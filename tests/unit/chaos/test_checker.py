"""Each rule is shown to be able to break: logs written by hand, with one thing wrong."""

from __future__ import annotations

import pytest
from tests.chaos.checker import Evidence, Key, Rule, violations
from tests.chaos.history import Kind
from tests.chaos.ledger import Sight
from tests.unit.chaos.logs import CLEAN, DONE, JOB, TAKEN_OVER, claimed, event, evidence, settled, swept

MISSING = {"status": "failed", "reason": "Object 'uploads/1' is not in the bucket"}


def rules(found: Evidence) -> list[Rule]:
    return [violation.rule for violation in violations(found)]


@pytest.mark.parametrize(
    "found",
    [
        evidence(),
        evidence([*TAKEN_OVER, settled(7, "b", "t2")]),
        evidence([*CLEAN[:3], event(2.5, Kind.WROTE, "a"), event(2.6, Kind.RENEWED, "a"), CLEAN[3]]),
        evidence([], fields=MISSING, fails=True),
        evidence([], fields={"status": "new"}, acknowledged=False),
        evidence(fields={}, acknowledged=False),
        evidence(sights=[Sight("done", "http://s3/output/a.zip", "")]),
        evidence(keys={"redis-consumer:leases": Key("zset"), "redis-consumer:job:x": Key("hash", size=300, ttl=600)}),
        evidence([event(0, Kind.LOADED, token="t1", pod="a"), settled(3, "a", "t1")]),  # noqa: S106 - a lease's token
    ],
)  # fmt: skip
def test_what_is_right_breaks_no_rule(found: Evidence) -> None:
    assert violations(found) == []


@pytest.mark.parametrize("status", ["new", "predicting"])
def test_a_job_that_is_not_final_is_lost(status: str) -> None:
    (broken,) = violations(evidence(CLEAN[:2], fields={"status": status}))
    assert (broken.rule, broken.job) == (Rule.LOST, JOB)
    assert status in broken.text


def test_a_job_whose_hash_is_gone_is_lost() -> None:
    assert rules(evidence(CLEAN[:2], fields={})) == [Rule.LOST]


def test_two_results_that_a_poller_saw_are_one_too_many() -> None:
    seen = [Sight("done", f"http://s3/output/{name}.zip", "") for name in "ab"]
    assert rules(evidence(sights=seen)) == [Rule.TWICE]


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([*TAKEN_OVER, settled(7, "a", "t1")], id="under the token before"),
        pytest.param([*TAKEN_OVER[:4], settled(5.2, "a", "t1")], id="after the sweep took it back"),
        pytest.param([*TAKEN_OVER, event(7, Kind.WROTE, "a"), settled(8, "b", "t2")], id="a status"),
        pytest.param([*TAKEN_OVER, event(7, Kind.RENEWED, "a"), settled(8, "b", "t2")], id="a heartbeat"),
        pytest.param([*TAKEN_OVER, event(7, Kind.RELEASED, "a"), claimed(8, "b", "t3"), settled(9, "b", "t3")],
                     id="a release"),
        pytest.param([*CLEAN, event(4, Kind.WROTE, "a", progress="100")], id="after the end"),
        pytest.param([*CLEAN, claimed(4, "b", "t2")], id="a claim after the end"),
        pytest.param([*CLEAN[:3], settled(3, "a", "t1", output_file_name="output/b.zip")], id="no upload"),
    ],
)  # fmt: skip
def test_a_ghost_is_seen(history: list[object]) -> None:
    assert Rule.GHOST in rules(evidence(history))  # type: ignore[arg-type] # events, whatever pytest makes of them


def test_the_sweep_is_no_ghost() -> None:
    assert rules(evidence([*CLEAN[:3], swept(5), claimed(6, "b", "t2"), settled(7, "b", "t2")])) == []


def test_a_job_is_stolen_while_its_lease_runs_and_taken_over_afterwards() -> None:
    renewed = [*CLEAN[:3], event(3.5, Kind.RENEWED, "a")]
    assert Rule.STOLEN in rules(evidence([*renewed, claimed(5.4, "b", "t2"), settled(6, "b", "t2")]))
    assert rules(evidence([*renewed, claimed(5.5, "b", "t2"), settled(6, "b", "t2")])) == []
    assert rules(evidence([*renewed, swept(4), claimed(5, "b", "t2"), settled(6, "b", "t2")])) == [], "it was let go"


def test_a_good_job_must_not_fail_and_a_bad_one_must() -> None:
    assert rules(evidence([], fields={"status": "failed", "reason": "Given up after 5 deliveries"})) == [Rule.WRONG]
    assert rules(evidence([], fails=True)) == [Rule.WRONG]
    assert rules(evidence([], fields={"status": "failed", "reason": "Disk full"}, fails=True)) == [Rule.WRONG]


@pytest.mark.parametrize("sight", [Sight("done", "", ""), Sight("failed", "", "")])
def test_an_end_is_seen_with_all_that_a_page_shows(sight: Sight) -> None:
    assert rules(evidence(sights=[sight])) == [Rule.WRONG]


def test_a_result_must_be_the_jobs_own() -> None:
    assert rules(evidence(wrong_results={JOB: "it is another's"})) == [Rule.WRONG]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("chaos", Key("list", length=1)),
        ("processing-chaos:0-0:pod", Key("list", length=2)),
        ("processing-chaos:lease", Key("string")),
        ("redis-consumer:leases", Key("zset", length=1)),
        ("redis-consumer:seen", Key("zset", length=1)),
        ("redis-consumer:job:x", Key("hash", size=300, ttl=-1)),
        ("redis-consumer:job:x", Key("hash", size=10_000, ttl=600)),
        ("redis-consumer:dead", Key("hash", size=1_000_000)),
    ],
)
def test_nothing_is_left_in_redis(name: str, key: Key) -> None:
    assert rules(evidence(keys={name: key})) == [Rule.LEFT]


def test_records_are_not_more_than_jobs() -> None:
    keys = {f"redis-consumer:job:{n}": Key("hash", size=300, ttl=600) for n in range(2)}
    assert rules(evidence(fields=DONE, keys=keys)) == [Rule.LEFT]
