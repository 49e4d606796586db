"""A folder of a bucket: what stands below a key, object by object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis_consumer.errors import JobRejected, ObjectNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_consumer.storage.base import Storage


def objects_below(storage: Storage, key: str) -> Callable[[str, int], bytes | None]:
    """Return a function that reads an object, whole, by its path below `key`; None where there is none.

    JobRejected where it has more than so many bytes; other errors as for `Storage.open`.
    """

    def read(path: str, most: int) -> bytes | None:
        try:
            with storage.open(f"{key.rstrip('/')}/{path}") as file:
                if file.size > most:
                    raise JobRejected(f"Object {path!r} of the image has {file.size} bytes: allowed are {most}")
                return file.read()
        except ObjectNotFound:
            return None

    return read
