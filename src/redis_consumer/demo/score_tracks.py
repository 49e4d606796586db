"""How well tracks follow the true ones.  Arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from redis_consumer.demo.score import matches

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    LabelStack = npt.NDArray[np.integer]

Cell: TypeAlias = tuple[int, int]
"""A frame, and a label in it."""
Link: TypeAlias = tuple[Cell, Cell]


@dataclass(frozen=True, slots=True)
class TrackScore:
    """What was found of the true links, which lead from a cell to itself in its next frame, or to its daughters."""

    matched: int
    """Links of a found track between two cells whose true partners are linked."""
    found: int
    true: int
    divisions_matched: int
    """Links to a daughter among the matched ones."""
    divisions_found: int
    divisions_true: int

    @property
    def f1(self) -> float:
        """2 matched / (found + true), from 0 to 1; 1 where there is no link."""
        total = self.found + self.true
        return 2 * self.matched / total if total else 1.0


def score_tracks(
    found: LabelStack, parents: Mapping[int, int], truth: LabelStack, true_parents: Mapping[int, int]
) -> TrackScore:
    """Compare two movies of labels (T, Y, X), one label for each track, with the parents of daughters.

    A found and a true cell are partners where they overlap by more than half (`redis_consumer.demo.score`).
    """
    partner = {
        (frame, one): (frame, other)
        for frame, (labels, true_labels) in enumerate(zip(found, truth, strict=True))
        for one, other in matches(labels, true_labels).items()
    }
    links, true_links = links_of(found, parents), links_of(truth, true_parents)
    right = {link: (partner[link[0]], partner[link[1]]) for link in links if link[0] in partner and link[1] in partner}
    matched = {true for true in right.values() if true in true_links}
    return TrackScore(len(matched), len(links), len(true_links), births(matched), births(links), births(true_links))


def births(links: set[Link]) -> int:
    """Return how many links lead to another track."""
    return sum(one[1] != other[1] for one, other in links)


def links_of(labels: LabelStack, parents: Mapping[int, int]) -> set[Link]:
    """Return all links of a movie; over a gap a link leads to the next frame that shows the cell."""
    frames: dict[int, list[int]] = {}
    for number, frame in enumerate(labels):
        for label in np.flatnonzero(np.bincount(frame.ravel())[1:]) + 1:
            frames.setdefault(int(label), []).append(number)
    links = {((one, label), (other, label)) for label, seen in frames.items() for one, other in pairwise(seen)}
    for daughter, parent in parents.items():
        if daughter in frames and parent in frames:
            links.add(((frames[parent][-1], parent), (frames[daughter][0], daughter)))
    return links
