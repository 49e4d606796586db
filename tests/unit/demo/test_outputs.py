"""Names of the demonstration's results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis_consumer.demo.kinds.base import Outputs
from redis_consumer.demo.outputs import named

if TYPE_CHECKING:
    from pathlib import Path


def files(folder: Path, name: str) -> set[Path]:
    return set(Outputs.of(folder, name).all())


def test_an_image_gives_its_results_its_own_name(tmp_path: Path) -> None:
    assert [picture.name for picture in named([tmp_path / "a.b.tif"], tmp_path)] == ["a.b"]


def test_images_of_one_name_do_not_share_results(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one/cells.tif", "two/cells.tif", "cells.png", "CELLS.tif", "cells-2.tif")]
    names = [picture.name for picture in named(paths, tmp_path / "out")]
    written = [str(file).casefold() for name in names for file in files(tmp_path / "out", name)]
    assert len(set(written)) == 3 * len(paths)


def test_the_same_image_twice_has_two_results(tmp_path: Path) -> None:
    names = [picture.name for picture in named([tmp_path / "a.tif"] * 2, tmp_path)]
    assert names == ["a", "a-2"]


def test_no_result_overwrites_an_image_that_was_given(tmp_path: Path) -> None:
    paths = [tmp_path / "x.tif", tmp_path / "x_labels.tif"]
    written = {file for picture in named(paths, tmp_path) for file in files(tmp_path, picture.name)}
    assert not written & set(paths)
