"""The submitter's side: bring an image, push a job, wait for it, fetch the result.  What the Kiosk's frontend does."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from redis_consumer.errors import JobRejected
from redis_consumer.job import FINAL, Status
from redis_consumer.storage.base import Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from redis_consumer.queues.base import Submitter
    from redis_consumer.storage.base import Storage

POLL_SECONDS = 0.1


class Client:
    """Submits jobs to one Redis and one bucket."""

    def __init__(self, submitter: Submitter, storage: Storage) -> None:
        self._submitter = submitter
        self._storage = storage

    def submit(self, path: str | Path, queue: str, fields: Mapping[str, str] | None = None) -> str:
        """Upload the file, push its job, and return the job's key.

        An archive goes to the queue's ``-zip`` twin, as everywhere in the Kiosk.
        """
        path = Path(path)
        upload = self._storage.deposit(path)
        return self._push(path.name, upload, queue, fields or {})

    def submit_stored(self, key: str, queue: str, fields: Mapping[str, str] | None = None) -> str:
        """Do as `submit`, for what is in the bucket already: a file, or the folder of an OME-Zarr image."""
        key = key.rstrip("/")
        return self._push(PurePosixPath(key).name, Upload(key, self._storage.url(key)), queue, fields or {})

    def _push(self, name: str, upload: Upload, queue: str, fields: Mapping[str, str]) -> str:
        target = f"{queue.removesuffix('-zip')}-zip" if name.lower().endswith(".zip") else queue
        given = {"original_name": name, "input_file_name": upload.key, "url": upload.url, **fields}
        return self._submitter.submit(target, name, given)

    def read(self, key: str) -> dict[str, str]:
        """Return the fields of a job; empty if there is no such job."""
        return self._submitter.read(key)

    def wait(
        self,
        keys: Iterable[str],
        *,
        timeout: float | None = None,
        on_look: Callable[[str, Mapping[str, str]], None] = lambda *_: None,
    ) -> dict[str, dict[str, str]]:
        """Return the fields of each job once all are final; TimeoutError after `timeout` seconds.

        `on_look` is called with a job's key and fields at every look.  A job whose hash vanishes counts as
        failed: nobody can tell any more.
        """
        open_jobs, ended = list(keys), dict[str, dict[str, str]]()
        deadline = None if timeout is None else time.monotonic() + timeout
        while open_jobs:
            for key in list(open_jobs):
                fields = self.read(key) or {"status": Status.FAILED, "reason": "The job is gone from Redis"}
                on_look(key, fields)
                if fields.get("status") in FINAL:
                    ended[key] = fields
                    open_jobs.remove(key)
            if open_jobs and deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{len(open_jobs)} jobs are not done after {timeout:g} s: {open_jobs[0]!r}")
            if open_jobs:
                time.sleep(POLL_SECONDS)
        return ended

    def fetch(self, fields: Mapping[str, str], folder: str | Path) -> Path:
        """Download the result of a job that is `done` into `folder`, under the image's name; return the path."""
        key = fields.get("output_file_name", "")
        if not key:
            raise JobRejected(f"The job has no result: its status is {fields.get('status')!r}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as inbox:
            path = Path(self._storage.download(key, inbox))
            name = Path(fields.get("original_name", "")).stem or path.stem
            return path.replace(free_name(folder / f"{name}{path.suffix}"))


def free_name(path: Path) -> Path:
    """Return `path`, or with a number before the suffix where that is taken."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
