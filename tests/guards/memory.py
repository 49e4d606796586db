"""Memory of a job in hand, counted in planes: what arrays a step makes, by the bytes that numpy reports to tracemalloc.

Everything around the worker is in memory and holds none of it: the model server answers with copies of what it is
sent, as one does whose replies are decoded.
"""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from tests.unit.consumers.lab import Lab, Recording

from redis_consumer.consumers.segmentation import SegmentationConsumer
from redis_consumer.job import ModelId, Status
from redis_consumer.models.base import TensorSpec
from redis_consumer.models.memory import MemoryModel
from redis_consumer.processing import warm_up
from redis_consumer.worker import work_off

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from redis_consumer.arrays import AnyArray
    from redis_consumer.job import Job
    from redis_consumer.queues.base import FieldValue

MODEL = "Nuclei:1"
TILE = 512


class Telling(SegmentationConsumer):
    """Has a word for every stage."""

    unspoken = frozenset()


class Weighing(Recording):
    """A queue that notes the most memory of each stage, in bytes."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording._broker)
        self.most: dict[str, int] = {}
        self._stage = str(Status.STARTED)

    def update(self, job: Job, fields: Mapping[str, FieldValue]) -> None:
        self.most[self._stage] = max(self.most.get(self._stage, 0), tracemalloc.get_traced_memory()[1])
        self._stage = str(fields.get("status", self._stage))
        super().update(job, fields)
        tracemalloc.reset_peak()


def weighed(folder: Path, image: AnyArray, **environ: str) -> dict[str, int]:
    """Return the most memory, in bytes, of each stage of a segmentation job with this image; it must end well."""
    lab = Lab(folder)
    lab.queue = queue = Weighing(lab.queue)
    lab.environ.update(NUCLEAR_MODEL=MODEL, **environ)
    spec = TensorSpec("image", np.dtype(np.float32), (None, TILE, TILE, 1))
    lab.models.models[ModelId.parse(MODEL)] = MemoryModel([spec], heads)
    job = lab.claim(original_name="cells.tif", input_file_name=lab.put(image, "cells.tif"))
    consumer = lab.equipped(Telling)
    warm_up()
    with traced():
        work_off(queue, consumer.handle, job)
    made = lab.broker.jobs[job.key]
    assert made["status"] == "done", made["reason"]
    return queue.most


def heads(inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """See peaks and foreground where it is bright."""
    return {"semantic_0": inputs["image"], "semantic_1": inputs["image"]}


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Give a function that returns the most memory since the beginning, or the last `tracemalloc.reset_peak`."""
    gc.collect()
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def nuclei(side: int) -> AnyArray:
    """Return an image of uint16 with a round nucleus in each 64 x 64 pixels, none as bright as another."""
    y, x = np.mgrid[:64, :64] - 31.5
    distance = np.hypot(y, x)
    spot = np.where(distance < 20, 1 - distance / 40, 0).astype(np.float32)
    bright = np.random.default_rng(1).uniform(30000, 60000, (side // 64, side // 64)).astype(np.float32)
    return (200 + np.kron(bright, spot)).astype(np.uint16)
