"""Who holds the interpreter lock: every step of a job in two threads at once.

How many processors two or four threads would keep busy, when each does a step again and again: 2 and 4 are perfect,
1 means that the lock is held all the time.  A thread that neither ran nor waited for a processor waited for the lock;
what other programs on the machine take, or how many processors it has, counts little.  Linux, for
/proc/thread-self/schedstat.

``python benchmarks/locks.py`` needs five minutes.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import get_ident
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
from redis_consumer.processing.labels import compact
from redis_consumer.processing.maxima import h_maxima
from redis_consumer.results import save_labels
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.tensors import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    Step = Callable[[], object]

SIZES = (512, 2048)
ROUNDS, SECONDS = 5, 0.4
JOB = "a whole job, but for the waiting"


def steps(size: int, folder: Path) -> dict[str, Step]:
    """Return what a `segmentation` job does to an image of that size: the job, its parts, and what they call."""
    (distance, foreground), path = nuclei(size), folder / f"{size}.tif"
    tifffile.imwrite(path, (distance[0, ..., 0] * 60_000).astype(np.uint16))
    image = read_image(path).channels([0])
    labels = processing.deep_watershed([distance, foreground])
    plane, inside = labels[0, ..., 0], foreground[0, ..., 0]
    reply = messages.write(pb.PredictResponse(), {"a": encode_tensor(distance), "b": encode_tensor(foreground)})
    entries = save_labels(Labels(labels), "a.tif", folder)
    packed = plane.astype(np.float32).tobytes()
    tiles, grid = processing.tile(image, (512, 512))
    markers, _ = scipy.ndimage.label(h_maxima(distance[0, ..., 0], 0.1, 10))

    def deliver() -> None:
        with tempfile.TemporaryDirectory() as own:
            zip_files(save_labels(Labels(labels), "a.tif", own), Path(own, "a.zip"))

    def job() -> None:
        processing.tile(processing.histogram_normalization(read_image(path).channels([0])), (512, 512))
        encode(tiles)
        decode(reply)
        processing.untile(tiles, grid)
        processing.deep_watershed([distance, foreground])
        deliver()

    def pack() -> None:
        with tempfile.TemporaryDirectory() as own:
            zip_files(entries, Path(own, "a.zip"))

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
        "its gaussian_filter (scipy)": partial(scipy.ndimage.gaussian_filter, inside, 1),
        "its label (scipy)": partial(scipy.ndimage.label, inside > 0.01),
        "watershed (scikit-image)": partial(ski.segmentation.watershed, -inside, markers, mask=inside > 0.01),
        "its compact": partial(compact, plane),
        "bincount (numpy)": partial(np.bincount, plane.ravel().astype(np.intp)),
        "take (numpy)": partial(np.arange(plane.max() + 1).take, plane),
        "counting to 10,000 (the interpreter)": lambda: [None for _ in range(10_000)],
        "index by an array (numpy)": lambda: np.arange(plane.max() + 1)[plane],
        "write a TIFF": lambda: tifffile.imwrite(folder / f"{get_ident()}.tif", inside, photometric="minisblack"),
        "zip": pack,
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
    """What threads did with their time, seconds."""

    ran: float
    waited: float
    """For a processor."""
    passed: float
    calls: int

    @property
    def busy(self) -> float:
        """Share of the time in which a thread had a processor, of that in which it could have one."""
        return self.ran / max(self.passed - self.waited, self.ran)


def moment() -> tuple[float, float, float]:
    """Return how long this thread ran and waited for a processor, and the time."""
    ran, waited, _ = map(int, Path("/proc/thread-self/schedstat").read_text("ascii").split())
    return ran / 1e9, waited / 1e9, time.monotonic()


def repeated(step: Step) -> Spent:
    """Do a step again and again in this thread."""
    before, calls = moment(), 0
    while calls == 0 or time.monotonic() < before[2] + SECONDS:
        step()
        calls += 1
    ran, waited, passed = (after - begin for after, begin in zip(moment(), before, strict=True))
    return Spent(ran, waited, passed, calls)


def at_once(step: Step, threads: int) -> list[Spent]:
    """Do a step again and again in so many threads."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(repeated, [step] * threads))


def measured(step: Step) -> tuple[float, ...]:
    """Return what a step costs alone, ms of a processor, and how many processors two and four threads want."""
    step()
    turns = []
    for _ in range(ROUNDS):
        (alone,) = at_once(step, 1)
        wanted = [sum(spent.busy for spent in at_once(step, threads)) for threads in (2, 4)]
        turns.append((1000 * alone.ran / alone.calls, *wanted))
    return tuple(statistics.median(figures) for figures in zip(*turns, strict=True))


def main() -> None:
    """Print a table."""
    tune_malloc()  # as a worker does
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="redis-consumer-bench-") as folder:
        for size in SIZES:
            for name, step in steps(size, Path(folder)).items():
                rows.setdefault(name, []).extend(measured(step))
    head = ("step", *(text for size in SIZES for text in (f"{size}: ms", "2 threads", "4 threads")))
    show(f"The interpreter lock (medians of {ROUNDS})", head, [(name, *figures) for name, figures in rows.items()])


if __name__ == "__main__":
    main()
