"""S3, Google Cloud Storage, Azure, a local folder and memory behind the `Storage` port, through obstore.

Knows no jobs and no images.  How a client is built stands in `clients`, what its errors mean in `faults`.
"""

from __future__ import annotations

import logging
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import obstore
from obstore import Bytes
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from redis_consumer.errors import (
    AccessDenied,
    JobRejected,
    ObjectNotFound,
    RetryJob,
    SettingsError,
    StorageUnavailable,
)
from redis_consumer.retry import call_with_retries
from redis_consumer.storage.base import Content, Upload
from redis_consumer.storage.clients import PUBLIC, StorageOptions, check_folder, endpoint_of, open_client
from redis_consumer.storage.faults import (
    AclRefused,
    WrongRegion,
    changed,
    is_beyond_the_end,
    is_missing_bucket,
    translated,
)
from redis_consumer.storage.keys import Addresses, Bucket, Cloud, check_key, local_name, output_key
from redis_consumer.storage.ranges import START_BYTES, RangeFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from obstore import GetOptions, GetResult
    from obstore.store import ClientConfig, ObjectStore

T = TypeVar("T")

log = logging.getLogger(__name__)

ONE_PUT_BYTES = 64 * 2**20
"""Larger files go up in parts, each with a time limit; up to here one PUT is faster and needs this much memory."""
PART_BYTES = 16 * 2**20
CHUNK_BYTES = 4 * 2**20
ZIP = ".zip"
REMOVED_AT_A_TIME = 1000
"""S3 takes no more in one request."""
SIGNED_FOR = timedelta(days=7)
"""The longest life that S3 and GCS allow a signed link."""


@dataclass(frozen=True, slots=True)
class _Version:
    """What tells one content of an object from another."""

    size: int
    e_tag: str | None

    @classmethod
    def of(cls, result: GetResult) -> Self:
        return cls(result.meta["size"], result.meta["e_tag"])


def open_storage(bucket: str, options: StorageOptions | None = None) -> ObjectStorage:
    """Return the storage that `STORAGE_BUCKET` names; SettingsError for what is no bucket.  Sends nothing."""
    return ObjectStorage(Bucket.parse(bucket), options or StorageOptions())


