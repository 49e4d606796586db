"""A job that fans out into children, and gathers what they leave: archives, movies, consumers of one's own.

On its first visit the consumer submits the children and returns `Status.WAITING`: the lane goes on with other jobs.
The job comes back when all children are final, maybe to another machine, and is finished there.  Whoever dies in
between, no child is submitted twice.  Knows no archives of images and no queue by name.
"""

from __future__ import annotations

import logging
import sys
import time
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from redis_consumer.archives import Entry, open_archive
from redis_consumer.consumers.work import TIME_FIELDS
from redis_consumer.errors import JobRejected, QueueUnavailable, StorageUnavailable
from redis_consumer.job import FINAL, Status
from redis_consumer.queues.base import Child
from redis_consumer.retry import call_with_retries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from redis_consumer.archives import ArchiveLimits
    from redis_consumer.job import Job
    from redis_consumer.queues.base import FieldValue, JobQueue
    from redis_consumer.redis import RedisClient
    from redis_consumer.storage.base import Storage, Upload

log = logging.getLogger(__name__)

ABOUT_THE_PARENT = frozenset(
    {
        *("status", "created_at", "updated_at", "updated_by", "finished_at", "identity_upload", "identity_started"),
        *("children", "children:done", "children:failed", "children_upload_time", "cleanup_time"),
        *("children_share", "started_at", "tracked_by"),
        *("progress", "reason", "failures", "output_url", "output_file_name", "total_jobs", "total_time"),
        "extra_outputs",
        *("predict_retries", *TIME_FIELDS.values()),
    }
)
"""Fields that say what became of a job, not what is wanted: children do not inherit them."""
OUR_PREFIX = "output/"
EXPIRED_AT_A_TIME = 500
PATIENCE_SECONDS = 30.0
"""With a Redis that restarts at the very end of a batch."""
REASON_CHARACTERS = 200
MOST_FAILURES = 1000
"""Both: readers show each failure on a line."""
VANISHED = "The job is gone from Redis"


@dataclass(frozen=True, slots=True)
class ChildResult:
    """What became of a child."""

    key: str
    fields: Mapping[str, str]
    """Its hash, without blank fields; empty if that vanished."""

    @property
    def name(self) -> str:
        """What the user calls it; of one that vanished, what its key tells."""
        return self.fields.get("original_name") or name_in(self.key)

    @property
    def is_final(self) -> bool:
        """Whether nobody works on it any more."""
        return not self.fields or self.fields.get("status") in FINAL

    @property
    def is_done(self) -> bool:
        """Whether it left a result."""
        return self.fields.get("status") == Status.DONE

    @property
    def reason(self) -> str:
        """Why it failed, in one line; empty if it did not."""
        if self.is_done:
            return ""
        lines = self.fields.get("reason", "").strip().splitlines() or ["The job gave no reason"]
        return lines[-1] if self.fields else VANISHED


