"""Names and files of the demonstration's results."""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image

from redis_consumer.demo.outputs import Outputs, count, drawn, named, read_labels, unpack
from redis_consumer.demo.simulation.nuclei import simulate

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


def write_zip(path: Path, *planes: npt.NDArray[np.integer]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number, plane in enumerate(planes):
            file = BytesIO()
            tifffile.imwrite(file, plane.astype(np.float32))
            archive.writestr(f"cells_batch_{number}_feature_0.tif", file.getvalue())


def files(folder: Path, name: str) -> set[Path]:
    return set(Outputs.of(folder, name))


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


def test_drawn_fields_are_files_with_their_truth(tmp_path: Path) -> None:
    field = simulate((64, 80), seed=1, name="small")
    [picture] = drawn([field], tmp_path / "input")
    assert picture.path == tmp_path / "input" / "small.tif"
    assert picture.truth is field.labels
    np.testing.assert_array_equal(tifffile.imread(picture.path), field.image)


def test_labels_come_out_of_the_zip_as_integers(tmp_path: Path) -> None:
    field = simulate((96, 64), seed=2)
    write_zip(tmp_path / "r.zip", field.labels)
    labels = read_labels(tmp_path / "r.zip")
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, field.labels[None])


def test_more_labels_than_16_bits_hold(tmp_path: Path) -> None:
    write_zip(tmp_path / "r.zip", np.array([[0, 70000]]))
    labels = read_labels(tmp_path / "r.zip")
    assert labels.dtype == np.uint32
    assert labels.max() == 70000


@pytest.mark.parametrize(("planes", "shape"), [(1, (30, 40)), (3, (3, 30, 40))])
def test_the_label_image_has_a_page_for_each_plane(tmp_path: Path, planes: int, shape: tuple[int, ...]) -> None:
    stack = np.zeros((planes, 30, 40), np.int32)
    stack[:, 5:9, 5:9] = 1
    stack[0, 20:25, 20:25] = 2
    outputs = Outputs.of(tmp_path, "cells")
    write_zip(outputs.zip, *stack)
    tifffile.imwrite(tmp_path / "cells.tif", stack.astype(np.uint16), photometric="minisblack")
    assert count(unpack(outputs, tmp_path / "cells.tif")) == planes + 1
    written = tifffile.imread(outputs.labels)
    assert written.shape == shape
    assert np.issubdtype(written.dtype, np.integer)
    with Image.open(outputs.overlay) as picture:
        assert (picture.mode, picture.size) == ("RGB", (160, 120))
