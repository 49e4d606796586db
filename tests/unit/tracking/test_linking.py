from __future__ import annotations

import numpy as np
import pytest
from tests.movies import SITE, Life, movie_of, permuted, same

from redis_consumer.tracking import link

LAST = 9
CELLS = [Life(0, LAST), Life(0, LAST, divides=4), Life(2, LAST), Life(0, 6), Life(0, LAST, missed=(3, 4))]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_cells_are_followed_whatever_integers_name_them(dtype: type[np.integer]) -> None:
    truth = movie_of(CELLS, LAST + 1)
    assert same(link(permuted(truth.array).astype(dtype)), truth)


def test_huge_ids_take_no_more_memory() -> None:
    truth = movie_of(CELLS, LAST + 1)
    movie = truth.array.astype(np.int64)
    movie[movie > 0] += 2**40
    assert same(link(movie), truth)


def test_tracks_are_numbered_as_they_begin_and_by_their_first_pixel() -> None:
    tracks = link(permuted(movie_of(CELLS, LAST + 1).array))
    firsts = [
        (cell.frames[0], int(np.flatnonzero(tracks.array[cell.frames[0]] == label)[0]))
        for label, cell in tracks.lineage.items()
    ]
    assert list(tracks.lineage) == list(range(1, 8))
    assert firsts == sorted(firsts)


def test_a_cell_missed_for_longer_begins_anew() -> None:
    tracks = link(movie_of([Life(0, LAST, missed=(3, 4, 5))], LAST + 1).array)
    assert [cell.frames for cell in tracks.lineage.values()] == [(0, 1, 2), (6, 7, 8, 9)]


def test_frames_without_cells_are_passed_over() -> None:
    truth = movie_of(CELLS, LAST + 1)
    movie = truth.array.copy()
    movie[[7, 8]] = 0
    tracks = link(movie)
    assert tracks.lineage[1].frames == (0, 1, 2, 3, 4, 5, 6, 9)


def test_a_movie_without_cells_has_no_tracks() -> None:
    assert link(np.zeros((3, 8, 8), np.int32)).lineage == {}


def test_a_frame_that_is_one_cell_all_over_is_followed() -> None:
    assert link(np.ones((3, 8, 8), np.int32)).lineage[1].frames == (0, 1, 2)


def test_a_stage_that_jumps_loses_no_cell() -> None:
    truth = movie_of([Life(0, LAST)] * 9, LAST + 1)
    movie = truth.array.copy()
    movie[5:] = np.roll(movie[5:], 18, axis=(1, 2))
    assert all(len(cell.frames) == LAST + 1 for cell in link(movie).lineage.values())


@pytest.mark.parametrize(("max_distance", "tracks"), [(SITE / 2, 1), (SITE / 8, 2)])
def test_a_cell_moves_at_most_the_distance_that_is_allowed(max_distance: float, tracks: int) -> None:
    movie = np.zeros((2, SITE, SITE), np.int32)
    movie[0, 4:16, 4:16] = 1
    movie[1, 4:16, 14:26] = 1
    assert len(link(movie, max_distance=max_distance).lineage) == tracks


def test_a_cell_that_enters_beside_another_is_not_its_daughter() -> None:
    movie = np.zeros((6, SITE, SITE), np.int32)
    movie[:, 8:24, 8:24] = 1
    movie[3:, 8:24, 25:41] = 2
    assert link(movie).parents == {}


@pytest.mark.parametrize(
    ("movie", "said"),
    [
        (np.zeros((1, 4, 4), np.int32), "at least two frames, this one has 1"),
        (np.zeros((0, 4, 4), np.int32), "at least two frames, this one has 0"),
        (np.zeros((4, 4), np.int32), r"shape \(T, Y, X\)"),
        (np.zeros((2, 4, 4), np.float32), "not float32"),
        (np.full((2, 4, 4), -1), "not negative"),
    ],
)
def test_what_is_no_movie_of_labels_is_refused(movie: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        link(movie)
