"""A consumer with everything in memory around it: push an image, see what comes out."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from redis_consumer.consumers import Tools
from redis_consumer.job import Job, ModelId
from redis_consumer.models.base import TensorSpec
from redis_consumer.models.memory import MemoryModel, MemoryModelServer
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter
from redis_consumer.redis import RedisClient
from redis_consumer.settings import Settings
from redis_consumer.storage.object_store import open_storage
from redis_consumer.worker import work_off

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from redis_consumer.arrays import AnyArray, Image
    from redis_consumer.consumers import Consumer
    from redis_consumer.queues.base import FieldValue

NOBODY = RedisClient("127.0.0.1", 1)
"""A Redis that is never asked."""
ONE_CHANNEL = (None, None, None, 1)


class Recording(MemoryJobQueue):
    """A queue that remembers what was written, write by write."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker, queue="q", pod="pod")
        self.writes: list[dict[str, FieldValue]] = []

    def update(self, job: Job, fields: Mapping[str, FieldValue]) -> None:
        self.writes.append(dict(fields))
        super().update(job, fields)

    def words(self) -> list[str]:
        """Return the status words in their order."""
        return [str(fields["status"]) for fields in self.writes if "status" in fields]


class Models:
    """Models of one input `image`, each a function of it; remembers what they were sent."""

    def __init__(self) -> None:
        self.models: dict[ModelId, MemoryModel] = {}
        self.seen: list[tuple[str, AnyArray]] = []

    def add(
        self,
        name: str,
        function: Callable[[AnyArray], AnyArray | Mapping[str, AnyArray]],
        shape: tuple[int | None, ...] | None = ONE_CHANNEL,
        *,
        inputs: Sequence[str] = ("image",),
    ) -> None:
        """Serve `function` as the model ``Name:version``; an array that it returns is the output `prediction`."""

        def run(given: dict[str, AnyArray]) -> Mapping[str, AnyArray]:
            image = given["image"]
            self.seen.append((name, image))
            made = function(image)
            return {"prediction": made} if isinstance(made, np.ndarray) else made

        specs = [TensorSpec(input_name, np.dtype(np.float32), shape) for input_name in inputs]
        self.models[ModelId.parse(name)] = MemoryModel(specs, run)

    def server(self) -> MemoryModelServer:
        """Return a server of the models so far."""
        return MemoryModelServer(self.models)


@dataclass(frozen=True)
class Result:
    """What became of a job."""

    fields: dict[str, str]
    files: dict[str, AnyArray]
    """The arrays by their names in the archive, in its order: label images, maps, pictures, points."""

    @property
    def reason(self) -> str:
        """Why the job failed."""
        assert self.fields["status"] == "failed"
        return self.fields["reason"]


class Lab:
    """One lane, a bucket, a model server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bucket" / "uploads").mkdir(parents=True)
        self.broker = MemoryBroker()
        self.queue = Recording(self.broker)
        self.storage = open_storage((folder / "bucket").as_uri())
        self.models = Models()
        self.environ: dict[str, str] = {}

    def put(self, image: AnyArray | bytes, name: str) -> str:
        """Bring an image into the bucket and return its key: bytes as they are, ``.npy`` or an unnamed TIFF."""
        path = self.folder / "bucket" / "uploads" / name
        if isinstance(image, bytes):
            path.write_bytes(image)
        elif path.suffix == ".npy":
            np.save(path, image)
        else:
            tifffile.imwrite(path, image, photometric="minisblack")
        return f"uploads/{name}"

    def claim(self, **fields: str) -> Job:
        """Submit a job and claim it."""
        MemorySubmitter(self.broker).submit("q", "a", fields)
        job = self.queue.claim(timeout=0)
        assert job is not None
        return job

    def equipped(self, consumer_type: type[Consumer], redis: Any = NOBODY) -> Consumer:
        """Return a consumer with its tools."""
        consumer = consumer_type(redis, self.storage, "q", name="pod")
        consumer.equip(Tools(self.queue, self.models.server(), Settings.from_environ(self.environ)))
        return consumer

    def run(
        self, consumer_type: type[Consumer], image: AnyArray | bytes, name: str = "cells.tif", **fields: str
    ) -> Result:
        """Have a consumer do a job with this image."""
        given = {"original_name": name, "input_file_name": self.put(image, name), **fields}
        job = self.claim(**given)
        work_off(self.queue, self.equipped(consumer_type).handle, job)
        made = self.broker.jobs[job.key]
        return Result(made, self.files(made) if made["status"] == "done" else {})

    def files(self, fields: Mapping[str, str]) -> dict[str, AnyArray]:
        """Return the files of a job's result."""
        path = self.storage.download(fields["output_file_name"], self.folder / "results")
        with zipfile.ZipFile(path) as archive:
            return {name: array_of(name, archive.read(name)) for name in archive.namelist()}


def array_of(name: str, content: bytes) -> AnyArray:
    """Return the array of a result's file."""
    file = io.BytesIO(content)
    array: AnyArray = np.load(file, allow_pickle=False) if name.endswith(".npy") else tifffile.imread(file)
    return array


def checkers(shape: tuple[int, ...]) -> Image:
    """Return an image in which every pixel differs from its neighbours, float32."""
    return np.asarray(np.arange(np.prod(shape)).reshape(shape) % 251, np.float32)
