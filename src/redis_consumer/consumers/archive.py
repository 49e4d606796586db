"""The Kiosk's batches: an archive on ``<queue>-zip`` becomes a job on `<queue>` for each image, and one zip again.

Knows no images: whatever has an extension goes to the queue, and it is said there whether it can be used.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import uuid
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from redis_consumer.archives import archive_limits, new_archive, open_archive
from redis_consumer.consumers.base import Consumer
from redis_consumer.consumers.children import failures_field
from redis_consumer.consumers.entries import EntryNames
from redis_consumer.consumers.work import TIME_FIELDS
from redis_consumer.errors import AccessDenied, JobRejected, reason_of
from redis_consumer.job import Status
from redis_consumer.results import safe_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from redis_consumer.archives import Archive, NewArchive
    from redis_consumer.consumers.children import Children, ChildResult
    from redis_consumer.queues.base import Child, FieldValue
    from redis_consumer.redis import RedisClient
    from redis_consumer.storage.base import Storage

ARCHIVE = ".zip"
LISTED = (*TIME_FIELDS.values(), "predict_retries", "total_time")
"""Fields that a batch has as a list: a value of each child that is done."""


class ZipFileConsumer(Consumer):
    """Each image of an archive as a job of its own, in the order of the archive; their results in one zip.

    Statuses are `waiting` and `done`; `failed` if nothing can be delivered.  What could not be done is told in
    `children:failed` and `failures`.  Left out are folders, hidden files, what operating systems leave behind, and
    files without an extension; an archive inside the archive is reported as failed.
    """

    def __init__(
        self,
        redis_client: RedisClient,
        storage_client: Storage,
        queue: str,
        final_status: str = Status.DONE,
        failed_status: str = Status.FAILED,
        name: str | None = None,
    ) -> None:
        super().__init__(redis_client, storage_client, self.source_of(queue), final_status, failed_status, name)
        self.child_queue = queue

    @staticmethod
    def source_of(queue: str) -> str:
        """Return the ``-zip`` twin: `queue` is where the children go."""
        return f"{queue}-zip".lower()

    def is_valid_hash(self, redis_hash: str | None) -> bool:
        """Return whether the input is an archive."""
        name = self._redis_values.get("input_file_name") or ""
        if "://" in name:
            name = name.partition("?")[0]
        return redis_hash is not None and name.lower().endswith(ARCHIVE)

    def _consume(self, redis_hash: str) -> str:
        children = self.children()
        with tempfile.TemporaryDirectory(prefix="redis-consumer-") as folder:
            if not children.submitted:
                return self._fan_out(children, Path(folder))
            gather = partial(self._gather, children, Path(folder))
            output = children.gathered(gather, seconds=self._tools().settings.expire_time)
        if output is None:
            return Status.WAITING
        self.update_key(redis_hash, {"status": self.final_status, **output})
        return self.final_status

    # Out.

    def _fan_out(self, children: Children, folder: Path) -> Status:
        shown = self.job.get("original_name") or PurePosixPath(self.job.get("input_file_name")).name
        path = Path(self.storage.download(self.job.require("input_file_name"), folder / "input"))
        if name := PurePosixPath(safe_name(shown)).name:
            path = path.replace(path.with_name(name))  # errors name it as the user knows it
        with open_archive(path, archive_limits(self._tools().settings)) as archive:
            names = images(archive.names)
            check_images(names, path.name)
            parts = (partial(self._part, children, archive, name, folder / "member") for name in names)
            return children.submit(parts, status=Status.WAITING)

    def _part(self, children: Children, archive: Archive, name: str, folder: Path) -> Child:
        """Bring one file of the archive into the bucket, and make a job of it."""
        fields: dict[str, FieldValue]
        try:
            fields = {"input_file_name": self._brought(children, archive, name, folder)}
        except AccessDenied:
            raise
        except JobRejected as error:
            fields = {"input_file_name": "", "status": self.failed_status, "reason": reason_of(error)}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return children.child(self.child_queue, name, fields)

    def _brought(self, children: Children, archive: Archive, name: str, folder: Path) -> str:
        if name.lower().endswith(ARCHIVE):
            raise JobRejected("It is an archive inside the archive, which is not unpacked")
        return children.upload(archive.unpack(name, folder), folder_of(name)).key

    # Back.

    def _gather(self, children: Children, folder: Path, results: Sequence[ChildResult]) -> dict[str, FieldValue]:
        """Deliver one zip of all results, and write everything but the status; return where it is."""
        began = time.monotonic()
        path = folder / f"{uuid.uuid4()}.zip"
        failed = self._zipped(path, children, results, folder / "result")
        report = report_of(results, failed)
        if len(failed) == len(results):
            self.update_key(self.job.key, report)
            children.clear_away(results, seconds=self._tools().settings.expire_time)
            raise JobRejected(none_done(results, failed))
        upload = self.storage.upload(path)
        output: dict[str, FieldValue] = {"output_url": upload.url, "output_file_name": upload.key}
        spent = round(time.monotonic() - began, 6)
        self.update_key(self.job.key, {**report, **output, "cleanup_time": spent, "progress": 100})
        return output

    def _zipped(self, path: Path, children: Children, results: Sequence[ChildResult], folder: Path) -> dict[str, str]:
        """Write the zip, one child at a time; return the reasons of those that have nothing in it, by key."""
        names = EntryNames([child.name for child in results])
        failed = {}
        with new_archive(path) as archive:
            for child in results:
                if reason := self._missed(archive, children, child, names, folder):
                    failed[child.key] = reason
        return failed

    def _missed(
        self, archive: NewArchive, children: Children, child: ChildResult, names: EntryNames, folder: Path
    ) -> str:
        """Add the files of one child; return why there are none, or nothing."""
        if not child.is_done:
            return child.reason
        try:
            entries = children.fetch(child, folder)
            for path, name in entries:
                archive.add(path, names.free(child.name, name, archive.names))
        except AccessDenied:
            raise
        except JobRejected as error:
            return reason_of(error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return ""


def images(names: Iterable[str]) -> list[str]:
    """Return the files that become jobs: none is hidden, and each has an extension."""
    paths = map(PurePosixPath, names)
    return [str(path) for path in paths if path.suffix and not any(part.startswith(".") for part in path.parts)]


def check_images(names: Sequence[str], archive: str) -> None:
    """Raise JobRejected where no file is worth a try."""
    if not names:
        raise JobRejected(f"The archive {archive!r} has no images in it")
    if all(name.lower().endswith(ARCHIVE) for name in names):
        raise JobRejected(
            f"The archive {archive!r} has only archives in it, which are not unpacked: expected are images"
        )


def folder_of(name: str) -> str:
    """Return the folders of a file of an archive; empty if it stands at the root."""
    return name.rpartition("/")[0]


def report_of(results: Sequence[ChildResult], failed: Mapping[str, str]) -> dict[str, FieldValue]:
    """Return what a batch tells of its children; `failed` has the reasons by key."""
    done = [child for child in results if child.key not in failed]
    listed = {field: ",".join(filter(None, (child.fields.get(field) for child in done))) for field in LISTED}
    extras = {child.name: understood(told) for child in done if (told := child.fields.get("extra_outputs"))}
    return {
        "children:done": ",".join(child.key for child in done),
        "children:failed": ",".join(failed),
        "failures": failures_field(failed),
        "total_jobs": len(results),
        **{field: values for field, values in listed.items() if values},
        **({"extra_outputs": json.dumps(extras)} if extras else {}),
    }


def understood(text: str) -> object:
    """Return what a consumer wrote as JSON; a consumer of somebody's own may have written anything."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def none_done(results: Sequence[ChildResult], failed: Mapping[str, str]) -> str:
    """Return the reason of a batch that has nothing to deliver."""
    first = results[0]
    return f"None of {len(results)} images in the archive could be processed; {first.name!r}: {failed[first.key]}"