class ObjectStorage:
    """One bucket; safe for several threads.  The contract is `redis_consumer.storage.base.Storage`."""

    def __init__(self, bucket: Bucket, options: StorageOptions) -> None:
        self.bucket = bucket
        self._options = options
        self._signed = _wants_signed(bucket, options)
        # reqwest counts a slow upload as a stalled read, so only the reader gets a limit for standing still.
        limits: ClientConfig = {
            "read_timeout": timedelta(seconds=options.stall_seconds),
            "timeout": timedelta(seconds=options.download_seconds),
        }
        self._reader = open_client(bucket, options, limits)
        self._writer = self._reader if bucket.cloud is Cloud.MEMORY else open_client(bucket, options, {})
        self._publisher = self._writer
        self.public_results = bucket.cloud is Cloud.GCS and options.acl != "private" and not self._signed
        """Whether everybody may read the results; true is worth a warning at start."""
        if self.public_results:
            self._publisher = open_client(bucket, options, {"default_headers": PUBLIC})
        self._addresses = Addresses(bucket, endpoint_of(bucket, options), options.given("region"))

    def __repr__(self) -> str:
        return f"ObjectStorage({str(self.bucket)!r})"

    def download(self, key: str, folder: str | Path) -> str:
        """Write the object into `folder` and return the file's absolute path; see the port."""
        key = self._addresses.key(key)
        target = _inside(Path(folder), local_name(key))
        self._patiently(key, lambda: self._fetch(key, target))
        return str(target)

    @contextmanager
    def open(self, key: str) -> Iterator[RangeFile]:
        """Give the object as a file that is read by ranges; see the port."""
        key = self._addresses.key(key)
        version, start = self._patiently(key, lambda: self._first(key))

        def fetch(start: int, end: int) -> Bytes:
            return self._patiently(key, lambda: self._range(key, start, end, version))

        with RangeFile(version.size, fetch, start) as file:
            yield file

    def upload(self, file: str | Path | Content, subdir: str | None = None) -> Upload:
        """Store the file as ``output/[<subdir>/]<basename>`` and return its key and URL; see the port.

        A zip without `subdir` is a result: it alone is made public where results are.  FileNotFoundError if
        there is no such file: that is a bug of the caller.
        """
        there = file if isinstance(file, Content) else _existing(file)
        key = output_key(there.name, subdir)
        if not subdir and key.endswith(ZIP):
            self._publish(key, there)
        else:
            self._patiently(key, lambda: self._put(self._writer, key, there))
        return Upload(key, self.url(key))

    def deposit(self, path: str | Path) -> Upload:
        """Store the file as ``uploads/<uuid4><extension>`` and return its key and URL; see the port."""
        path = _existing(path)
        key = check_key(f"uploads/{uuid.uuid4()}{path.suffix}")
        self._patiently(key, lambda: self._put(self._writer, key, path))
        return Upload(key, self.url(key))

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; see the port."""
        paths = [self._addresses.key(key) for key in keys]
        for start in range(0, len(paths), REMOVED_AT_A_TIME):
            self._remove(paths[start : start + REMOVED_AT_A_TIME])

    def url(self, key: str) -> str:
        """Return the address of a key, whether or not the object exists; see the port."""
        key = self._addresses.key(key)
        if not self._signed:
            return self._addresses.url(key)
        return self._patiently(key, lambda: _signed_url(self._reader, key))

    def check(self) -> None:
        """Ask the bucket whether it is there; see the port.

        Asked is for an object that does not exist, because that answer tells a missing bucket from a missing
        object.  On S3 this needs `s3:ListBucket`, without which a missing object looks like a forbidden one.
        """
        if self.bucket.cloud is Cloud.FILE:
            check_folder(self.bucket.name)
            return
        try:
            obstore.get(self._reader, "redis-consumer-check")
        except (BaseError, FileNotFoundError) as error:
            self._judge(error)

    def _judge(self, error: Exception) -> None:
        fault = translated(error, "redis-consumer-check", self.bucket)
        named = f"STORAGE_BUCKET is {str(self.bucket)!r}"
        match fault:
            case ObjectNotFound():
                return
            case StorageUnavailable() if is_missing_bucket(error):
                raise SettingsError(f"{named}: there is no such bucket") from error
            case WrongRegion():
                raise SettingsError(f"{named}: the bucket is in another region than AWS_REGION says") from error
            case AccessDenied():
                raise SettingsError(f"{named}: the credentials are refused, or may not read and list there") from error
            case _:
                raise fault from error

    def _patiently(self, key: str, action: Callable[[], T]) -> T:
        """Return `action()`, tried again in place while the storage does not answer sensibly."""

        def attempt() -> T:
            try:
                return action()
            except (BaseError, FileNotFoundError) as error:
                raise translated(error, key, self.bucket) from error

        return call_with_retries(
            attempt,
            on=StorageUnavailable,
            seconds=self._options.retry_seconds,
            longest_wait=self._options.max_backoff,
        )

    def _fetch(self, key: str, target: Path) -> None:
        stream = obstore.get(self._reader, key).stream(min_chunk_size=CHUNK_BYTES)
        with _new_file(target) as write:
            for chunk in stream:
                write(chunk)

    def _first(self, key: str) -> tuple[_Version, Bytes]:
        """Return which version of the object there is, and its beginning."""
        try:
            result = obstore.get(self._reader, key, options={"range": (0, START_BYTES)})
        except BaseError as error:
            if is_beyond_the_end(error):  # of an empty object any range is
                return _Version(0, None), Bytes()
            raise
        return _Version.of(result), result.bytes()

    def _range(self, key: str, start: int, end: int, version: _Version) -> Bytes:
        options: GetOptions = {"range": (start, end)}
        if version.e_tag:
            options["if_match"] = version.e_tag
        result = obstore.get(self._reader, key, options=options)
        if _Version.of(result) != version:
            raise changed(key)
        return result.bytes()

    def _remove(self, paths: list[str]) -> None:
        try:
            self._patiently(paths[0], lambda: obstore.delete(self._writer, paths))
        except ObjectNotFound:
            # Some stores stop at one that is not there, and do not say which.
            for path in paths:
                with suppress(ObjectNotFound):
                    self._patiently(path, partial(obstore.delete, self._writer, path))

    def _publish(self, key: str, file: Path | Content) -> None:
        """Store a result, readable for everybody where that is wanted and the bucket has such permissions."""
        try:
            self._patiently(key, lambda: self._put(self._publisher, key, file))
        except AclRefused:
            if self._publisher is self._writer:
                raise
            log.warning(
                "%s takes no public objects: results are as readable as the bucket is (OUTPUT_ACL=private says so)",
                self.bucket,
            )
            self._publisher = self._writer
            self._patiently(key, lambda: self._put(self._writer, key, file))

    def _put(self, store: ObjectStore, key: str, file: Path | Content) -> None:
        attributes = {"Content-Type": "application/zip"} if key.endswith(ZIP) else {}
        size = file.size if isinstance(file, Content) else file.stat().st_size
        obstore.put(
            store,
            key,
            file.data if isinstance(file, Content) else file,
            attributes=attributes if self.bucket.cloud is not Cloud.FILE else None,  # a folder keeps none
            use_multipart=size > ONE_PUT_BYTES,
            chunk_size=PART_BYTES,
        )


def _wants_signed(bucket: Bucket, options: StorageOptions) -> bool:
    if options.urls not in ("plain", "signed"):
        raise SettingsError(f"OUTPUT_URLS is {options.urls!r}: allowed are 'plain' and 'signed'")
    if options.urls == "signed" and bucket.cloud in (Cloud.FILE, Cloud.MEMORY):
        raise SettingsError(f"OUTPUT_URLS is 'signed': {str(bucket)!r} has no signed links; allowed is 'plain'")
    return options.urls == "signed"


def _signed_url(store: ObjectStore, key: str) -> str:
    if not isinstance(store, (AzureStore, GCSStore, S3Store)):
        raise TypeError(f"{type(store).__name__} has no signed links")  # _wants_signed refused it at the start
    return obstore.sign(store, "GET", key, SIGNED_FOR)


def _inside(folder: Path, name: str) -> Path:
    """Return the absolute path of `name` in `folder`; JobRejected if a link on the way leads out of it."""
    folder = folder.absolute()
    target = folder / name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise JobRejected(f"The object name {name!r} leads out of the folder of the job")
    return target


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path.name!r} to upload")
    return path


@contextmanager
def _new_file(target: Path) -> Iterator[Callable[[bytes], int]]:
    """Give a function that writes to `target`; what was begun is removed when the block is left by an error.

    A full or broken disk is this worker's fault, not the image's: RetryJob.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _removed_on_error(target), target.open("wb") as file:
            yield file.write
    except OSError as error:
        raise RetryJob(f"The worker cannot write the download: {error.strerror}") from error


@contextmanager
def _removed_on_error(target: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            target.unlink()
        raise
