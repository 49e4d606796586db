"""Read back with the official library."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as some

from redis_consumer.arrays import Labels
from redis_consumer.results.ngff import write_labels_zarr

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


def array_of(path: Path) -> npt.NDArray[Any]:
    array = zarr.open_array(path, mode="r")
    return np.asarray(array[...])


def attributes(path: Path) -> dict[str, Any]:
    return dict(zarr.open_group(path, mode="r").attrs)


@settings(max_examples=40, deadline=None)
@given(
    some.arrays(
        st.sampled_from([np.dtype(kind) for kind in ("u1", "i4", "i8", ">u4")]),
        some.array_shapes(min_dims=4, max_dims=4, min_side=1, max_side=5),
        elements=st.integers(0, 100),
    )
)
def test_every_feature_reads_back(tmp_path_factory: pytest.TempPathFactory, array: npt.NDArray[Any]) -> None:
    folder = tmp_path_factory.mktemp("zarr") / "labels.zarr"
    labels = Labels(array)
    write_labels_zarr(labels, folder)
    assert attributes(folder) == {"labels": [f"feature_{c}" for c in range(array.shape[-1])]}
    for feature in range(array.shape[-1]):
        whole = array_of(folder / f"feature_{feature}" / "0")
        expected = array[..., feature] if len(array) > 1 else array[0, ..., feature]
        np.testing.assert_array_equal(whole, expected)


def test_chunks_cover_what_is_no_multiple_of_them(tmp_path: Path) -> None:
    array = np.arange(2 * 1100 * 1030, dtype=np.int64).reshape(2, 1100, 1030, 1)
    write_labels_zarr(Labels(array), tmp_path / "l")
    read = zarr.open_array(tmp_path / "l/feature_0/0", mode="r")
    assert (read.chunks, read.dtype) == ((1, 1024, 1024), np.dtype(np.uint32))
    np.testing.assert_array_equal(read[...], array[..., 0])


@pytest.mark.parametrize(
    ("highest", "dtype"), [(255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4"), (2**32, "u8"), (0, "u1")]
)
def test_the_type_is_the_smallest_that_holds_the_labels(tmp_path: Path, highest: int, dtype: str) -> None:
    write_labels_zarr(Labels(np.full((1, 3, 3, 1), highest)), tmp_path / "l")
    assert array_of(tmp_path / "l/feature_0/0").dtype == np.dtype(dtype)


def test_levels_have_every_second_row_and_column_of_the_one_before(tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 9, (1, 900, 600, 1))
    write_labels_zarr(Labels(array, ("nuclei",)), tmp_path / "l", pixel_size_um=(0.5, 0.25))
    image = tmp_path / "l/nuclei"
    (multiscale,) = attributes(image)["multiscales"]
    assert [dataset["path"] for dataset in multiscale["datasets"]] == ["0", "1", "2"]
    for level, dataset in enumerate(multiscale["datasets"]):
        np.testing.assert_array_equal(array_of(image / str(level)), array[0, :: 2**level, :: 2**level, 0])
        (transformation,) = dataset["coordinateTransformations"]
        assert transformation == {"type": "scale", "scale": [0.5 * 2**level, 0.25 * 2**level]}


@pytest.mark.parametrize(
    ("frames", "axis", "axes"),
    [
        (1, "t", [("y", "space"), ("x", "space")]),
        (2, "t", [("t", "time"), ("y", "space"), ("x", "space")]),
        (2, "z", [("z", "space"), ("y", "space"), ("x", "space")]),
    ],
)
def test_axes_are_named_and_without_a_pixel_size_have_no_unit(
    tmp_path: Path, frames: int, axis: str, axes: list[tuple[str, str]]
) -> None:
    write_labels_zarr(Labels(np.ones((frames, 4, 5, 1), np.int32)), tmp_path / "l", frame_axis=axis)
    found = attributes(tmp_path / "l/feature_0")
    (multiscale,) = found["multiscales"]
    assert [tuple(one.values()) for one in multiscale["axes"]] == axes
    assert multiscale["version"] == found["image-label"]["version"] == "0.4"
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [1.0] * len(axes)


def test_an_empty_label_image_has_no_chunks_and_reads_as_zeros(tmp_path: Path) -> None:
    write_labels_zarr(Labels(np.zeros((2, 300, 300, 1), np.int32)), tmp_path / "l")
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {".zgroup", ".zattrs", ".zarray"}
    assert not array_of(tmp_path / "l/feature_0/0").any()


def test_folders_of_chunks_are_named_by_numbers(tmp_path: Path) -> None:
    """Browsers fetch ``<level>/<t>/<y>/<x>``."""
    write_labels_zarr(Labels(np.ones((2, 4, 5, 1), np.int32)), tmp_path / "l")
    assert (tmp_path / "l/feature_0/0/1/0/0").is_file()
    header = json.loads((tmp_path / "l/feature_0/0/.zarray").read_text())
    assert header["dimension_separator"] == "/"
    assert header["zarr_format"] == 2
