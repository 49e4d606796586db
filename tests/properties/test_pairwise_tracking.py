"""What holds whatever a pairwise model says; and false divisions, found once more in a graph of single cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings, strategies as st
from tests.movies import Life, movie_of, permuted

from redis_consumer.arrays import Tracks
from redis_consumer.tracking import PairRules, track_pairs
from redis_consumer.tracking.false_divisions import TIME_EXCL, without_false_divisions

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Node = tuple[int, int]
    """A label, and a frame that shows it."""
    Graph = dict[Node, set[Node]]

FRAMES = 10
SEEDS = st.integers(0, 2**32 - 1)
EXAMPLES = settings(max_examples=30, deadline=None)


@EXAMPLES
@given(seed=SEEDS, pairs=st.integers(1, 9), division=st.floats(0, 1))
def test_whatever_the_model_says_every_cell_is_in_a_track(seed: int, pairs: int, division: float) -> None:
    rng = np.random.default_rng(seed)
    truth = movie_of([Life(0, FRAMES - 1), Life(0, FRAMES - 1, divides=5), Life(2, 6), Life(1, 8, missed=(4,))], FRAMES)
    labels = permuted(truth.array, seed)
    labels[rng.integers(FRAMES)] = 0

    def anything(inputs: Mapping[str, Floats]) -> Floats:
        return rng.dirichlet(np.ones(3), len(inputs["distance_input1"])).astype(np.float32)

    found = track_pairs(labels[..., None], labels, anything, PairRules(pairs=pairs, division=division))
    np.testing.assert_array_equal(found.array > 0, labels > 0)
    for before, after in zip(labels, found.array, strict=True):
        assert len(np.unique(before)) == len(np.unique(after)) == len({*zip(before.flat, after.flat, strict=True)})
    assert without_false_divisions(found) is found


@st.composite
def families(draw: st.DrawFn) -> Tracks:
    """Cells of one pixel each that divide into one, two or three, or do not."""
    movie = np.zeros((40, 1, 60), np.int32)
    parents: dict[int, int] = {}
    waiting: list[tuple[int, int]] = [(0, 0)] * draw(st.integers(1, 2))
    label = 0
    while waiting and label < movie.shape[-1]:
        start, parent = waiting.pop(0)
        label += 1
        end = start + draw(st.integers(0, 12))
        movie[start : end + 1, 0, label - 1] = label
        if parent:
            parents[label] = parent
        if end + 1 < len(movie):
            waiting += [(end + 1, label)] * draw(st.sampled_from([0, 1, 1, 1, 2, 3]))
    return Tracks(movie, parents)


@settings(max_examples=100, deadline=None)
@given(tracks=families())
def test_false_divisions_are_those_of_a_graph_of_cells(tracks: Tracks) -> None:
    found, expected = without_false_divisions(tracks), undone_in_a_graph(tracks)
    np.testing.assert_array_equal(found.array, expected.array)
    assert found.parents == expected.parents


def undone_in_a_graph(tracks: Tracks) -> Tracks:
    """Undo false divisions one by one, by a graph with a node for each cell in each frame, built anew every time."""
    while (false := next(iter(sorted(false_nodes(tracks), key=lambda node: (node[1], node[0]))), None)) is not None:
        (daughter,) = tracks.lineage[false[0]].daughters
        new = {daughter: false[0]}
        parents = {child: new.get(parent, parent) for child, parent in tracks.parents.items() if child != daughter}
        tracks = Tracks(np.where(tracks.array == daughter, false[0], tracks.array).astype(np.int32), parents)
    return tracks


def false_nodes(tracks: Tracks) -> list[Node]:
    graph = graph_of(tracks)
    divisions = {(cell.label, cell.frames[-1]) for cell in tracks.lineage.values() if cell.daughters}
    found = []
    for node in divisions:
        others = (component(graph, node) & divisions) - {node}
        soon = all(abs(node[1] - other[1]) < TIME_EXCL for other in others)
        frames = {neighbour[1] for neighbour in graph[node]}
        if others and soon and len(graph[node]) == len(frames) == 2:
            found.append(node)
    return found


def graph_of(tracks: Tracks) -> Graph:
    """Return the neighbours of each cell: itself in the frames before and after, its parent and its daughters."""
    graph: Graph = {(cell.label, t): set() for cell in tracks.lineage.values() for t in cell.frames}
    links = [
        ((cell.label, a), (cell.label, b))
        for cell in tracks.lineage.values()
        for a, b in zip(cell.frames, cell.frames[1:], strict=False)
    ]
    links += [
        ((parent, tracks.lineage[parent].frames[-1]), (child, tracks.lineage[child].frames[0]))
        for child, parent in tracks.parents.items()
    ]
    for one, other in links:
        graph[one].add(other)
        graph[other].add(one)
    return graph


def component(graph: Graph, start: Node) -> set[Node]:
    seen, waiting = {start}, [start]
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen
