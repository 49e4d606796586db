"""Movies with known tracks: what is linked, what is written and read again, what labels may not change."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings, strategies as st
from tests.movies import Life, movie_of, permuted, same

from redis_consumer.results.ctc import load_ctc, save_ctc
from redis_consumer.results.trk import load_trk, save_trk, save_trks
from redis_consumer.tracking import link

FRAMES = 12
SEEDS = st.integers(0, 2**32 - 1)
EXAMPLES = settings(max_examples=30, deadline=None)


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """A cell of at least three frames; missed frames lie between others, two together at most."""
    first = draw(st.integers(0, FRAMES - 3))
    last = draw(st.integers(first + 2, FRAMES - 1))
    fate = draw(st.sampled_from(["stays", "divides", "missed"]))
    if fate == "divides" and last >= first + 3:
        return Life(first, last, divides=draw(st.integers(first + 2, last)))
    if fate == "missed" and last >= first + 3:
        start = draw(st.integers(first + 1, last - 1))
        return Life(first, last, missed=tuple(range(start, min(start + draw(st.integers(1, 2)), last))))
    return Life(first, last)


ALWAYS = [Life(0, FRAMES - 1)] * 3
"""Of them is known how far cells move, whatever the others do."""
MOVIES = st.lists(lives(), max_size=6).map(lambda cells: cells + ALWAYS)


@EXAMPLES
@given(cells=MOVIES, seed=SEEDS)
def test_known_tracks_are_found(cells: list[Life], seed: int) -> None:
    truth = movie_of(cells, FRAMES, seed)
    assert same(link(permuted(truth.array, seed)), truth)


@EXAMPLES
@given(cells=MOVIES, seed=SEEDS)
def test_labels_within_a_frame_change_nothing(cells: list[Life], seed: int) -> None:
    movie = movie_of(cells, FRAMES, seed).array
    first, second = link(movie), link(permuted(movie, seed))
    np.testing.assert_array_equal(first.array, second.array)
    assert first.lineage == second.lineage


@EXAMPLES
@given(cells=MOVIES, seed=SEEDS)
def test_what_is_found_is_found_again(cells: list[Life], seed: int) -> None:
    once = link(movie_of(cells, FRAMES, seed).array)
    again = link(once.array)
    np.testing.assert_array_equal(once.array, again.array)
    assert once.parents == again.parents


@EXAMPLES
@given(cells=st.lists(lives(), min_size=1, max_size=6), seed=SEEDS)
def test_track_files_give_back_what_was_written(cells: list[Life], seed: int) -> None:
    tracks = movie_of(cells, FRAMES, seed)
    movie = np.random.default_rng(seed).random((*tracks.array.shape, 2)).astype(np.float32)
    with TemporaryDirectory() as folder:
        one, two = Path(folder, "x.trk"), Path(folder, "x.trks")
        save_trk(movie, tracks, one)
        save_trks([(movie, tracks), (movie, link(tracks.array))], two)
        for (read, labels), (written, expected) in zip(
            load_trk(one) + load_trk(two), [(movie, tracks), (movie, tracks), (movie, link(tracks.array))], strict=True
        ):
            np.testing.assert_array_equal(read, written)
            np.testing.assert_array_equal(labels.array, expected.array)
            assert labels.lineage == expected.lineage


@EXAMPLES
@given(cells=st.lists(lives(), min_size=1, max_size=6), seed=SEEDS)
def test_challenge_files_give_back_what_was_written(cells: list[Life], seed: int) -> None:
    """Tracks with gaps come back in parts, each the parent of the next, and are stable from then on."""
    tracks = movie_of(cells, FRAMES, seed)
    with TemporaryDirectory() as folder:
        save_ctc(tracks, Path(folder, "a"))
        read = load_ctc(Path(folder, "a"))
        save_ctc(read, Path(folder, "b"))
        assert load_ctc(Path(folder, "b")).lineage == read.lineage
    assert np.array_equal(read.array > 0, tracks.array > 0)
    if not any(life.missed for life in cells):
        np.testing.assert_array_equal(read.array, tracks.array)
        assert read.lineage == tracks.lineage
