"""Zip archives: results out, in a fixed order and form; uploads in, checked before anything is unpacked.

Knows no jobs and no images.  Form of the results: Kiosk readers open the first entry of a stream and unpack with
plain zip libraries, so entries are deflated or stored, with their sizes in front and no data descriptors.
"""

from __future__ import annotations

import errno
import io
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from redis_consumer.errors import JobRejected, RetryJob, kind_of
from redis_consumer.zips import METHODS, TooManyMembers, open_zip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from redis_consumer.settings import Settings

LEVEL = 1
"""Label images shrink to 2 to 5 % at any level; level 6 takes three times as long for half of that."""
BLOCK_BYTES = 2**20
COMPRESSED = frozenset({".zip", ".gz", ".png", ".jpg", ".jpeg", ".webp", ".npz", ".trk"})
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The same entries give the same archive: no times of the day in it."""
JUNK_NAMES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
JUNK_FOLDERS = frozenset({"__macosx"})
ENCRYPTED = 0x1
# The last three: names that are not UTF-8, offsets before the beginning, records cut in the middle.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OverflowError, struct.error)
ENTRIES_PER_MEMBER, SPARE_ENTRIES = 4, 1000
"""Entries that an archive may list: a Mac adds one to each file, and folders and its own leavings come on top."""
SEGMENT_BYTES, NAME_BYTES = 255, 1024
"""A name on Linux has no longer part, and ours, with the folder of the job, no more bytes in all."""


class Entry(NamedTuple):
    """A file, and its name in the archive."""

    path: str
    name: str


@dataclass(frozen=True, slots=True)
class Made:
    """A file that is on no disk: its bytes are made piece by piece, as they are needed."""

    size: int
    """In bytes."""
    pieces: Callable[[], Iterable[bytes | memoryview]]

    def write(self, file: IO[bytes]) -> None:
        """Write all of it."""
        for piece in self.pieces():
            file.write(piece)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """The largest archive that is unpacked."""

    members: int = 10_000
    """Files that are unpacked; folders and junk are not counted."""
    bytes: int = 16 * 2**30
    """All members together, unpacked."""
    ratio: int = 1100
    """Unpacked to packed size; honest deflate reaches 1032, overlapping members more."""

    @property
    def entries(self) -> int:
        """The most that the list of an archive may have, folders and junk included."""
        return ENTRIES_PER_MEMBER * self.members + SPARE_ENTRIES


def archive_limits(settings: Settings) -> ArchiveLimits:
    """Return the limits that the operator set."""
    return ArchiveLimits(settings.max_archive_members, settings.max_archive_bytes, settings.max_archive_ratio)


def zip_files(entries: Iterable[tuple[str | Path | Made, str]], destination: str | Path) -> str:
    """Write `entries`, pairs of file and name in the archive, in their order; return the path of the archive.

    As `new_archive` and `NewArchive.add` do it.
    """
    with new_archive(destination) as archive:
        archive.add_all(entries)
    return str(destination)


def zip_in_memory(entries: Iterable[tuple[str | Path | Made, str]]) -> memoryview:
    """Return the archive that `zip_files` writes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        NewArchive(archive).add_all(entries)
    return file.getbuffer()


