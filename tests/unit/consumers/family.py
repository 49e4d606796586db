"""A parent with everything in memory around it: one job in, its children done by hand, one result out."""

from __future__ import annotations

import io
import time
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from tests.unit.consumers.batch import Expiries, Recording, zipped
from tests.unit.consumers.lab import Models, Recording as RecordingQueue

from redis_consumer.consumers import Tools
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter
from redis_consumer.settings import Settings
from redis_consumer.storage.object_store import open_storage
from redis_consumer.worker import work_off

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from redis_consumer.arrays import AnyArray
    from redis_consumer.consumers import Consumer
    from redis_consumer.job import Job

    Files = Mapping[str, bytes]


class Family:
    """A bucket, a broker, a worker for the parent on the queue `q`, and whoever does the children."""

    def __init__(self, folder: Path, consumer_type: type[Consumer], **environ: str) -> None:
        self.folder, self.consumer_type, self.environ = folder, consumer_type, dict(environ)
        self.bucket = folder / "bucket"
        (self.bucket / "uploads").mkdir(parents=True)
        self.late = 0.0
        self.broker = MemoryBroker(clock=lambda: time.time() + self.late)
        self.storage: Any = Recording(open_storage(self.bucket.as_uri()))
        self.redis = Expiries()
        self.parents = RecordingQueue(self.broker)
        self.models = Models()

    def submit(self, content: AnyArray | bytes, name: str = "movie.tif", **fields: str) -> str:
        """Submit a job with this file and return its key."""
        key = f"uploads/{len(self.broker.jobs)}{name[name.rindex('.') :]}"
        (self.bucket / key).write_bytes(content if isinstance(content, bytes) else tiff(content))
        given = {"original_name": name, "input_file_name": key, **fields}
        return MemorySubmitter(self.broker).submit("q", name, given)

    def claim(self) -> Job:
        job = self.parents.claim(timeout=0)
        assert job is not None
        return job

    def consumer(self) -> Consumer:
        redis: Any = self.redis
        consumer = self.consumer_type(redis, self.storage, "q", name="pod")
        consumer.equip(Tools(self.parents, self.models.server(), Settings.from_environ(self.environ)))
        return consumer

    def visit(self) -> Job:
        """Have the parent's worker do what is to be done now."""
        work_off(self.parents, self.consumer().handle, job := self.claim())
        return job

    def work(self, queue: str, analyze: Callable[[Job], Files]) -> list[Job]:
        """Do every child that waits on `queue`: `analyze` returns the files of its result."""
        lane = MemoryJobQueue(self.broker, queue=queue, pod="child-pod")
        jobs = []
        while job := lane.claim(timeout=0):
            jobs.append(job)
            work_off(lane, lambda job: self._done(lane, job, analyze(job)), job)
        return jobs

    def _done(self, lane: MemoryJobQueue, job: Job, files: Files) -> str:
        path = self.folder / f"{job.key.rpartition(':')[2]}.zip"
        path.write_bytes(zipped(files))
        lane.update(job, {"output_file_name": self.storage.upload(path).key, "status": "done"})
        return "done"

    def input_of(self, job: Job) -> AnyArray:
        """Return the image that a child works on."""
        array: AnyArray = tifffile.imread(self.bucket / job.get("input_file_name"))
        return array

    def die(self, job: Job) -> None:
        """Let the lease of a job run out."""
        self.late += 31
        assert self.broker.sweep() == 1
        assert self.broker.jobs[job.key]["status"] not in {"done", "failed"}

    def fields(self, key: str) -> dict[str, str]:
        return self.broker.jobs[key]

    def failed(self, key: str) -> str:
        """Return the reason of a job that failed."""
        fields = self.fields(key)
        assert fields["status"] == "failed", fields
        assert "\n" not in fields["reason"]
        return fields["reason"]

    def result(self, key: str) -> dict[str, bytes]:
        """Return the files of a job that is done, in their order."""
        fields = self.fields(key)
        assert fields["status"] == "done", fields
        with zipfile.ZipFile(self.bucket / fields["output_file_name"]) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def objects(self) -> set[str]:
        """Return the keys of all objects in the bucket."""
        return {str(path.relative_to(self.bucket)) for path in self.bucket.rglob("*") if path.is_file()}


def tiff(array: AnyArray, **tags: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **({"photometric": "minisblack"} | tags))
    return file.getvalue()


def image(content: bytes) -> AnyArray:
    array: AnyArray = tifffile.imread(io.BytesIO(content))
    return array


def npy(array: AnyArray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
