from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import skimage as ski
from arro3.io import read_parquet
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as some

from redis_consumer.arrays import Image, Labels
from redis_consumer.errors import MissingExtra
from redis_consumer.results.label_images import distinct
from redis_consumer.results.tables import label_table, measure, write_csv, write_parquet

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

COLUMNS = [
    "frame",
    "feature",
    "feature_name",
    "label",
    "area_px",
    "centroid_y_px",
    "centroid_x_px",
    "top",
    "left",
    "bottom",
    "right",
]
INTENSITIES = ["mean_intensity_0", "max_intensity_0", "mean_intensity_1", "max_intensity_1"]


def sample(frames: int = 2, features: int = 2) -> tuple[Labels, Image]:
    rng = np.random.default_rng(3)
    blobs = ski.measure.label(rng.random((frames * features, 40, 50)) < 0.6, connectivity=1)
    array = np.moveaxis(blobs.reshape(features, frames, 40, 50), 0, -1)
    return Labels(array.astype(np.int32)), rng.random((frames, 40, 50, 2)).astype(np.float32)


def test_a_row_says_what_scikit_image_says() -> None:
    labels, image = sample()
    table = label_table(labels, image)
    assert list(table) == [*COLUMNS, *INTENSITIES]
    for frame, feature, plane in labels.planes():
        here = (table["frame"] == frame) & (table["feature"] == feature)
        names = ("label", "area", "centroid", "bbox", "intensity_mean", "intensity_max")
        theirs = ski.measure.regionprops_table(plane, image[frame], properties=names)
        ours = dict(zip(theirs, [table[name][here] for name in columns_of_theirs()], strict=True))
        for name, column in theirs.items():
            np.testing.assert_allclose(ours[name], column, rtol=1e-5, err_msg=name)


def columns_of_theirs() -> list[str]:
    intensities = [f"{kind}_intensity_{channel}" for kind in ("mean", "max") for channel in (0, 1)]
    return ["label", "area_px", "centroid_y_px", "centroid_x_px", "top", "left", "bottom", "right", *intensities]


def test_rows_come_frame_by_frame_feature_by_feature_label_by_label() -> None:
    labels, image = sample()
    table = label_table(Labels(labels.array, ("whole", "nucleus")), image)
    order = np.lexsort((table["label"], table["feature"], table["frame"]))
    np.testing.assert_array_equal(order, np.arange(len(order)))
    assert len(order) == labels.count()
    assert set(zip(table["feature"].tolist(), table["feature_name"].tolist(), strict=True)) == {
        (0, "whole"),
        (1, "nucleus"),
    }


@settings(deadline=None)
@given(
    some.arrays(st.sampled_from([np.uint8, np.int64]), (6, 7), elements=st.integers(0, 4)),
    some.arrays(np.float32, (6, 7, 2), elements=st.floats(-1000, 1000, width=32)),
)
def test_sums_over_the_table_are_sums_over_the_image(labels: npt.NDArray[Any], pixels: Image) -> None:
    table: dict[str, Any] = dict(label_table(Labels(labels[None, ..., None]), pixels[None]))
    assert table["area_px"].sum() == np.count_nonzero(labels)
    rows, columns = np.nonzero(labels)
    assert np.sum(table["centroid_y_px"] * table["area_px"]) == pytest.approx(rows.sum())
    assert np.sum(table["centroid_x_px"] * table["area_px"]) == pytest.approx(columns.sum())
    for channel in range(2):
        inside = pixels[..., channel][labels != 0].astype(np.float64)
        total = np.sum(table[f"mean_intensity_{channel}"] * table["area_px"])
        assert total == pytest.approx(inside.sum(), abs=1e-6 * np.abs(inside).sum())
        assert table[f"max_intensity_{channel}"].max(initial=-np.inf) == inside.max(initial=-np.inf)


def test_a_pixel_at_the_corner_is_an_object() -> None:
    plane = np.zeros((4, 6), np.uint16)
    plane[3, 5] = 9
    table = {name: column.tolist() for name, column in measure(plane).items()}
    assert table == {
        "label": [9],
        "area_px": [1],
        "centroid_y_px": [3.0],
        "centroid_x_px": [5.0],
        "top": [3],
        "left": [5],
        "bottom": [4],
        "right": [6],
    }


@pytest.mark.parametrize("values", [[], [5], [3, 3, 1], [-4, 7, -4], [2**40, 1, 2**40], [2**24, 1]])
def test_different_values_are_found_whatever_their_range(values: list[int]) -> None:
    ids, index = distinct(np.array(values, np.int64))
    assert ids.tolist() == sorted(set(values))
    assert ids[index].tolist() == values


def test_intensities_are_left_out_where_the_image_is_of_another_size() -> None:
    labels, image = sample()
    assert list(label_table(labels, image[:, :20])) == COLUMNS
    assert list(label_table(labels)) == COLUMNS


def test_a_pixel_that_is_no_number_shows() -> None:
    pixels = np.array([[[1], [np.nan], [2]]], np.float32)
    table = label_table(Labels(np.array([[1, 1, 2]])[None, ..., None]), pixels[None])
    np.testing.assert_array_equal(table["mean_intensity_0"], [np.nan, 2])
    np.testing.assert_array_equal(table["max_intensity_0"], [np.nan, 2])


@pytest.mark.parametrize("empty", [False, True])
def test_both_files_hold_the_table(tmp_path: Path, empty: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    labels, image = sample()
    table = label_table(Labels(labels.array * (not empty)), image)
    write_csv(table, tmp_path / "o.csv")
    write_parquet(table, tmp_path / "o.parquet")
    with (tmp_path / "o.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == list(table)
    assert len(rows) == (0 if empty else labels.count())
    for column, texts in zip(table.values(), zip(*rows, strict=True), strict=not empty):
        assert np.array(texts).astype(column.dtype).tolist() == column.tolist()
    parquet = read_parquet(tmp_path / "o.parquet").read_all()
    assert parquet.column_names == list(table)
    for name, column in table.items():
        assert parquet[name].to_pylist() == column.tolist()
    whole = {"frame", "feature", "label", "area_px", "top", "left", "bottom", "right"}
    for name in head:
        kind = "Utf8" if name == "feature_name" else "Int64" if name in whole else "Float64"
        assert f"<{kind}>" in str(parquet.schema.field(name).type)


def test_without_the_extra_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arro3.core", None)
    with pytest.raises(MissingExtra, match=r"kiosk-redis-consumer\[outputs\]"):
        write_parquet({}, tmp_path / "o.parquet")
