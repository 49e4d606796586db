"""How long each step of a job keeps the heartbeat waiting.

The heartbeat is a thread of its own, and gets its turn when a step lets go of the interpreter.  A step that held it for
as long as a lease would cost the job.  Here a thread wants to run every millisecond while a step works on a large image
in another one; the longest time that it had to wait is printed, the worst of several runs.

``python benchmarks/heartbeat.py`` needs some two minutes.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from processing import nuclei
from tables import show

from redis_consumer import processing
from redis_consumer.archives import zip_files
from redis_consumer.arrays import Labels
from redis_consumer.images import ImageLimits, read_image
from redis_consumer.results import label_files
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.tensors import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 2048
RUNS = 3
TICK_SECONDS = 0.001


def longest_wait(step: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that `step` took, and the longest that another thread waited for its turn meanwhile."""
    over, waits = threading.Event(), [0.0]

    def tick() -> None:
        last = time.perf_counter()
        while not over.is_set():
            time.sleep(TICK_SECONDS)
            now = time.perf_counter()
            waits.append(now - last - TICK_SECONDS)
            last = now

    ticking = threading.Thread(target=tick)
    ticking.start()
    began = time.perf_counter()
    step()
    seconds = time.perf_counter() - began
    over.set()
    ticking.join()
    return seconds, max(waits)


def steps(folder: Path) -> dict[str, Callable[[], object]]:
    """Return what a job does to an image, by name."""
    maps = nuclei(SIZE)
    image = maps[0]
    labels = processing.deep_watershed(maps)
    classes = np.concatenate([maps[1], 1 - maps[1], maps[0]], -1)
    path = folder / "image.tif"
    tifffile.imwrite(path, (1000 * image[0, ..., 0]).astype(np.uint16), compression="zlib")
    limits = ImageLimits(height=SIZE, width=SIZE, frames=1, pixels=SIZE * SIZE)
    tiles, grid = processing.tile(image, (512, 512))
    tensor = b"".join(encode_tensor(image, pb.DT_FLOAT))
    return {
        "read a TIFF, deflated": lambda: read_image(path, axes="", limits=limits),
        "normalize": lambda: processing.normalize(image),
        "histogram_normalization": lambda: processing.histogram_normalization(image),
        "resize by 0.5": lambda: processing.resize(image, (SIZE // 2, SIZE // 2)),
        "tile": lambda: processing.tile(image, (512, 512)),
        "untile": lambda: processing.untile(tiles, grid),
        "write a request": lambda: messages.write(pb.PredictRequest(), {"x": encode_tensor(image, pb.DT_FLOAT)}),
        "read a tensor": lambda: decode_tensor(tensor),
        "deep_watershed": lambda: processing.deep_watershed(maps),
        "pixelwise": lambda: processing.pixelwise(classes),
        "TIFF and zip": lambda: zip_files(label_files(Labels(labels), "image.tif"), folder / "result.zip"),
    }


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name, step in steps(Path(folder)).items():
            step()  # what is loaded at the first call is the warm-up's business
            runs = [longest_wait(step) for _ in range(RUNS)]
            rows.append((name, 1000 * min(seconds for seconds, _ in runs), 1000 * max(wait for _, wait in runs)))
    show(
        f"The heartbeat beside each step, {SIZE} x {SIZE}",
        ("step", "takes, ms", "longest wait of the heartbeat, ms"),
        rows,
    )


if __name__ == "__main__":
    main()
