from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from redis_consumer.serving.refusal import Refusal
from redis_consumer.serving.repository import MODEL_FILE, Repository
from redis_consumer.wire import serving_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

State = pb.ModelVersionStatus


def place(folder: Path, name: str, version: str, content: str = "good") -> Path:
    path = folder / name / version / MODEL_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


class Loader:
    """Reads text files as models; a bad one cannot be loaded."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.before: Callable[[], None] = lambda: None

    def __call__(self, path: Path) -> str:
        self.before()
        text = path.read_text()
        self.loaded.append(path.parent.name)
        if text == "bad":
            raise ValueError(f"{path}: bad\nmodel")
        return text


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def repository(tmp_path: Path, loader: Loader) -> Repository[str]:
    return Repository(tmp_path, loader)


def states(repository: Repository[str], name: str) -> dict[int, int]:
    return {status.version: status.state for status in repository.states(name, None)}


def test_the_highest_version_is_the_latest(repository: Repository[str], tmp_path: Path) -> None:
    for version in ("2", "00000010", "9"):
        place(tmp_path, "M", version, version)
    repository.refresh()
    assert repository.find("M", None) == (10, "00000010")
    assert repository.find("M", 9) == (9, "9")
    assert [status.version for status in repository.states("M", None)] == [10, 9, 2]


def test_version_zero_is_asked_for_explicitly(repository: Repository[str], tmp_path: Path) -> None:
    place(tmp_path, "M", "0", "zero")
    place(tmp_path, "M", "1", "one")
    repository.refresh()
    assert repository.find("M", 0) == (0, "zero")
    assert repository.find("M", None) == (1, "one")


@pytest.mark.parametrize("version", ["-1", "1.5", "tmp", "v2", "²"])
def test_names_that_are_no_number_are_passed_over(repository: Repository[str], tmp_path: Path, version: str) -> None:
    place(tmp_path, "M", version)
    repository.refresh()
    with pytest.raises(Refusal, match=r"^Could not find any versions of model M$"):
        repository.states("M", None)


def test_what_is_not_there_is_refused_in_the_words_of_tensorflow_serving(
    repository: Repository[str], tmp_path: Path
) -> None:
    place(tmp_path, "M", "1")
    repository.refresh()
    for name, version, text in (("N", None, "Latest(N)"), ("M", 7, "Specific(M, 7)")):
        with pytest.raises(Refusal) as caught:
            repository.find(name, version)
        assert str(caught.value) == f"Servable not found for request: {text}"
    with pytest.raises(Refusal, match=r"^Could not find version 7 of model M$"):
        repository.states("M", 7)


def test_a_new_version_is_loaded_before_the_old_one_is_dropped(
    repository: Repository[str], tmp_path: Path, loader: Loader
) -> None:
    old = place(tmp_path, "M", "1", "old")
    repository.refresh()
    shutil.rmtree(old.parent)
    place(tmp_path, "M", "2", "new")
    seen: list[tuple[int, str]] = []
    loader.before = lambda: seen.append(repository.find("M", None))
    repository.refresh()
    assert seen == [(1, "old")]
    assert repository.find("M", None) == (2, "new")
    assert states(repository, "M") == {2: State.AVAILABLE, 1: State.END}


def test_a_version_being_loaded_says_so_and_the_next_one_waits(
    repository: Repository[str], tmp_path: Path, loader: Loader
) -> None:
    place(tmp_path, "M", "1")
    place(tmp_path, "M", "2")
    seen: list[dict[int, int]] = []
    loader.before = lambda: seen.append(states(repository, "M"))
    repository.refresh()
    assert seen == [
        {1: State.LOADING, 2: State.START},
        {1: State.AVAILABLE, 2: State.LOADING},
    ]


def test_a_broken_version_ends_with_its_reason_and_the_others_stay(repository: Repository[str], tmp_path: Path) -> None:
    place(tmp_path, "M", "1", "good")
    place(tmp_path, "M", "2", "bad")
    repository.refresh()
    assert repository.find("M", None) == (1, "good")
    (ended,) = repository.states("M", 2)
    assert ended.state == State.END
    assert ended.status.error_code == 2
    assert "bad model" in ended.status.error_message
    assert str(tmp_path) not in ended.status.error_message


def test_a_broken_version_is_tried_again_once_its_file_changes(
    repository: Repository[str], tmp_path: Path, loader: Loader
) -> None:
    path = place(tmp_path, "M", "1", "bad")
    repository.refresh()
    repository.refresh()
    assert loader.loaded == ["1"]
    path.write_text("repaired")
    repository.refresh()
    assert repository.find("M", None) == (1, "repaired")


def test_a_version_that_is_served_stays_as_it_is(repository: Repository[str], tmp_path: Path, loader: Loader) -> None:
    path = place(tmp_path, "M", "1", "good")
    repository.refresh()
    os.utime(path, (1, 1))
    repository.refresh()
    assert loader.loaded == ["1"]


def test_a_version_that_comes_back_is_served_again(repository: Repository[str], tmp_path: Path) -> None:
    path = place(tmp_path, "M", "1", "good")
    repository.refresh()
    path.unlink()
    repository.refresh()
    with pytest.raises(Refusal):
        repository.find("M", None)
    path.write_text("again")
    repository.refresh()
    assert repository.find("M", None) == (1, "again")


def test_the_folder_is_watched_until_it_is_stopped(repository: Repository[str], tmp_path: Path) -> None:
    repository.start(poll_seconds=0.02)
    place(tmp_path, "M", "1")
    ends_at = time.monotonic() + 30
    while True:
        try:
            repository.find("M", None)
            break
        except Refusal:
            assert time.monotonic() < ends_at
            time.sleep(0.02)
    repository.stop()
    assert not repository._watcher.is_alive()
