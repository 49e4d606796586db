from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.unit.consumers.lab import checkers

from redis_consumer.consumers import SpotConsumer

if TYPE_CHECKING:
    from tests.unit.consumers.lab import Lab

    from redis_consumer.arrays import AnyArray

OFFSET = np.array([0.25, -0.125], np.float32)


def heads(image: AnyArray) -> dict[str, AnyArray]:
    """Return what a model of spots gives: a pixel is as likely a spot as it is bright."""
    image = np.asarray(image, np.float32)
    return {
        "classification": np.concatenate([1 - image, image], -1),
        "offset_regression": np.broadcast_to(OFFSET, (*image.shape[:3], 2)).copy(),
    }


def dots(*places: tuple[int, int], shape: tuple[int, int] = (40, 50)) -> AnyArray:
    image = np.full(shape, 100, np.uint16)
    for row, column in places:
        image[row, column] = 1000
    return image


@pytest.fixture
def lab(lab: Lab) -> Lab:
    lab.models.add("Dots:2", heads)
    lab.environ["POLARIS_MODEL"] = "Dots:2"
    return lab


class TestResult:
    def test_an_image_has_a_picture_and_its_points(self, lab: Lab) -> None:
        result = lab.run(SpotConsumer, dots((5, 7), (30, 42)), "a b.tif")
        assert list(result.files) == ["a b_0.tif", "a b_0.npy"]
        picture, points = result.files.values()
        assert (picture.shape, picture.dtype) == ((40, 50, 3), np.dtype(np.uint8))
        assert points.dtype == np.float64
        np.testing.assert_array_equal(points, np.array([(5, 7), (30, 42)]) + OFFSET)

    def test_every_frame_has_its_own_spots_or_none(self, lab: Lab) -> None:
        stack = np.stack([dots((5, 7)), dots(), dots((9, 9), (20, 20), (30, 30))])
        result = lab.run(SpotConsumer, stack, dimension_order="BXY")
        assert list(result.files) == [f"cells_{i}.{kind}" for i in range(3) for kind in ("tif", "npy")]
        assert [result.files[f"cells_{i}.npy"].shape for i in range(3)] == [(1, 2), (0, 2), (3, 2)]

    def test_an_image_without_spots_is_no_failure(self, lab: Lab) -> None:
        result = lab.run(SpotConsumer, np.zeros((30, 20), np.uint16))
        assert result.files["cells_0.npy"].shape == (0, 2)

    @pytest.mark.parametrize(
        ("name", "stem"),
        [
            ("plate 1/well,A/spots.tif", "plate 1/well,A/spots"),
            ("mesmer spot.TIF", "mesmer spot"),
            ("核.tif", "核"),
            ("../../a.tif", "a"),
        ],
    )
    def test_names_and_folders_are_the_users(self, lab: Lab, name: str, stem: str) -> None:
        image = dots((5, 7))
        (lab.folder / "bucket/uploads/plate 1/well,A").mkdir(parents=True)
        lab.put(image, "cells.tif")
        result = lab.run(SpotConsumer, image, original_name=name)
        assert list(result.files) == [f"{stem}_0.tif", f"{stem}_0.npy"]


class TestFlow:
    def test_stages_and_axes_are_told(self, lab: Lab) -> None:
        result = lab.run(SpotConsumer, np.stack([dots((5, 7))] * 2), dimension_order="BXY")
        assert lab.queue.words() == ["pre-processing", "predicting", "saving-results", "done"]
        assert result.fields["dim_order"] == "BYX"

    def test_the_threshold_is_a_setting(self, lab: Lab) -> None:
        image = dots((5, 7))
        image[20, 20] = 820  # 0.8 between the darkest and the brightest
        assert len(lab.run(SpotConsumer, image).files["cells_0.npy"]) == 1
        lab.environ["POLARIS_THRESHOLD"] = "0.7"
        assert len(lab.run(SpotConsumer, image).files["cells_0.npy"]) == 2

    def test_the_model_sees_the_range_from_0_to_1_and_clipped_if_so_set(self, lab: Lab) -> None:
        image = dots((5, 7)).astype(np.float32) + checkers((40, 50)) / 10
        image[30, 30] = 50_000
        lab.run(SpotConsumer, image)
        lab.environ["POLARIS_CLIP"] = "true"
        lab.run(SpotConsumer, image)
        plain, clipped = (np.asarray(seen, np.float32) for _, seen in lab.models.seen)
        assert (plain.min(), plain.max(), clipped.min(), clipped.max()) == (0, 1, 0, 1)
        assert clipped.mean() > plain.mean()

    def test_the_job_may_name_the_model(self, lab: Lab) -> None:
        lab.models.add("Own:3", heads)
        lab.run(SpotConsumer, dots((5, 7)), model_name="Own", model_version="3")
        assert {model for model, _ in lab.models.seen} == {"Own:3"}

    def test_scale_is_for_cells(self, lab: Lab) -> None:
        lab.run(SpotConsumer, dots((5, 7)), scale="0.38")
        assert lab.models.seen[0][1].shape == (1, 40, 50, 1)

    def test_one_channel_is_taken_by_its_index(self, lab: Lab) -> None:
        image = np.stack([dots(), dots((5, 7))], -1)
        result = lab.run(SpotConsumer, image, "a.npy", channels="1", dimension_order="XYC")
        assert len(result.files["a_0.npy"]) == 1
        assert result.fields["dim_order"] == "YXC"


def test_the_provenance_counts_the_spots(lab: Lab) -> None:
    lab.environ["EXTRA_OUTPUTS"] = "table-csv,provenance"
    result = lab.run(SpotConsumer, dots((5, 7), (20, 20)))
    keys = json.loads(result.fields["extra_outputs"])
    assert list(keys) == ["provenance"], "cells have tables, spots have points"
    told = json.loads((lab.folder / "bucket" / keys["provenance"]).read_text("utf-8"))
    assert told["objects"] == 2
    assert told["parameters"] == {"channels": [0], "threshold": 0.95, "clip": False}


class TestRefused:
    @pytest.mark.parametrize("channels", ["", "0,1"])
    def test_several_channels(self, lab: Lab, channels: str) -> None:
        result = lab.run(SpotConsumer, checkers((20, 30, 2)), "a.npy", channels=channels)
        assert result.reason.startswith("The image has 2 channels, the model Dots:2 takes 1: name them in the field")

    def test_a_channel_that_is_not_there(self, lab: Lab) -> None:
        reason = lab.run(SpotConsumer, dots(), channels="1").reason
        assert reason == "The field 'channels' names '1': allowed are 0 to 0"

    def test_values_that_are_not_finite(self, lab: Lab) -> None:
        reason = lab.run(SpotConsumer, np.full((9, 9), np.nan, np.float32)).reason
        assert reason.startswith("The image cannot be processed: the image holds values that are not finite")

    def test_a_model_of_other_heads(self, lab: Lab) -> None:
        lab.models.add("Dots:2", lambda image: image)
        assert lab.run(SpotConsumer, dots()).reason == (
            "The model Dots:2 has 1 outputs: expected are classification and offset_regression"
        )