class NewArchive:
    """A zip that is being written."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.names = set[str]()
        """What is in it."""

    def add(self, file: str | Path | Made, name: str) -> None:
        """Add a file, which may be removed afterwards; what is compressed already is stored.

        Names are relative, with ``/``; ValueError for one that is not, or that is there already.
        """
        if name in self.names:
            raise ValueError(f"two entries of the archive have one name: {name!r}")
        self.names.add(name)
        _add(self._archive, file, _checked(name))

    def add_all(self, entries: Iterable[tuple[str | Path | Made, str]]) -> None:
        """Add pairs of file and name, in their order."""
        for file, name in entries:
            self.add(file, name)


@contextmanager
def new_archive(destination: str | Path) -> Iterator[NewArchive]:
    """Give a new zip to add files to; when the block ends by an error none is left.  RetryJob if the disk is full."""
    destination = Path(destination)
    try:
        with zipfile.ZipFile(destination, "w") as archive:
            yield NewArchive(archive)
    except BaseException as error:
        destination.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise RetryJob(f"The worker cannot write the archive: {error.strerror}") from error
        raise


class Archive:
    """A zip that was checked as a whole, open to be unpacked file by file."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, limits: ArchiveLimits) -> None:
        self._path, self._archive = path, archive
        self._members = {name: info for info, name in _checked_members(path, archive, limits)}

    @property
    def names(self) -> list[str]:
        """The files, in the order of the archive: plain relative paths, none of them junk, no two the same.

        Of several members of one name the later ones have numbers: ``a.tif``, ``a-2.tif``.
        """
        return list(self._members)

    def unpack(self, name: str, destination: str | Path) -> Path:
        """Write one file into `destination`, under its name, and return its path.  JobRejected if it is damaged."""
        target = Path(destination, name)
        with (
            _readable(self._path),
            self._archive.open(self._members[name]) as source,
            _new_file(target) as file,
        ):
            shutil.copyfileobj(source, file, BLOCK_BYTES)
        return target


@contextmanager
def open_archive(path: str | Path, limits: ArchiveLimits | None = None) -> Iterator[Archive]:
    """Open a zip to unpack it.

    Folders and the leavings of operating systems are left out.  The whole archive is checked first: JobRejected
    for what is no zip, encrypted, too large, or has links or names that lead out of the folder it is unpacked to.
    """
    path, limits = Path(path), limits or ArchiveLimits()
    with ExitStack() as stack:
        with _readable(path):
            archive = Archive(path, stack.enter_context(open_zip(path, limits.members)), limits)
        yield archive


def iter_archive(path: str | Path, destination: str | Path, limits: ArchiveLimits | None = None) -> Iterator[Path]:
    """Unpack a zip into `destination`, file by file in its order, and yield the path of each.

    Checked as a whole before the first is asked for; errors as in `open_archive`.
    """
    with open_archive(path, limits):
        pass
    return _unpacked(path, destination, limits)


def is_junk(name: str) -> bool:
    """Return whether an operating system left this in the archive."""
    parts = PurePosixPath(name.lower()).parts
    return bool(parts) and (parts[-1] in JUNK_NAMES or parts[-1].startswith("._") or bool(JUNK_FOLDERS & set(parts)))


def name_fault(name: str) -> str:
    """Return what is wrong with a name in an archive; empty if it is a plain relative path."""
    parts = name.split("/")
    if not name or name.startswith("/") or (len(name) > 1 and name[1] == ":" and name[2:3] == "/"):
        return "it is not relative"
    if {"", ".", ".."} & set(parts):
        return "it has a segment '', '.' or '..'"
    if "\\" in name or (not name.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in name)):
        return "it has a control character or a backslash"
    if len(name.encode()) > NAME_BYTES or max(len(part.encode()) for part in parts) > SEGMENT_BYTES:
        return "it is too long"
    return ""


def distinct(names: Iterable[str]) -> list[str]:
    """Return the names, those that came before with a number; in linear time, however many are the same."""
    given = list(names)
    taken = set(given)
    numbers: dict[str, Iterator[str]] = {}
    found = []
    for name in given:
        if name in numbers:
            found.append(next(free for free in numbers[name] if free not in taken))
        else:
            numbers[name] = numbered(name)
            found.append(name)
    return found


def numbered(name: str) -> Iterator[str]:
    """Give the name with numbers in front of its suffix, from 2 on: readers look at the suffix.

    A hidden file stays one: ``.git`` has no suffix.
    """
    suffix = PurePosixPath(name).suffix
    stem = name.removesuffix(suffix)
    return (f"{stem}-{number}{suffix}" for number in count(2))


def _checked(name: str) -> str:
    if fault := name_fault(name):
        raise ValueError(f"name in the archive {name!r}: {fault}")
    return name


