from __future__ import annotations

from collections import Counter
from itertools import islice

from tests.chaos.faults import FAULTS
from tests.chaos.plan import turns


def test_the_same_seed_makes_the_same_sequence_and_another_one_another() -> None:
    first, again, other = (list(islice(turns(seed, FAULTS), 3)) for seed in ("1", "1", "2"))
    assert first == again
    assert first != other


def test_every_turn_has_every_fault_once_but_rare_ones() -> None:
    made = list(islice(turns("1", FAULTS), 5))
    for number, turn in enumerate(made):
        count = Counter(strike.fault.name for strikes in turn for strike in strikes)
        assert set(count.values()) == {1}
        assert count.keys() == {fault.name for fault in FAULTS if number == 0 or not fault.rare}


def test_two_faults_at_once_are_about_different_things() -> None:
    pairs = [strikes for turn in islice(turns("1", FAULTS), 20) for strikes in turn if len(strikes) > 1]
    assert pairs
    assert all(first.fault.where != second.fault.where for first, second in pairs)
