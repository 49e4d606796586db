from __future__ import annotations

from tests.chaos.ledger import Entry, Ledger, Sight
from tests.chaos.load import Pace


def test_jobs_come_at_a_pace_and_granted_ones_at_once() -> None:
    pace = Pace(Ledger(), per_second=0.001, backlog=10, first=5)
    assert [pace.take(), pace.take()] == [5, None]
    pace.grant(2)
    assert [pace.take(), pace.take(), pace.take()] == [6, 7, None]


def test_there_are_never_too_many_open_jobs() -> None:
    ledger = Ledger()
    pace = Pace(ledger, per_second=1e9, backlog=2, first=0)
    for key in "ab":
        number = pace.take()
        assert number is not None
        ledger.enter(Entry(key, number, 0.0))
    assert pace.take() is None
    ledger.see("a", Sight("done", "http://s3/output/a.zip", ""))
    assert pace.take() == 2
