"""Divisions that prove false: one daughter, and other divisions of the family soon before or after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.arrays import Tracks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TIME_EXCL = 9
"""Frames within which a family cannot divide twice."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """A track, as far as divisions go."""

    label: int
    first: int
    last: int
    """Frames."""
    parent: int | None
    daughters: tuple[int, ...]


def without_false_divisions(tracks: Tracks) -> Tracks:
    """Return the tracks without divisions into one cell that lie among others of their family.

    Such a parent goes on as its daughter did, under its own label.  A division is false if the parent has a past and
    one daughter, its family divides elsewhere, and all these divisions end their parents less than nine frames before
    or after.  The earliest is undone first, until there is none.  It is the last step of deepcell-tracking 0.2.5.
    """
    cells = {
        cell.label: _Cell(cell.label, cell.frames[0], cell.frames[-1], cell.parent, cell.daughters)
        for cell in tracks.lineage.values()
    }
    became = {label: label for label in cells}
    while (false := _first_false(cells)) is not None:
        (daughter,) = false.daughters
        _merge(cells, false, cells.pop(daughter))
        became = {old: false.label if new == daughter else new for old, new in became.items()}
    if len(cells) == len(became):
        return tracks
    labels = np.zeros(max(became) + 1, np.int32)
    labels[list(became)] = list(became.values())
    parents = {cell.label: cell.parent for cell in cells.values() if cell.parent is not None}
    return Tracks(labels[tracks.array], parents)


def _first_false(cells: Mapping[int, _Cell]) -> _Cell | None:
    """Return the earliest parent whose division is false."""
    families: dict[int, list[_Cell]] = {}
    for cell in cells.values():
        if cell.daughters:
            families.setdefault(_founder(cells, cell), []).append(cell)
    false = [cell for family in families.values() for cell in _false(family)]
    return min(false, key=lambda cell: (cell.last, cell.label), default=None)


def _founder(cells: Mapping[int, _Cell], cell: _Cell) -> int:
    while cell.parent is not None:
        cell = cells[cell.parent]
    return cell.label


def _false(family: list[_Cell]) -> Iterable[_Cell]:
    """Yield the parents of a family whose division is false."""
    for cell in family:
        others = [other.last for other in family if other is not cell]
        has_past = cell.first < cell.last or cell.parent is not None
        soon = all(abs(cell.last - last) < TIME_EXCL for last in others)
        if others and soon and has_past and len(cell.daughters) == 1:
            yield cell


def _merge(cells: dict[int, _Cell], parent: _Cell, daughter: _Cell) -> None:
    """Let the parent go on as its daughter did."""
    cells[parent.label] = replace(parent, last=daughter.last, daughters=daughter.daughters)
    for label in daughter.daughters:
        cells[label] = replace(cells[label], parent=parent.label)