def _add(archive: zipfile.ZipFile, file: str | Path | Made, name: str) -> None:
    info = zipfile.ZipInfo(name, EPOCH)
    is_packed = Path(name).suffix.lower() in COMPRESSED
    info.compress_type = zipfile.ZIP_STORED if is_packed else zipfile.ZIP_DEFLATED
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.file_size = file.size if isinstance(file, Made) else Path(file).stat().st_size  # decides about zip64
    with archive.open(info, "w") as target:
        if not is_packed:
            _use_fast_deflate(target)
        if isinstance(file, Made):
            file.write(target)
        else:
            with Path(file).open("rb") as source:
                shutil.copyfileobj(source, target, BLOCK_BYTES)


def _use_fast_deflate(target: Any) -> None:
    """Let isal deflate this entry where the extra is installed: three times as fast as zlib at the same size.

    zipfile offers no way to choose the compressor, so the one attribute is set that holds it; any deflate stream
    will do.  An interpreter that calls it otherwise gets zlib.
    """
    if not hasattr(target, "_compressor"):
        return
    try:
        from isal import isal_zlib
    except ImportError:
        target._compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)  # noqa: SLF001 - see above
    else:
        target._compressor = isal_zlib.compressobj(LEVEL, zlib.DEFLATED, -15)  # noqa: SLF001 - see above


def _checked_members(path: Path, archive: zipfile.ZipFile, limits: ArchiveLimits) -> list[tuple[zipfile.ZipInfo, str]]:
    """Return the files to unpack with their names; JobRejected if any member is not allowed."""
    infos = archive.infolist()
    if len(infos) > limits.entries:
        raise _rejected(path, f"it lists {len(infos)} files and folders, allowed are {limits.entries}")
    members = [(info, info.filename.replace("\\", "/")) for info in infos if not info.filename.endswith("/")]
    members = [(info, name) for info, name in members if not is_junk(name)]
    _check_sizes(path, [info.file_size for info, _ in members], limits)
    members = [(info, name) for (info, _), name in zip(members, distinct(name for _, name in members), strict=True)]
    for info, name in members:
        if fault := name_fault(name) or _member_fault(info):
            raise _rejected(path, f"member {name[:100]!r}: {fault}")
    return members


def _check_sizes(path: Path, sizes: Sequence[int], limits: ArchiveLimits) -> None:
    """Reject what is too much to unpack, by the sizes that the files declare."""
    size = sum(sizes)
    if len(sizes) > limits.members:
        raise _rejected(path, f"it has {len(sizes)} members, allowed are {limits.members}")
    if size > limits.bytes:
        raise _rejected(path, f"it has {size} bytes unpacked, allowed are {limits.bytes}")
    if size > limits.ratio * path.stat().st_size:
        raise _rejected(path, f"it grows more than {limits.ratio} times when it is unpacked")


def _member_fault(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & ENCRYPTED:
        return "it is encrypted"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "it is a link"
    if info.compress_type not in METHODS:
        return f"its method of compression is {info.compress_type}, allowed are 0 (stored) and 8 (deflated)"
    return ""


def _unpacked(path: str | Path, destination: str | Path, limits: ArchiveLimits | None) -> Iterator[Path]:
    with open_archive(path, limits) as archive:
        for name in archive.names:
            yield archive.unpack(name, destination)


@contextmanager
def _new_file(target: Path) -> Iterator[IO[bytes]]:
    """Open a file to write; what the disk has against it is not the archive's fault."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            yield file
    except (NotADirectoryError, IsADirectoryError, FileExistsError):
        raise
    except OSError as error:
        raise RetryJob(f"The worker cannot unpack the archive: {error.strerror}") from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Make one clear line of whatever zipfile throws at a damaged file."""
    try:
        yield
    except TooManyMembers as error:
        raise _rejected(path, str(error)) from error
    except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        raise _rejected(path, "a member is both a file and a folder") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a member before the beginning of the file
            raise
        raise _rejected(path, "it is damaged or no zip (OSError)") from error
    except _DAMAGED as error:
        raise _rejected(path, f"it is damaged or no zip{kind_of(error)}") from error


def _rejected(path: Path, fault: str) -> JobRejected:
    return JobRejected(f"The archive {path.name!r} cannot be unpacked: {fault}")
