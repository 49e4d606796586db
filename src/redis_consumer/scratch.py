"""Temporary files of one process: in a folder of its own, so that what a killed one left is found and removed.

A large image has gigabytes of them, and a worker that is killed removes nothing.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

PREFIX = "redis-consumer-of-"
LOCK = "in-use"
"""A file in the folder, locked as long as its process lives: the system gives the lock up, whatever ends that."""


@contextmanager
def own_folder() -> Iterator[None]:
    """Have `tempfile` put everything into a new folder, which is gone when the block ends.

    Those of processes that are gone are removed first.  Where a folder cannot be made everything is as it was: jobs
    will say what is wrong with the disk.
    """
    before = tempfile.gettempdir()
    remove_left(Path(before))
    try:
        folder, lock = _locked(before)
    except OSError as error:
        log.warning("No folder of our own for temporary files in %s: %s", before, error)
        yield
        return
    with lock:
        tempfile.tempdir = str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before
            shutil.rmtree(folder, ignore_errors=True)


def remove_left(base: Path) -> None:
    """Remove the folders in `base` whose processes are gone."""
    for path in base.glob(f"{PREFIX}*/{LOCK}"):
        try:
            with path.open("rb+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:
            continue  # in use, somebody else's, or removed by another worker
        log.info("Removed what a worker left in %s", path.parent.name)


def _locked(base: str) -> tuple[Path, IO[bytes]]:
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    new = folder / f"{LOCK}.new"
    lock = new.open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    new.rename(folder / LOCK)  # only now do others see it: one who found it unlocked would remove the folder
    return folder, lock
