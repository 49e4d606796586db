"""What the array functions cost: the watershed of nuclei beside scikit-image's plain recipe, and every other step.

``python benchmarks/processing.py`` prints the tables; it needs two or three minutes, most of them for the plain recipe.
"""

from __future__ import annotations

import time
import tracemalloc
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
import skimage as ski
from tables import show

from redis_consumer import processing, spots

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Map = npt.NDArray[np.float32]

RUNS = 3
SPACING = 29  # pixels between nuclei: some 5,000 in 2048 x 2048


def nuclei(size: int) -> list[Map]:
    """Return inner distance and foreground, (1, size, size, 1) each, as a model would: some nuclei touch."""
    rng = np.random.default_rng(size)
    maps = np.zeros((2, size, size), np.float32)
    for y, x in np.argwhere(np.ones((size // SPACING, size // SPACING))) * SPACING + SPACING // 2:
        cy, cx = y + rng.uniform(-6, 6), x + rng.uniform(-6, 6)
        radius = rng.uniform(6, 14)
        window = np.s_[max(y - 24, 0) : y + 24, max(x - 24, 0) : x + 24]
        rows, columns = np.mgrid[window]
        distance = np.hypot(rows - cy, columns - cx)[: size - window[0].start, : size - window[1].start]
        stamp = np.where(distance < radius, [1 / (1 + 4 * distance / (1.77 * radius)), np.ones_like(distance)], 0)
        part = maps[:, *window]
        np.maximum(part, stamp[:, : part.shape[1], : part.shape[2]], out=part)
    maps += rng.normal(0, 0.005, maps.shape)
    smooth = scipy.ndimage.gaussian_filter(maps, (0, 1, 1))
    return [np.clip(m, 0, 1)[None, ..., None] for m in smooth]


def plain_recipe(maps: list[Map]) -> npt.NDArray[Any]:
    """Return the labels of `deep_watershed` by its definition, step by step."""
    distance, foreground = (m[0, ..., 0] for m in maps)
    inside = scipy.ndimage.gaussian_filter(foreground, 1)
    seeds = ski.morphology.h_maxima(distance, 0.1, footprint=ski.morphology.disk(10))
    labels = ski.segmentation.watershed(-inside, ski.measure.label(seeds), mask=inside > 0.01)
    compact, _, _ = ski.segmentation.relabel_sequential(labels)
    return np.asarray(compact)[None, ..., None]


def seconds(call: Callable[[], object]) -> float:
    """Return how long `call` keeps a processor busy: other programs on the machine matter less then."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def peak(call: Callable[[], object]) -> float:
    """Return how many MiB `call` has at most beyond its input."""
    tracemalloc.start()
    call()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 2**20


def watershed_table() -> None:
    """Compare `deep_watershed` with the plain recipe, the two taking turns."""
    rows = []
    for size in (512, 1024, 2048):
        maps = nuclei(size)
        labels = processing.deep_watershed(maps)
        same = "yes" if np.array_equal(labels, plain_recipe(maps)) else "NO"
        recipes = (partial(processing.deep_watershed, maps), partial(plain_recipe, maps))
        turns = [[seconds(recipe) for recipe in recipes] for _ in range(RUNS)]
        ours, plain = (median(times) for times in zip(*turns, strict=True))
        rows.append((f"{size} x {size}", labels.max(), ours, plain, plain / ours, same))
    head = ("image", "nuclei", "deep_watershed, s", "plain recipe, s", "times as fast", "same labels")
    show(f"Watershed of nuclei (time of one processor, medians of {RUNS})", head, rows)


def steps_table() -> None:
    """Time every other step at 2048 x 2048."""
    maps = nuclei(2048)
    (image, foreground), both = maps, np.concatenate(maps, axis=-1)
    labels = processing.deep_watershed(maps)
    tiles, grid = processing.tile(image, (512, 512))
    classes = np.concatenate([foreground < 0.5, foreground, foreground], axis=-1)
    depth = np.concatenate([0.5 - image, 0.5 - abs(image - 0.5), image], axis=-1)
    steps: dict[str, Callable[[], object]] = {
        "normalize": partial(processing.normalize, image),
        "histogram_normalization": partial(processing.histogram_normalization, image),
        "mesmer_preprocess, 2 channels": partial(processing.mesmer_preprocess, both),
        "tile, 512": partial(processing.tile, image, (512, 512)),
        "untile, 512": partial(processing.untile, tiles, grid),
        "resize to 1577": partial(processing.resize, image, (1577, 1577)),
        "resize to 1577, 2 channels": partial(processing.resize, both, (1577, 1577)),
        "resize labels to 1577": partial(processing.resize, labels, (1577, 1577), labels=True),
        "deep_watershed": partial(processing.deep_watershed, maps),
        "deep_watershed, all of it one piece": partial(processing.deep_watershed, maps, interior_threshold=-1),
        "mesmer_postprocess, both compartments": partial(processing.mesmer_postprocess, [image, classes] * 2, "both"),
        "watershed, 3 steps of depth": partial(processing.watershed, depth),
        "pixelwise": partial(processing.pixelwise, classes),
        "mibi": partial(processing.mibi, classes),
        "detect_spots": partial(spots.detect_spots, both, both, threshold=0.5),
    }
    rows = [(name, 1000 * median(seconds(call) for _ in range(RUNS)), peak(call)) for name, call in steps.items()]
    show(f"Steps at 2048 x 2048 (time of one processor, medians of {RUNS})", ("step", "ms", "MiB at most"), rows)


if __name__ == "__main__":
    processing.warm_up()
    watershed_table()
    steps_table()
