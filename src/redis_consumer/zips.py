"""Opening a zip that may be hostile: its list of members is bounded before it is read.  Knows no jobs and no images."""

from __future__ import annotations

import io
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    def __init__(self, file: Path | io.RawIOBase | io.BufferedIOBase, most: int) -> None:
        super().__init__(io.FileIO(file) if isinstance(file, Path) else cast("io.RawIOBase", file))
        self.most = most

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise TooManyMembers(f"the list of members has {size} bytes: allowed are {self.most}")
        return super().read(size)


@contextmanager
def open_zip(file: Path | io.RawIOBase | io.BufferedIOBase, members: int) -> Iterator[zipfile.ZipFile]:
    """Give the archive, its list read; TooManyMembers where that is far too long for so many `members`."""
    with _Bounded(file, max(members * ENTRY_BYTES, 2**20)) as bounded, zipfile.ZipFile(bounded) as archive:
        bounded.most = sys.maxsize
        yield archive
