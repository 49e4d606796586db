from __future__ import annotations

import numpy as np
from tests.chaos.ledger import Entry, Ledger, Sight, name_of, number_of, picture

DONE = Sight("done", "http://s3/output/a.zip", "")


def test_no_two_pictures_are_alike() -> None:
    planes = [np.atleast_3d(picture(number)).tobytes()[:64] for number in range(3000)]
    assert len(set(planes)) == 3000


def test_a_job_is_open_until_its_end_is_seen_and_each_end_is_kept_once() -> None:
    ledger = Ledger()
    ledger.enter(Entry("a", 1, 0.0))
    ledger.enter(Entry("b", 2, 0.0, acknowledged=False))
    ledger.see("a", Sight("started", "", ""))
    assert ledger.open_jobs() == ["a"], "nobody waits for what was not acknowledged"
    for sight in (DONE, DONE, DONE._replace(output_url="http://s3/output/b.zip")):
        ledger.see("a", sight)
    assert ledger.open_jobs() == []
    assert len(ledger.sights["a"]) == 2


def test_there_is_no_hope_for_a_job_whose_hash_is_gone() -> None:
    ledger = Ledger()
    ledger.enter(Entry("a", 1, 0.0))
    assert ledger.hopeful()
    ledger.miss("a")
    assert not ledger.hopeful()
    ledger.see("a", Sight("new", "", ""))
    assert ledger.hopeful(), "it was another server that did not know it"


def test_a_key_tells_the_number() -> None:
    assert number_of(f"chaos:{name_of(17)}:uuid") == 17
    assert number_of("chaos:other.tif:uuid") == -1