class Children:
    """The children of one job in hand.  A consumer gets them from `Consumer.children`."""

    def __init__(
        self, parent: Job, jobs: JobQueue, storage: Storage, redis: RedisClient, limits: ArchiveLimits | None = None
    ) -> None:
        self._parent, self._jobs, self._storage, self._redis, self._limits = parent, jobs, storage, redis, limits
        # The same for every worker that has the job in hand: what is uploaded again takes the place of the former.
        self._folder = str(uuid.uuid5(uuid.NAMESPACE_URL, parent.key.encode(errors="replace").decode()))

    # Out.

    @property
    def submitted(self) -> bool:
        """Whether all children stand in Redis.  False again after an operator replayed the job."""
        return bool(self._parent.get("children")) and any(True for _ in self._jobs.children(self._parent))

    def upload(self, path: str | Path, subdir: str = "") -> Upload:
        """Store an input of a child, as ``output/<uuid>/[<subdir>/]<basename>``; `clear_away` removes it."""
        return self._storage.upload(path, "/".join(part for part in (self._folder, subdir) if part))

    def child(self, queue: str, name: str, fields: Mapping[str, FieldValue]) -> Child:
        """Return a child for `queue` that wants what the parent wants, but for `fields`; `name` as users know it.

        Its key is ``<queue>:<name>:<uuid4>``, with ``_`` for each comma of the name: readers split lists of keys
        there.  With a final `status` among the fields it is a part that cannot become a job: it is counted and
        reported with the others, and nobody claims it.
        """
        wanted = {name: text for name, text in self._parent.fields.items() if name not in ABOUT_THE_PARENT}
        return Child(queue, name.replace(",", "_"), {**wanted, "original_name": name, **fields})

    def submit(self, parts: Iterable[Callable[[], Child]], **fields: FieldValue) -> Status:
        """Submit what each part makes, once for this job, and return `Status.WAITING` for the consumer to return.

        A part is called when its turn has come, and not at all where a worker that died had submitted it before:
        so the order must be the same each time.  When the last one stands in Redis, `fields` are written, with
        the names of all children.  JobRejected if there are no parts; LeaseLost if the job is not ours.
        """
        began = time.monotonic()
        known = sum(1 for _ in self._jobs.children(self._parent))
        standing = Child("", "", {})  # for one that is there, and is not looked at
        made = (part() if place >= known else standing for place, part in enumerate(parts))
        keys = self._jobs.submit_children(self._parent, made)
        if not keys:
            raise JobRejected("The job has no parts")
        seconds = round(time.monotonic() - began, 6)
        self._jobs.update(self._parent, {**fields, "children": ",".join(keys), "children_upload_time": seconds})
        return Status.WAITING

    # Back.

    @property
    def delivered(self) -> dict[str, FieldValue]:
        """Where the parent's result is, if a worker that died wrote it down; empty if not."""
        if not self._parent.get("output_file_name"):
            return {}
        return {name: self._parent.get(name) for name in ("output_url", "output_file_name")}

    def results(self) -> list[ChildResult] | None:
        """Return what became of each child, in the order of submission; None while one is not final.

        That happens where an operator put the job back into its queue: return `Status.WAITING` once more.
        """
        found = [ChildResult(key, said(fields)) for key, fields in self._jobs.children(self._parent)]
        return found if all(child.is_final for child in found) else None

    def gathered(
        self, gather: Callable[[Sequence[ChildResult]], Mapping[str, FieldValue]], *, seconds: int
    ) -> Mapping[str, FieldValue] | None:
        """Return where the parent's result is, and clear the children away; None while one is not final.

        `gather` makes the result, writes where it is into the parent's hash, and returns that.  It is not called
        where a worker that died had come so far.
        """
        results = self.results()
        if results is None:
            return None
        output = self.delivered or gather(results)
        # Not before the result is known to Redis: whoever has to go on after a death could not gather anew.
        self.clear_away(results, seconds=seconds)
        return output

    def fetch(self, child: ChildResult, folder: str | Path) -> list[Entry]:
        """Download the result of a child that is done; return its files, those of a zip in its order.

        JobRejected where there is none, or it cannot be unpacked.
        """
        key = child.fields.get("output_file_name", "")
        if not key:
            raise JobRejected("The job left no result")
        path = Path(self._storage.download(key, Path(folder, "download")))
        if path.suffix.lower() != ".zip":
            return [Entry(str(path), path.name)]
        with open_archive(path, self._limits) as archive:
            return [Entry(str(archive.unpack(name, Path(folder, "files"))), name) for name in archive.names]

    def clear_away(self, children: Sequence[ChildResult], *, seconds: int) -> None:
        """Remove what nobody needs when the parent's own result is safe; it may be repeated.

        Gone are the results of children that are done, and their inputs if they were brought by `upload`; what a
        failed child worked on stays, so that it can be replayed.  The hashes expire in `seconds`.  A bucket that
        does not let go of them is no reason to fail: they are left to its own rules.
        """
        done = [child.fields for child in children if child.is_done]
        inputs = [key for fields in done if (key := fields.get("input_file_name", "")).startswith(self._prefix)]
        outputs = [key for fields in done if (key := fields.get("output_file_name", "")).startswith(OUR_PREFIX)]
        try:
            self._storage.remove(dict.fromkeys([*inputs, *outputs]))
        except (JobRejected, StorageUnavailable) as error:
            log.warning("Files of the children of job %s stay in the bucket: %s", self._parent.key, error)
        self._expire([child.key for child in children], seconds)

    @property
    def _prefix(self) -> str:
        return f"{OUR_PREFIX}{self._folder}/"

    def _expire(self, keys: Sequence[str], seconds: int) -> None:
        for start in range(0, len(keys), EXPIRED_AT_A_TIME):
            expire = partial(self._expire_chunk, keys[start : start + EXPIRED_AT_A_TIME], seconds)
            call_with_retries(expire, on=QueueUnavailable, seconds=PATIENCE_SECONDS)

    def _expire_chunk(self, keys: Sequence[str], seconds: int) -> None:
        with self._redis.translated() as master, master.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.expire(key, seconds)
            pipe.execute()


def name_in(key: str) -> str:
    """Return what the user calls a child, as its key tells: with ``_`` for each comma."""
    return key.partition(":")[2].rpartition(":")[0]


def said(fields: Mapping[str, str]) -> dict[str, str]:
    """Return the fields that say something: ten thousand hashes are in memory at once."""
    return {sys.intern(name): text for name, text in fields.items() if text}


def failures_field(reasons: Mapping[str, str]) -> str:
    """Return the field `failures`, which the Kiosk's page takes apart: ``key=reason&...``, URL-encoded."""
    listed = [(key, reason[:REASON_CHARACTERS]) for key, reason in list(reasons.items())[:MOST_FAILURES]]
    if more := len(reasons) - len(listed):
        listed.append((f"{more} more", "failed too"))
    return urlencode(listed, errors="replace")
