"""What keeps the demo's processes from outliving it, and what they are told."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from redis_consumer.demo.stack import Child, Keeper, ProcessDied, ending, neutral_environ, settings_of
from redis_consumer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 20.0


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_the_keeper_ends_everything_when_we_vanish(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    folder = tmp_path / "a folder; rm"
    folder.mkdir()
    (folder / "file").touch()
    keeper = Keeper(folder)
    keeper.watch(sleeper.pid)
    assert keeper._process.stdin
    keeper._process.stdin.close()  # what the system does when we are killed
    assert sleeper.wait(SECONDS) == -9
    keeper._process.wait(SECONDS)
    assert not folder.exists()


def test_the_keeper_does_nothing_once_released(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    keeper = Keeper(tmp_path)
    keeper.watch(sleeper.pid)
    keeper.release()
    assert keeper._process.returncode == 0
    assert sleeper.poll() is None
    assert tmp_path.exists()


def test_a_keeper_that_was_killed_troubles_nobody(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper._process.kill()
    keeper._process.wait(SECONDS)
    keeper.watch(12345)
    keeper.release()


def test_a_child_that_does_not_hear_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redis_consumer.demo.stack.STOP_SECONDS", 0.3)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", deaf], stdout=log)
    child = Child("the worker", process, tmp_path / "log")
    deadline = time.monotonic() + SECONDS
    while child.last_lines() != ["deaf"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.stop()
    assert process.returncode == -9


def test_a_process_that_died_leaves_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {number}\n" for number in range(100)))
    with subprocess.Popen(["false"]) as process:
        child = Child("the worker", process, log)
    error = ProcessDied(child, "ended")
    assert str(error) == "The worker ended"
    assert error.log[-1] == "line 99"
    assert len(error.log) < 20


def test_the_settings_are_what_the_worker_reads(tmp_path: Path) -> None:
    folder = tmp_path / "büc ket%20"
    address = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": "1234", "TF_HOST": "127.0.0.1", "TF_PORT": "5678"}
    settings = Settings.from_environ({}, overrides=settings_of(folder, address))
    assert (settings.redis_port, settings.tf_port, settings.concurrency) == (1234, 5678, 2)
    assert settings.storage_bucket.startswith("file://")


def test_settings_of_another_deployment_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_PASSWORD", "AWS_S3_BUCKET", "TF_TLS"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    environ = neutral_environ()
    assert environ["SOMETHING_ELSE"] == "kept"
    assert "PATH" in environ
    assert not {"REDIS_PASSWORD", "AWS_S3_BUCKET", "TF_TLS"} & set(environ)


def test_endings_in_words() -> None:
    assert ending(-9) == "killed by signal 9"
    assert ending(2) == "exit code 2"
