"""How well cells are tracked without a tracking model: scores of the Cell Tracking Challenge where lineages are known.

``python benchmarks/tracking.py [MOVIES]`` prints the tables; it needs the group ``bench`` (py-ctcmetrics) and a folder
of movies, each with ``images.tif``, ``labels.tif`` (a label is one cell in all frames) and ``man_track.txt``.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
import skimage as ski
import tifffile
from crowd import Conditions, simulate
from ctc_metrics.scripts.evaluate import evaluate_sequence
from tables import show

from redis_consumer import processing
from redis_consumer.arrays import Tracks
from redis_consumer.results.ctc import read_table, save_ctc
from redis_consumer.serving.onnx import OnnxModel
from redis_consumer.tracking import link

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray

    Movie = npt.NDArray[np.int32]

ROOT = Path(__file__).resolve().parents[1]
MOVIES = ROOT / "../shared/data/movies"
MODEL = ROOT / "src/redis_consumer/demo/models/NuclearSegmentation/1/model.onnx"
METRICS = ("TRA", "DET", "SEG", "LNK", "BC")
HEAD = ("movie", "labels", "TRA", "DET", "SEG", "LNK", "divisions F1", "found / false / missed", "s")
MISSED = 0.05
SPACING = 29
"""Pixels from cell to cell where speed is measured."""
CROWDS = {
    "loose": Conditions(cells=60),
    "middling": Conditions(),
    "dense": Conditions(cells=250),
    "restless": Conditions(step=5),
    "clean outlines, none missed": Conditions(uncertainty=0.02, missed=0),
}


def truth_of(folder: Path) -> Tracks:
    """Return the known tracks of a movie."""
    parents = {row.label: row.parent for row in read_table(folder / "man_track.txt") if row.parent}
    return Tracks(tifffile.imread(folder / "labels.tif").astype(np.int32), parents)


# --- label images to link: the truth, and worse ones -------------------------------------------------------------


def shuffled(movie: Movie, rng: np.random.Generator) -> Movie:
    """Return the same cells with other ids in every frame, as a segmentation has them."""
    ids = [rng.permutation(int(movie.max())) + 1 for _ in movie]
    return np.stack([np.concatenate([[0], new])[frame] for frame, new in zip(movie, ids, strict=True)]).astype(np.int32)


def with_missed_cells(movie: Movie, rng: np.random.Generator) -> Movie:
    """Return the movie with some cells missed in some frames."""
    kept = rng.random((len(movie), int(movie.max()) + 1)) >= MISSED
    return np.stack([frame * keep[frame] for frame, keep in zip(movie, kept, strict=True)])


def with_rough_outlines(movie: Movie, rng: np.random.Generator) -> Movie:
    """Return the movie with every cell grown or shrunk by a pixel, or left as it is."""
    return np.stack([_rough(frame, rng) for frame in movie])


def _rough(frame: Movie, rng: np.random.Generator) -> Movie:
    change = rng.integers(-1, 2, int(frame.max()) + 1)
    grown = ski.segmentation.expand_labels(frame)
    result = np.where((frame == 0) & (change[grown] > 0), grown, frame)
    inside = scipy.ndimage.minimum_filter(frame, 3) == scipy.ndimage.maximum_filter(frame, 3)
    return np.where(~inside & (frame > 0) & (change[frame] < 0), 0, result).astype(np.int32)


def segmented(images: AnyArray) -> Movie:
    """Return what the demo's model finds in each frame."""
    model = OnnxModel(MODEL, threads=1)
    (name,), heads = model.inputs, sorted(model.outputs)
    frames = processing.histogram_normalization(images[..., None].astype(np.float32))
    maps = [np.concatenate(parts) for parts in zip(*(model.run({name: f[None]}, heads) for f in frames), strict=True)]
    return np.asarray(processing.deep_watershed(maps)[..., 0], np.int32)


# --- scores --------------------------------------------------------------------------------------------------------


