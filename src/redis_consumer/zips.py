"""Opening a zip that may be hostile: its list of members is bounded before it is read.  Knows no jobs and no images."""

from __future__ import annotations

import io
import sys
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""What uploads are compressed with.  The others' decoders write as much as the data say, at once."""
ENTRY_BYTES = 1024
"""Room for an entry of the list: 46 bytes, the name and the rest."""


class TooManyMembers(zipfile.BadZipFile):
    """The list of members is longer than allowed."""


class _Bounded(io.BufferedReader):
    """A file that refuses to give more than `most` bytes in one piece.

    zipfile reads the list of members in one, and makes an object of half a kilobyte for each 46 bytes of it.
    """

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(io.FileIO(path))
        self.most = most

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise TooManyMembers(f"the list of members has {size} bytes: allowed are {self.most}")
        return super().read(size)


@contextmanager
def open_zip(path: Path, members: int) -> Iterator[zipfile.ZipFile]:
    """Give the archive, its list read; TooManyMembers where that is far too long for so many `members`."""
    with _Bounded(path, max(members * ENTRY_BYTES, 2**20)) as file, zipfile.ZipFile(file) as archive:
        file.most = sys.maxsize
        yield archive
