"""Divisions into one cell, among others of the family, are undone; all others stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from redis_consumer.arrays import Tracks
from redis_consumer.tracking.false_divisions import without_false_divisions

if TYPE_CHECKING:
    from collections.abc import Mapping

    Spans = Mapping[int, tuple[int, int]]

FRAMES = 30
A_TRUE_ONE: Spans = {3: (6, 10), 4: (11, 29), 5: (11, 29)}


def tracks_of(spans: Spans, parents: Mapping[int, int]) -> Tracks:
    """Return tracks of one pixel each, from their first and last frames."""
    movie = np.zeros((FRAMES, 1, max(spans)), np.int32)
    for label, (first, last) in spans.items():
        movie[first : last + 1, 0, label - 1] = label
    return Tracks(movie, parents)


def told(tracks: Tracks) -> tuple[dict[int, tuple[int, int]], Mapping[int, int]]:
    return {label: (cell.frames[0], cell.frames[-1]) for label, cell in tracks.lineage.items()}, dict(tracks.parents)


def test_the_parent_of_one_daughter_goes_on_as_that_did() -> None:
    """1 has one daughter, 3, which soon divides into 4 and 5."""
    found = without_false_divisions(tracks_of({1: (0, 5), **A_TRUE_ONE}, {3: 1, 4: 3, 5: 3}))
    assert told(found) == ({1: (0, 10), 4: (11, 29), 5: (11, 29)}, {4: 1, 5: 1})
    assert found.array[6:11, 0, 2].tolist() == [1] * 5
    assert found.lineage[1].daughters == (4, 5)
    assert found.lineage[1].frame_div == 11


def test_the_earliest_is_undone_first_until_there_is_none() -> None:
    spans = {1: (0, 2), 2: (3, 5), **A_TRUE_ONE}
    found = without_false_divisions(tracks_of(spans, {2: 1, 3: 2, 4: 3, 5: 3}))
    assert told(found) == ({1: (0, 10), 4: (11, 29), 5: (11, 29)}, {4: 1, 5: 1})


def test_of_two_alone_the_later_one_stays() -> None:
    """When the first is undone, the second has no others any more."""
    found = without_false_divisions(tracks_of({1: (0, 5), 2: (6, 9), 3: (10, 29)}, {2: 1, 3: 2}))
    assert told(found) == ({1: (0, 9), 3: (10, 29)}, {3: 1})


def test_a_gap_before_the_daughter_stays_one() -> None:
    spans = {1: (0, 3), **A_TRUE_ONE}
    assert without_false_divisions(tracks_of(spans, {3: 1, 4: 3, 5: 3})).lineage[1].frames == (
        0,
        1,
        2,
        3,
        *range(6, 11),
    )


@pytest.mark.parametrize(("last", "undone"), [(2, True), (1, False)])
def test_divisions_nine_frames_apart_are_both_true(last: int, undone: bool) -> None:  # noqa: FBT001 - a table
    found = without_false_divisions(
        tracks_of({1: (0, last), 3: (last + 1, 10), 4: (11, 29), 5: (11, 29)}, {3: 1, 4: 3, 5: 3})
    )
    assert (3 not in found.lineage) is undone


def test_all_other_divisions_of_the_family_count() -> None:
    """A single far one, in another branch, lets it stand."""
    spans = {1: (0, 4), 2: (5, 8), 3: (5, 20), 4: (9, 29), 5: (21, 29), 6: (21, 29)}
    tracks = tracks_of(spans, {2: 1, 3: 1, 4: 2, 5: 3, 6: 3})
    assert without_false_divisions(tracks) is tracks


@pytest.mark.parametrize(
    ("spans", "parents"),
    [
        ({1: (0, 5), 2: (6, 29)}, {2: 1}),
        ({1: (0, 0), 3: (1, 5), 4: (6, 29), 5: (6, 29)}, {3: 1, 4: 3, 5: 3}),
        ({1: (0, 5), 2: (6, 8), 3: (6, 8), 4: (9, 29), 5: (9, 29)}, {2: 1, 3: 1, 4: 2, 5: 2}),
        ({1: (0, 5), 2: (6, 29), 3: (0, 6), 4: (7, 29)}, {2: 1, 4: 3}),
        ({1: (0, 5), 7: (2, 9)}, {}),
    ],
    ids=["alone in its family", "without a past", "two daughters each", "two families", "no divisions"],
)
def test_all_others_stay(spans: Spans, parents: Mapping[int, int]) -> None:
    tracks = tracks_of(spans, parents)
    assert without_false_divisions(tracks) is tracks


def test_other_families_keep_their_labels() -> None:
    spans = {1: (0, 5), 2: (0, 29), **A_TRUE_ONE, 9: (3, 29)}
    found = without_false_divisions(tracks_of(spans, {3: 1, 4: 3, 5: 3}))
    assert list(found.lineage) == [1, 2, 4, 5, 9]
