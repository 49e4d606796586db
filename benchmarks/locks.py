"""Who waits for the interpreter lock: every step of a job in one thread, and in two and four at once.

Two figures tell.  How many times as fast two and four threads are as one: 2 is perfect on two cores, and below 1 they
only hinder each other.  And how often a thread had to wait in one call: for the lock, since none of these steps waits
for anything else.  Linux, for /proc/thread-self/status.  On a machine that others use, the first figure is too low.

``python benchmarks/locks.py`` needs five minutes.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy
import skimage as ski
import tifffile
from processing import nuclei
from tables import show

from redis_consumer import processing
from redis_consumer.archives import zip_files
from redis_consumer.arrays import Labels
from redis_consumer.images import read_image
from redis_consumer.limits import tune_malloc
from redis_consumer.processing import kernels
from redis_consumer.processing.kernels import plain
from redis_consumer.processing.labels import compact
from redis_consumer.processing.maxima import h_maxima
from redis_consumer.results import label_files
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.tensors import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Step = Callable[[], object]

SIZES = (512, 2048)
ROUNDS, SECONDS = 5, 0.4
JOB = "a whole job, but for the waiting"
ARRAYS = (JOB, "histogram_normalization", "deep_watershed", "its h_maxima", "untile")
"""Steps that use the kernels."""
COMPILED = tuple(name for name in kernels.__all__ if hasattr(plain, name) and name.islower())


def steps(size: int, folder: Path) -> dict[str, Step]:
    """Return what a `segmentation` job does to an image of that size: the job, its parts, and what they call."""
    (distance, foreground), path = nuclei(size), folder / f"{size}.tif"
    tifffile.imwrite(path, (distance[0, ..., 0] * 60_000).astype(np.uint16))
    image = read_image(path).channels([0])
    labels = processing.deep_watershed([distance, foreground])
    plane, inside = labels[0, ..., 0], foreground[0, ..., 0]
    reply = messages.write(pb.PredictResponse(), {"a": encode_tensor(distance), "b": encode_tensor(foreground)})
    packed = plane.astype(np.float32).tobytes()
    tiles, grid = processing.tile(image, (512, 512))
    markers, _ = scipy.ndimage.label(h_maxima(distance[0, ..., 0], 0.1, 10))

    def pack() -> None:
        with tempfile.TemporaryDirectory() as own:
            zip_files(label_files(Labels(labels), "a.tif"), Path(own, "a.zip"))

    def job() -> None:
        processing.tile(processing.histogram_normalization(read_image(path).channels([0])), (512, 512))
        encode(tiles)
        decode(reply)
        processing.untile(tiles, grid)
        processing.deep_watershed([distance, foreground])
        pack()

    return {
        JOB: job,
        "read a TIFF": lambda: read_image(path).channels([0]),
        "histogram_normalization": partial(processing.histogram_normalization, image),
        "normalize": partial(processing.normalize, image),
        "tile": partial(processing.tile, image, (512, 512)),
        "write a request": partial(encode, tiles),
        "read a reply": partial(decode, reply),
        "untile": partial(processing.untile, tiles, grid),
        "deep_watershed": partial(processing.deep_watershed, [distance, foreground]),
        "its h_maxima": partial(h_maxima, distance[0, ..., 0], 0.1, 10),
        "its label (scipy)": partial(scipy.ndimage.label, inside > 0.01),
        "watershed (scikit-image)": partial(ski.segmentation.watershed, -inside, markers, mask=inside > 0.01),
        "its compact": partial(compact, plane),
        "bincount (numpy)": partial(np.bincount, plane.ravel().astype(np.intp)),
        "take (numpy)": partial(np.arange(plane.max() + 1).take, plane),
        "counting to 10,000 (the interpreter)": lambda: [None for _ in range(10_000)],
        "index by an array (numpy)": lambda: np.arange(plane.max() + 1)[plane],
        "TIFF and zip": pack,
        "deflate (zlib)": partial(zlib.compress, packed, 1),
    }


def encode(tiles: object) -> bytes:
    """Return a request."""
    return messages.write(pb.PredictRequest(), {"image": encode_tensor(np.asarray(tiles))})


def decode(reply: bytes) -> list[object]:
    """Return the arrays of a reply."""
    _, tensors = messages.read(pb.PredictResponse, reply)
    return [decode_tensor(tensor) for tensor in tensors.values()]


@dataclass(frozen=True, slots=True)
class Spent:
    """What threads did that did a step at once."""

    calls_per_s: float
    waits: float
    """Of a thread in one call."""
    cpu_ms: float
    """Of a call."""


def moment() -> tuple[float, float]:
    """Return how often this thread has waited so far, and how long it ran."""
    status = Path("/proc/thread-self/status").read_text("ascii")
    return float(status.split("\nvoluntary_ctxt_switches:")[1].split()[0]), time.thread_time()


def repeated(step: Step) -> tuple[int, float, float, float]:
    """Do a step again and again in this thread; return how often, its waits, its CPU seconds, and all seconds."""
    began, before, calls = time.monotonic(), moment(), 0
    while calls == 0 or time.monotonic() < began + SECONDS:
        step()
        calls += 1
    waits, ran = (after - start for after, start in zip(moment(), before, strict=True))
    return calls, waits, ran, time.monotonic() - began


def at_once(step: Step, threads: int) -> Spent:
    """Do a step again and again in so many threads."""
    with ThreadPoolExecutor(threads) as pool:
        told = list(pool.map(repeated, [step] * threads))
    calls, waits, ran = (sum(column) for column in list(zip(*told, strict=True))[:3])
    return Spent(sum(one[0] / one[3] for one in told), waits / calls, 1000 * ran / calls)


def measured(step: Step) -> tuple[float, ...]:
    """Return what a step costs alone, ms of a processor, how much faster two and four threads are, and their waits."""
    step()
    turns = []
    for _ in range(ROUNDS):
        alone, two, four = (at_once(step, threads) for threads in (1, 2, 4))
        turns.append(
            (alone.cpu_ms, two.calls_per_s / alone.calls_per_s, four.calls_per_s / alone.calls_per_s, four.waits)
        )
    return tuple(statistics.median(figures) for figures in zip(*turns, strict=True))


@contextmanager
def in_numpy() -> Iterator[None]:
    """Have the kernels of `plain` used."""
    chosen = {name: getattr(kernels, name) for name in COMPILED}
    for name in COMPILED:
        setattr(kernels, name, getattr(plain, name))
    try:
        yield
    finally:
        for name, kernel in chosen.items():
            setattr(kernels, name, kernel)


def main() -> None:
    """Print a table."""
    tune_malloc()  # as a worker does
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="redis-consumer-bench-") as folder:
        for size in SIZES:
            made = steps(size, Path(folder))
            for name, step in made.items():
                rows.setdefault(name, []).extend(measured(step))
            with in_numpy():
                for name in ARRAYS:
                    rows.setdefault(f"{name}, in numpy", []).extend(measured(made[name]))
    head = ("step", *(text for size in SIZES for text in (f"{size}: ms", "2 threads", "4 threads", "waits of 4")))
    show(f"The interpreter lock (medians of {ROUNDS})", head, [(name, *figures) for name, figures in rows.items()])


if __name__ == "__main__":
    main()
