"""The port of the object storage.  Each docstring is the contract; `redis_consumer.testing.storage` examines it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from redis_consumer.storage.ranges import RangeFile


class Upload(NamedTuple):
    """Where an upload went.  Unpacks as ``key, url``."""

    key: str
    """The object's key in the bucket, e.g. ``output/4d3b....zip``."""
    url: str
    """The address under which a reader finds it."""


class Content(NamedTuple):
    """A file that is in memory.  `data` is not changed, and may be read more than once."""

    name: str
    data: bytes | memoryview

    @property
    def size(self) -> int:
        """In bytes."""
        return memoryview(self.data).nbytes


class Storage(Protocol):
    """One bucket.  Keys use ``/``; safe for several threads."""

    def download(self, key: str, folder: str | Path) -> str:
        """Write the object into `folder` and return the file's path, an absolute one inside `folder`.

        The local name is the key without its first segment (``uploads/a/b.tif`` becomes ``a/b.tif``); a key of
        one segment keeps it.  An URL of this bucket is taken for its key.  ObjectNotFound, AccessDenied;
        JobRejected for a key that is empty or leaves the folder (``..``, absolute, control characters);
        StorageUnavailable when the time limit is over.  On an error no partial file is left.
        """

    def open(self, key: str) -> AbstractContextManager[RangeFile]:
        """Give the object as a read-only file that is read by ranges, the first of them now.

        Keys and errors as for `download`, here and at every read.  All reads are of one version: RetryJob when the
        object was changed meanwhile.  A block that is left after a failed read, by whatever error or by none, is left
        by the error of the storage.
        """

    def upload(self, file: str | Path | Content, subdir: str | None = None) -> Upload:
        """Store the file as ``output/[<subdir>/]<basename>`` and return its key and URL.

        An object is either whole or absent.  AccessDenied, StorageUnavailable, or JobRejected for a bad name.
        """

    def deposit(self, path: str | Path) -> Upload:
        """Store the file as ``uploads/<uuid4><extension>``: how a submitter brings an image; errors as `upload`."""

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error.  Errors as `download`; some may be gone then."""

    def url(self, key: str) -> str:
        """Return the address of a key, whether or not the object exists."""

    def check(self) -> None:
        """Ask the bucket whether it is there: SettingsError for a missing bucket or refused credentials.

        StorageUnavailable when nobody answers: that may pass.
        """
