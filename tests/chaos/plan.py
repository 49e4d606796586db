"""Which faults come in which order: made of a seed and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.chaos.faults import Fault

PAIR_SHARE = 1 / 3
"""How often two faults come at once."""


@dataclass(frozen=True)
class Strike:
    """A fault to inject, with the seed of its own random numbers."""

    fault: Fault
    seed: int


Round = tuple[Strike, ...]
"""One fault, or two at the same time that are about different things."""


def turns(seed: str, faults: Sequence[Fault]) -> Iterator[list[Round]]:
    """Yield turn after turn: every fault once, in random order, alone or in pairs.  Rare ones in every fifth."""
    for number in count():
        rng = Random(f"{seed}/{number}")
        wanted = [fault for fault in faults if not fault.rare or number % 5 == 0]
        yield list(_turn(rng, wanted))


def _turn(rng: Random, faults: list[Fault]) -> Iterator[Round]:
    left = [Strike(fault, rng.getrandbits(32)) for fault in rng.sample(faults, len(faults))]
    while left:
        first = left.pop()
        others = [one for one in left if one.fault.where != first.fault.where and not one.fault.rare]
        if others and not first.fault.rare and rng.random() < PAIR_SHARE:
            second = rng.choice(others)
            left.remove(second)
            yield first, second
        else:
            yield (first,)
