"""Simulated movies: tracks without gaps, two daughters, motion that can be followed."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
from hypothesis import given, settings, strategies as st

from redis_consumer.arrays import Tracks
from redis_consumer.demo.simulation.microscope import Microscope
from redis_consumer.demo.simulation.movie import Movie, Population, builtin_movies, simulate_movie
from redis_consumer.demo.simulation.nuclei import Cells

FRAMES = 12


def movie_of(seed: int) -> Movie:
    nuclei = Cells(count=8, diameter=18, defocused=0, debris=0)
    population = Population(division=0.08, arrivals=0.3, speed=2)
    return simulate_movie((120, 96), FRAMES, nuclei=nuclei, population=population, microscope=Microscope(), seed=seed)


@cache
def builtin() -> Movie:
    [movie] = builtin_movies()
    return movie


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_tracks_have_no_gaps_and_divide_in_two(seed: int) -> None:
    movie = movie_of(seed)
    assert movie.image.shape == movie.labels.shape == (FRAMES, 120, 96)
    tracks = Tracks(movie.labels, movie.parents).lineage  # refuses parents that do not fit
    assert set(tracks) == set(range(1, movie.labels.max() + 1))
    for track in tracks.values():
        assert list(track.frames) == list(range(track.frames[0], track.frames[-1] + 1))
        assert len(track.daughters) in {0, 2}
        for daughter in track.daughters:
            assert tracks[daughter].frames[0] == track.frames[-1] + 1


def test_the_same_seed_gives_the_same_movie() -> None:
    one, two = movie_of(3), movie_of(3)
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.parents == two.parents


def test_the_builtin_movie_has_everything_that_makes_tracking_hard() -> None:
    movie = builtin()
    tracks = Tracks(movie.labels, movie.parents).lineage
    last = len(movie.labels) - 1
    assert 20 <= len(movie.labels) <= 40
    assert len(set(movie.parents.values())) >= 4, "divisions"
    assert [label for label, track in tracks.items() if track.frames[0] > 0 and label not in movie.parents], "arrivals"
    assert [one for one in tracks.values() if one.frames[-1] < last and not one.daughters], "departures"


def test_nuclei_overlap_themselves_from_frame_to_frame() -> None:
    labels = builtin().labels
    for before, after in pairwise(labels):
        for label in set(np.unique(before)) & set(np.unique(after)) - {0}:
            one, other = before == label, after == label
            assert (one & other).any() or min(one.sum(), other.sum()) < 60


def test_nuclei_are_where_the_light_is() -> None:
    movie = builtin()
    assert movie.image[movie.labels > 0].mean() > 2 * movie.image[movie.labels == 0].mean()