def scores(truth: Tracks, found: Tracks) -> dict[str, Any]:
    """Return the scores by py-ctcmetrics."""
    with tempfile.TemporaryDirectory() as folder:
        result, known = Path(folder, "RES"), Path(folder, "GT")
        save_ctc(found, result)
        for kind in ("TRA", "SEG"):
            save_ctc(truth, known / kind)
            for mask in (known / kind).glob("mask*.tif"):
                mask.rename(mask.with_name(f"man_{kind.lower()}{mask.stem.removeprefix('mask')}.tif"))
        (known / "TRA/res_track.txt").rename(known / "TRA/man_track.txt")
        with contextlib.redirect_stdout(io.StringIO()):
            got: dict[str, Any] = evaluate_sequence(str(result), str(known), list(METRICS), threads=1)
    return got


def row(movie: str, kind: str, truth: Tracks, labels: Movie) -> tuple[object, ...]:
    """Track and score."""
    start = time.thread_time()
    found = link(labels)
    seconds = time.thread_time() - start
    got = scores(truth, found)
    divisions = f"{got['tp_div(1)']} / {got['fp_div(1)']} / {got['fn_div(1)']}"
    f1 = got["BC(1)"]
    numbers = [f"{got[name]:.3f}" for name in METRICS[:-1]]
    return movie, kind, *numbers, "-" if f1 is None else f"{f1:.2f}", divisions, seconds


def score_table(folder: Path) -> None:
    """Score the movies, on true masks, on worse ones and on those of the demo's model."""
    rng = np.random.default_rng(0)
    worse: dict[str, Callable[[Movie], Movie]] = {
        "true masks": lambda movie: movie,
        "5 % of cells missed": lambda movie: with_missed_cells(movie, rng),
        "rough outlines": lambda movie: with_rough_outlines(movie, rng),
        "both": lambda movie: with_rough_outlines(with_missed_cells(movie, rng), rng),
    }
    rows = []
    for path in sorted(table.parent for table in folder.glob("*/man_track.txt")):
        truth = truth_of(path)
        rows += [row(path.name, kind, truth, shuffled(make(truth.array), rng)) for kind, make in worse.items()]
        rows.append(row(path.name, "demo model", truth, segmented(tifffile.imread(path / "images.tif"))))
    show("Tracking without a tracking model", HEAD, rows)


def crowd_table() -> None:
    """Score simulated movies with many divisions."""
    rows = []
    for number, (kind, conditions) in enumerate(CROWDS.items(), start=1000):
        truth = simulate(conditions, number)
        rows.append(row(kind, f"{conditions.cells} cells", truth, shuffled(truth.array, np.random.default_rng(0))))
    show("Simulated crowds", HEAD, rows)


def lattice(size: int, frames: int) -> Movie:
    """Return a movie of discs, some 1,250 in 1024 x 1024 pixels, that move about their places; one in 50 is missed."""
    rng = np.random.default_rng(size)
    movie = np.zeros((frames, size, size), np.int32)
    rows, columns = np.indices((19, 19)) - 9
    disc = np.stack([rows, columns], axis=-1)[np.hypot(rows, columns) <= 9]
    places = np.argwhere(np.ones((size // SPACING, size // SPACING))) * SPACING + SPACING // 2
    for frame in movie:
        seen = places[rng.random(len(places)) >= 0.02]
        pixels = seen[:, None] + rng.integers(-3, 4, (len(seen), 1, 2)) + disc
        frame[pixels[..., 0], pixels[..., 1]] = rng.permutation(len(seen))[:, None] + 1
    return movie


def speed_table() -> None:
    """Time large movies."""
    rows = []
    for size, frames in ((512, 100), (1024, 200), (2048, 30)):
        movie = lattice(size, frames)
        start = time.thread_time()
        found = link(movie)
        seconds = time.thread_time() - start
        cells = int(sum(frame.max() for frame in movie) / frames)
        rows.append((f"{size} x {size}", frames, cells, len(found.lineage), seconds, 1000 * seconds / frames))
    show("Linking (time of one processor)", ("frame", "frames", "cells in each", "tracks", "s", "ms a frame"), rows)


if __name__ == "__main__":
    score_table(Path(sys.argv[1]) if sys.argv[1:] else MOVIES)
    crowd_table()
    speed_table()
