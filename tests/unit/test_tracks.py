from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from redis_consumer.arrays import Track, Tracks

if TYPE_CHECKING:
    import numpy.typing as npt


def row_of_cells(*frames: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Return a movie one pixel high."""
    return np.array(frames, np.int32)[:, None]


DIVISION = row_of_cells((1, 1, 0, 7), (0, 0, 0, 7), (2, 3, 0, 0))


def test_the_lineage_follows_from_the_movie_and_the_parents() -> None:
    tracks = Tracks(DIVISION, {3: 1, 2: 1})
    assert tracks.lineage == {
        1: Track(label=1, frames=(0,), daughters=(2, 3), capped=True, frame_div=2, parent=None),
        2: Track(label=2, frames=(2,), parent=1),
        3: Track(label=3, frames=(2,), parent=1),
        7: Track(label=7, frames=(0, 1)),
    }
    assert list(tracks.lineage) == [1, 2, 3, 7]


def test_frames_may_have_gaps() -> None:
    assert Tracks(row_of_cells((5,), (0,), (5,))).lineage[5].frames == (0, 2)


def test_a_huge_label_takes_no_more_memory() -> None:
    assert list(Tracks(row_of_cells((2**31 - 1,), (3,))).lineage) == [3, 2**31 - 1]


def test_a_movie_without_cells_has_no_lineage() -> None:
    assert Tracks(np.zeros((3, 4, 4), np.int32)).lineage == {}


@pytest.mark.parametrize(
    ("parents", "said"),
    [
        ({2: 9}, "cell 9 cannot be the parent of 2"),
        ({9: 1}, "cell 1 cannot be the parent of 9"),
        ({1: 2}, "cell 1 appears in frame 0, when its parent 2 lives"),
        ({7: 7}, "cell 7 appears in frame 0, when its parent 7 lives"),
        ({2: 3}, "cell 2 appears in frame 2, when its parent 3 lives"),
    ],
)
def test_a_daughter_comes_after_its_parent(parents: dict[int, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Tracks(DIVISION, parents)


@pytest.mark.parametrize("array", [DIVISION.astype(np.int64), DIVISION[0], DIVISION[..., None], -DIVISION])
def test_only_a_movie_of_int32_labels_is_taken(array: npt.NDArray[np.int32]) -> None:
    with pytest.raises(ValueError, match=r"int32 \(T, Y, X\)|negative"):
        Tracks(array)
