from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from redis_consumer.scratch import own_folder, remove_left

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER = """
import sys, tempfile
from redis_consumer.scratch import own_folder
with own_folder():
    print(tempfile.mkdtemp(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def other(base: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another worker, and a folder of a job of its."""
    command = [sys.executable, "-c", WORKER]
    process = subprocess.Popen(
        command, env={"TMPDIR": str(base)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_temporary_files_are_in_a_folder_that_goes(base: Path) -> None:
    with own_folder():
        made = Path(tempfile.mkdtemp())
        assert made.parent.parent == base
    assert tempfile.gettempdir() == str(base)
    assert list(base.iterdir()) == []


def test_what_a_killed_worker_left_is_removed(base: Path, other: tuple[subprocess.Popen[str], Path]) -> None:
    process, folder = other
    process.kill()
    process.wait(20)
    assert folder.is_dir()
    with own_folder():
        assert not folder.exists()
        assert len(list(base.iterdir())) == 1


def test_what_is_in_use_stays(base: Path, other: tuple[subprocess.Popen[str], Path]) -> None:
    _, folder = other
    with own_folder():
        remove_left(base)
        assert folder.is_dir()
        assert Path(tempfile.gettempdir()).is_dir()
    assert folder.is_dir()


def test_nobody_elses_folders_are_touched(base: Path) -> None:
    (base / "redis-consumer-of-no-lock").mkdir()
    (base / "else").mkdir()
    with own_folder():
        pass
    assert {path.name for path in base.iterdir()} == {"redis-consumer-of-no-lock", "else"}


def test_without_room_nothing_changes(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(base / "missing"))
    with own_folder():
        assert tempfile.gettempdir() == str(base / "missing")
