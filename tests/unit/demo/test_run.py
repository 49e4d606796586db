"""What the demo refuses before anything is started, and how long it waits for news."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from redis_consumer.demo import flow
from redis_consumer.demo.display import Board
from redis_consumer.demo.flow import Watch
from redis_consumer.demo.kinds import find_kind
from redis_consumer.demo.kinds.base import Sample
from redis_consumer.demo.run import check_images, run_demo
from redis_consumer.demo.signals import Signals
from redis_consumer.demo.stack import Stack
from redis_consumer.errors import ConsumerError, MissingExtra, SettingsError

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.tif"):
        run_demo([tmp_path / "nothing.tif"], tmp_path / "out", kind="segmentation", keep=False)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="allowed is a file"):
        check_images([tmp_path], archives=False)


def test_an_archive_has_another_way(tmp_path: Path) -> None:
    (tmp_path / "a.ZIP").touch()
    with pytest.raises(SettingsError, match="--type zip"):
        check_images([tmp_path / "a.ZIP"], archives=False)
    check_images([tmp_path / "a.ZIP"], archives=True)


def test_where_archives_are_wanted_an_image_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    with pytest.raises(SettingsError, match=r"a \.zip of images"):
        check_images([tmp_path / "a.tif"], archives=True)


def test_results_do_not_go_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(SettingsError, match="--output"):
        run_demo([], tmp_path / "out", kind="segmentation", keep=False)


@pytest.mark.parametrize("package", ["rich", "onnxruntime"])
def test_without_its_extra_the_demo_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == package else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(MissingExtra, match=r"kiosk-redis-consumer\[demo\]"):
        run_demo([], tmp_path / "out", kind="segmentation", keep=False)


def watch(*keys: str) -> Watch:
    board = Board(Console(file=io.StringIO()), dict.fromkeys(keys, "cells"))
    return Watch(Stack(Signals(), (), {}, "queue"), board)


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


def test_simulated_images_are_drawn_where_none_is_given(tmp_path: Path) -> None:
    drawn = [Sample(tmp_path / "a.tif", "a", "truth")]
    kind = replace(find_kind("segmentation"), draw=lambda folder: drawn if folder == tmp_path / "input" else [])
    assert flow.samples_of(kind, [], tmp_path, Console(file=io.StringIO())) is drawn


def test_given_images_have_no_truth(tmp_path: Path) -> None:
    [sample] = flow.samples_of(find_kind("segmentation"), [Path("a.tif")], tmp_path, Console(file=io.StringIO()))
    assert sample.truth is None
