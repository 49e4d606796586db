"""Files of samples and results."""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from redis_consumer.demo.kinds.files import count, read_labels, write_image
from redis_consumer.images import read_image

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


def write_zip(path: Path, *planes: npt.NDArray[np.integer]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number, plane in enumerate(planes):
            file = BytesIO()
            tifffile.imwrite(file, plane.astype(np.float32), photometric="minisblack")
            archive.writestr(f"cells_batch_{number}_feature_0.tif", file.getvalue())


def test_labels_come_out_of_the_zip_as_integers(tmp_path: Path) -> None:
    one, two = np.arange(24).reshape(4, 6), np.arange(24)[::-1].reshape(4, 6)
    write_zip(tmp_path / "r.zip", one, two)
    labels = read_labels(tmp_path / "r.zip")
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, [one, two])
    assert count(labels) == 46


def test_the_pages_of_a_stack_are_planes(tmp_path: Path) -> None:
    write_zip(tmp_path / "r.zip", np.ones((3, 4, 6), int))
    assert read_labels(tmp_path / "r.zip").shape == (3, 4, 6)


def test_more_labels_than_16_bits_hold(tmp_path: Path) -> None:
    write_zip(tmp_path / "r.zip", np.array([[0, 70000]]))
    labels = read_labels(tmp_path / "r.zip")
    assert labels.dtype == np.uint32
    assert labels.max() == 70000


def test_the_axes_of_an_image_are_read_again(tmp_path: Path) -> None:
    image = np.arange(3 * 5 * 7, dtype=np.uint16).reshape(3, 5, 7)
    channels = read_image(write_image(tmp_path / "new/c.tif", image, "CYX", ("a", "b", "c"))).pixels
    np.testing.assert_array_equal(channels, np.moveaxis(image, 0, -1)[None])
    movie = read_image(write_image(tmp_path / "t.tif", image, "TYX")).pixels
    np.testing.assert_array_equal(movie, image[..., None])
