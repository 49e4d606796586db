"""A batch with everything in memory around it: an archive in, its children done by hand, one archive out."""

from __future__ import annotations

import io
import time
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redis_consumer.consumers import Tools, ZipFileConsumer
from redis_consumer.models.memory import MemoryModelServer
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter
from redis_consumer.settings import Settings
from redis_consumer.storage.object_store import open_storage
from redis_consumer.worker import work_off

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from redis_consumer.job import Job
    from redis_consumer.storage.base import Storage, Upload

QUEUE = "q"


class Expiries:
    """A Redis that is only told which keys expire."""

    def __init__(self) -> None:
        self.seconds: dict[str, int] = {}

    @contextmanager
    def translated(self) -> Iterator[Expiries]:
        yield self

    @contextmanager
    def pipeline(self, *, transaction: bool) -> Iterator[Expiries]:
        assert not transaction
        yield self

    def expire(self, key: str, seconds: int) -> None:
        self.seconds[key] = seconds

    def execute(self) -> None:
        """Nothing was held back."""


class Recording:
    """A bucket that remembers what was uploaded."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.uploads: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def upload(self, path: str | Path, subdir: str | None = None) -> Upload:
        upload = self._storage.upload(path, subdir)
        self.uploads.append(upload.key)
        return upload


class Batch:
    """A bucket and a broker; the workers are methods."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bucket = folder / "bucket"
        (self.bucket / "uploads").mkdir(parents=True)
        self.late = 0.0
        self.broker = MemoryBroker(clock=lambda: time.time() + self.late)
        self.storage: Any = Recording(open_storage(self.bucket.as_uri()))
        self.redis = Expiries()
        self.parents = MemoryJobQueue(self.broker, queue=f"{QUEUE}-zip", pod="zip-pod")
        self.children = MemoryJobQueue(self.broker, queue=QUEUE, pod="pod")
        self.environ: dict[str, str] = {}

    def submit(self, members: Mapping[str, bytes] | bytes, name: str = "batch.zip", **fields: str) -> str:
        """Submit an archive and return the job's key."""
        (self.bucket / "uploads" / name).write_bytes(members if isinstance(members, bytes) else zipped(members))
        given = {"original_name": name, "input_file_name": f"uploads/{name}", **fields}
        return MemorySubmitter(self.broker).submit(f"{QUEUE}-zip", name, given)

    def consumer(self) -> ZipFileConsumer:
        redis: Any = self.redis
        consumer = ZipFileConsumer(redis, self.storage, QUEUE, name="zip-pod")
        consumer.equip(Tools(self.parents, MemoryModelServer({}), Settings.from_environ(self.environ)))
        return consumer

    def claim(self) -> Job:
        job = self.parents.claim(timeout=0)
        assert job is not None
        return job

    def visit(self) -> Job:
        """Have the zip worker do what is to be done now."""
        work_off(self.parents, self.consumer().handle, job := self.claim())
        return job

    def work(self, analyze: Callable[[Job], Mapping[str, bytes]]) -> list[Job]:
        """Do every child that waits: `analyze` returns the files of its result."""
        jobs = []
        while job := self.children.claim(timeout=0):
            jobs.append(job)
            work_off(self.children, lambda job: self._done(job, analyze(job)), job)
        return jobs

    def _done(self, job: Job, files: Mapping[str, bytes]) -> str:
        path = self.folder / f"{job.key.rpartition(':')[2]}.zip"
        path.write_bytes(zipped(files))
        fields = {"output_file_name": self.storage.upload(path).key, "upload_time": 0.5, "status": "done"}
        self.children.update(job, fields)
        return "done"

    def die(self, job: Job) -> None:
        """Let the lease of a job run out."""
        self.late += 31
        assert self.broker.sweep() == 1
        assert self.broker.jobs[job.key]["status"] not in {"done", "failed"}

    def fields(self, key: str) -> dict[str, str]:
        return self.broker.jobs[key]

    def result(self, key: str) -> dict[str, bytes]:
        """Return the files of a batch that is done, in their order."""
        fields = self.fields(key)
        assert fields["status"] == "done", fields
        with zipfile.ZipFile(self.bucket / fields["output_file_name"]) as archive:
            assert archive.testzip() is None
            return {name: archive.read(name) for name in archive.namelist()}

    def objects(self) -> set[str]:
        """Return the keys of all objects in the bucket."""
        return {str(path.relative_to(self.bucket)) for path in self.bucket.rglob("*") if path.is_file()}


def zipped(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()
