from __future__ import annotations

import pytest
from tests.chaos.aof import Command, Log
from tests.chaos.history import LEASES, RECORD, Event, Kind, events, removed

JOB = "chaos:job-000001.tif:x"
LIST = "processing-chaos:0a-0:pod-1"
TIME = "2026-11-24T06:00:00.500000+00:00"
AT = 1795500000.5


def step(*commands: str) -> list[Command]:
    return [Command(1000, tuple(text.split())) for text in commands]


SUBMIT = (step(f"HMSET {JOB} status new"), step(f"LPUSH chaos {JOB}"))
MOVE = step(f"LMOVE chaos {LIST} RIGHT LEFT")
CLAIM = step(
    f"HSET {RECORD}{JOB} token t1 list {LIST} claimed 1795500000500 deliveries 1",
    f"ZADD {LEASES} 9 {JOB}",
    f"HSET {JOB} updated_at {TIME} updated_by pod-1 status started",
)


def read(*steps: list[Command]) -> list[Event]:
    return events(Log([], list(steps)), "chaos")


def test_a_job_from_its_push_to_its_claim() -> None:
    found = read(*SUBMIT, MOVE, CLAIM)
    assert [event.kind for event in found] == [Kind.WROTE, Kind.QUEUED, Kind.MOVED, Kind.CLAIMED]
    assert {event.job for event in found} == {JOB}
    assert found[2].pod == "pod-1", "the move names no job: the list tells"
    assert (found[3].pod, found[3].token, found[3].at) == ("pod-1", "t1", AT)


@pytest.mark.parametrize(
    ("commands", "kind", "pod", "token"),
    [
        ([f"HSET {RECORD}{JOB} settled t1", f"HSET {JOB} status done updated_by pod-1"], Kind.SETTLED, "pod-1", "t1"),
        ([f"HSET {JOB} status failed updated_by pod-2", f"LREM {LIST} 0 {JOB}"], Kind.ENDED, "pod-2", ""),
        ([f"HDEL {RECORD}{JOB} token list", f"LPUSH chaos {JOB}"], Kind.RELEASED, "", ""),
        ([f"ZADD {LEASES} 9 {JOB}", f"HSET {JOB} updated_by pod-1"], Kind.RENEWED, "pod-1", ""),
        ([f"HSET {JOB} status predicting updated_by pod-3"], Kind.WROTE, "pod-3", ""),
        ([f"DEL {JOB}"], Kind.VANISHED, "", ""),
        ([f"HSET {JOB} status new", f"LPUSH chaos {JOB}"], Kind.QUEUED, "", ""),
    ],
)
def test_what_a_step_was(commands: list[str], kind: Kind, pod: str, token: str) -> None:
    (event,) = read(step(*commands))
    assert (event.kind, event.pod, event.token) == (kind, pod, token)


def test_what_is_not_about_a_job_is_no_event() -> None:
    assert read(step("ZADD redis-consumer:lists 1 x"), step("SELECT 0"), step("HSET Echo:1 metadata x")) == []


def test_what_a_log_begins_with_is_no_deed_but_its_lists_count() -> None:
    log = Log([step(f"RPUSH chaos {JOB}")], [MOVE])
    assert [event.kind for event in events(log, "chaos")] == [Kind.LOADED, Kind.MOVED]


def test_entries_are_removed_as_the_server_removes_them() -> None:
    entries = ["a", "b", "a", "c", "a"]
    assert removed(entries, 0, "a") == ["b", "c"]
    assert removed(entries, 1, "a") == ["b", "a", "c", "a"]
    assert removed(entries, -2, "a") == ["a", "b", "c"]
    assert removed(entries, 0, "z") == entries
