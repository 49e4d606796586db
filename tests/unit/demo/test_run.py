"""What the demo refuses before anything is started, and how long it waits for news."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from redis_consumer.demo import flow
from redis_consumer.demo.display import Board
from redis_consumer.demo.flow import Watch
from redis_consumer.demo.run import check_images, run_demo
from redis_consumer.demo.signals import Signals
from redis_consumer.demo.simulation.nuclei import simulate
from redis_consumer.demo.stack import Stack
from redis_consumer.errors import ConsumerError, MissingExtra, SettingsError

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.tif"):
        run_demo([tmp_path / "nothing.tif"], tmp_path / "out", keep=False)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="allowed is a file"):
        check_images([tmp_path])


def test_an_archive_has_another_way(tmp_path: Path) -> None:
    (tmp_path / "a.ZIP").touch()
    with pytest.raises(SettingsError, match="submit"):
        check_images([tmp_path / "a.ZIP"])


def test_results_do_not_go_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(SettingsError, match="--output"):
        run_demo([], tmp_path / "out", keep=False)


@pytest.mark.parametrize("package", ["rich", "onnxruntime"])
def test_without_its_extra_the_demo_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == package else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(MissingExtra, match=r"kiosk-redis-consumer\[demo\]"):
        run_demo([], tmp_path / "out", keep=False)


def watch(*keys: str) -> Watch:
    board = Board(Console(file=io.StringIO()), dict.fromkeys(keys, "cells"))
    return Watch(Stack(Signals()), board)


def test_jobs_without_news_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    watching = watch("a")
    watching.look("a", {"status": "predicting"})
    monkeypatch.setattr(flow, "SILENCE_SECONDS", 0.0)
    with pytest.raises(ConsumerError, match="'predicting'"):
        watching.look("a", {"status": "predicting"})


def test_news_of_one_job_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    watching = watch("a", "b")
    monkeypatch.setattr(flow, "SILENCE_SECONDS", 0.0)
    for percent in range(5):
        watching.look("a", {"status": "predicting", "progress": str(percent)})


def test_simulated_fields_are_drawn_where_no_image_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [simulate((32, 32), seed=1)]  # the real ones take seconds to draw
    monkeypatch.setattr(flow, "builtin_fields", lambda: few)
    [picture] = flow.pictures_of([], tmp_path, Console(file=io.StringIO()))
    assert picture.path.parent == tmp_path / "input"
    assert picture.truth is few[0].labels


def test_given_images_have_no_truth(tmp_path: Path) -> None:
    [picture] = flow.pictures_of([Path("a.tif")], tmp_path, Console(file=io.StringIO()))
    assert picture.truth is None
