from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture
from tests.unit.consumers.lab import checkers

from redis_consumer.consumers import CONSUMERS, MesmerConsumer, MultiplexConsumer
from redis_consumer.processing import mesmer_postprocess, multiplex_preprocess
from redis_consumer.processing.rescale import resize, scaled_size

if TYPE_CHECKING:
    from typing import Any

    from tests.unit.consumers.lab import Lab

    from redis_consumer.arrays import AnyArray

TWO = (None, None, None, 2)
STAINS = "expected are 2, nuclei and membrane or cytoplasm"


def heads(image: AnyArray) -> dict[str, AnyArray]:
    """Return what a model of tissue gives, of nuclei (channel 0) and cells (channel 1) as they are."""
    bright = np.clip(np.asarray(image, np.float32) - 0.3, 0, None)
    classes = [np.concatenate([0 * one, np.minimum(4 * one, 1), 0 * one], -1) for one in np.split(bright, 2, -1)]
    return {
        "semantic_0": bright[..., 1:],
        "semantic_1": classes[1],
        "semantic_2": bright[..., :1],
        "semantic_3": classes[0],
    }


def blobs(centres: list[tuple[int, int]], radius: float, shape: tuple[int, int] = (96, 96)) -> AnyArray:
    """Return an image (Y, X) of domes."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape, np.float32)
    for y, x in centres:
        image += np.sqrt(np.clip(1 - ((rows - y) ** 2 + (columns - x) ** 2) / radius**2, 0, 1))
    return image


NUCLEI = [(24, 24), (24, 72), (72, 48)]
CELLS = [*NUCLEI, (72, 16)]
TISSUE = np.stack([blobs(NUCLEI, 7), blobs(CELLS, 13)])
"""Channels, rows, columns: three cells with a nucleus, one without."""


@pytest.fixture
def lab(lab: Lab) -> Lab:
    lab.models.add("Tissue:2", heads, TWO)
    lab.environ["MESMER_MODEL"] = "Tissue:2"
    return lab


def ome(image: AnyArray, axes: str, names: list[str] | None = None) -> bytes:
    file = io.BytesIO()
    metadata: dict[str, Any] = {"axes": axes} | ({"Channel": {"Name": names}} if names else {})
    tifffile.imwrite(file, image, ome=True, photometric="minisblack", metadata=metadata)
    return file.getvalue()


def counts(files: dict[str, AnyArray]) -> list[int]:
    return [int(np.count_nonzero(np.unique(labels))) for labels in files.values()]


class TestCompartments:
    @pytest.mark.parametrize(
        ("field", "setting", "expected"),
        [
            ("", None, [4]),
            ("whole-cell", "both", [4]),
            ("nuclear", None, [3]),
            ("both", None, [4, 3]),
            ("", "both", [4, 3]),
            (" ", "nuclear", [3]),
            ("Whole_Cell", "both", [4]),
            ("whole cell", "both", [4]),
            ("NUCLEAR", None, [3]),
        ],
    )
    def test_the_job_or_the_setting_says_which(
        self, lab: Lab, field: str, setting: str | None, expected: list[int]
    ) -> None:
        if setting:
            lab.environ["MESMER_COMPARTMENT"] = setting
        result = lab.run(MesmerConsumer, TISSUE, compartment=field)
        assert counts(result.files) == expected
        assert list(result.files) == [f"cells_feature_{c}.tif" for c in range(len(expected))]
        assert {labels.shape for labels in result.files.values()} == {(1, 96, 96)}, "a stack of one, as the Kiosk's"

    def test_another_one_is_refused(self, lab: Lab) -> None:
        result = lab.run(MesmerConsumer, TISSUE, compartment="cytoplasm")
        assert result.reason == "The field 'compartment' is 'cytoplasm': allowed are whole-cell, nuclear, both"
        assert not lab.models.seen


class TestFlow:
    def test_the_numbers_are_those_of_the_steps(self, lab: Lab) -> None:
        image = np.moveaxis(TISSUE, 0, -1)[np.newaxis] * 1000
        small = resize(image, scaled_size((96, 96), 0.75))
        made = mesmer_postprocess(list(heads(multiplex_preprocess(small)).values()), "both")
        expected = resize(made, (96, 96), labels=True)
        result = lab.run(MesmerConsumer, 1000 * TISSUE, compartment="both", scale="0.75")
        np.testing.assert_array_equal(np.stack(list(result.files.values()), -1), expected)

    def test_tiles_beyond_the_border_are_blank(self, lab: Lab) -> None:
        lab.models.add("Tissue:2", heads, (None, 80, 80, 2))
        lab.run(MesmerConsumer, TISSUE)
        tiles = np.asarray(lab.models.seen[0][1], np.float32)
        assert tiles.shape == (4, 80, 80, 2)
        assert not tiles[0, :20].any()  # 96 of 140 pixels are the image's: the model knows no mirror images

    def test_its_readers_know_no_post_processing(self, lab: Lab) -> None:
        result = lab.run(MesmerConsumer, TISSUE)
        assert lab.queue.words() == ["pre-processing", "predicting", "saving-results", "done"]
        (at,) = (i for i, fields in enumerate(lab.queue.writes) if "dim_order" in fields)
        assert lab.queue.writes[at]["status"] == "predicting"
        assert float(result.fields["postprocess_time"]) >= 0

    def test_batches_are_one_stack_of_each_compartment(self, lab: Lab) -> None:
        plate = np.stack([TISSUE, np.stack([blobs([(40, 40)], 7)] * 2), np.zeros_like(TISSUE)])
        result = lab.run(MesmerConsumer, plate, dimension_order="BCXY", compartment="both")
        assert {labels.shape for labels in result.files.values()} == {(3, 96, 96)}
        cells, nuclei = result.files.values()
        assert [len(np.unique(frame)) - 1 for frame in cells] == [4, 1, 0]
        assert [len(np.unique(frame)) - 1 for frame in nuclei] == [3, 1, 0]

    def test_an_image_without_cells_is_no_failure(self, lab: Lab) -> None:
        result = lab.run(MesmerConsumer, np.zeros((2, 64, 48), np.uint16), compartment="both")
        assert [labels.any() for labels in result.files.values()] == [False, False]

    def test_the_job_may_name_the_model(self, lab: Lab) -> None:
        lab.models.add("Own:3", heads, TWO)
        lab.run(MesmerConsumer, TISSUE, model_name="Own", model_version="3")
        assert {model for model, _ in lab.models.seen} == {"Own:3"}

    def test_steps_that_a_job_names_are_those_of_another_queue(self, lab: Lab) -> None:
        result = lab.run(MesmerConsumer, TISSUE, preprocess_function="none", postprocess_function="deep_watershed")
        assert counts(result.files) == [4]

    def test_a_model_of_other_heads_is_refused(self, lab: Lab) -> None:
        lab.models.add("Tissue:2", lambda image: image, TWO)
        assert lab.run(MesmerConsumer, TISSUE).reason == (
            "The image cannot be processed: the multiplex model has 1 outputs: expected are 4"
        )

    @pytest.mark.parametrize("scale", ["x", "0", "11"])
    def test_a_scale_that_is_none_is_refused(self, lab: Lab, scale: str) -> None:
        assert lab.run(MesmerConsumer, TISSUE, scale=scale).reason.startswith(f"The field 'scale' is {scale!r}: ")

    def test_a_blank_scale_may_be_found_by_a_model_of_one_channel(self, lab: Lab) -> None:
        lab.environ["SCALE_DETECT_ENABLED"] = "true"
        lab.models.add("ScaleDetection:1", lambda image: np.full((len(image), 1), 0.5, np.float32))
        result = lab.run(MesmerConsumer, TISSUE)
        assert result.fields["scale"] == "0.5"
        assert lab.models.seen[-1][1].shape == (1, 48, 48, 2)


class TestExtras:
    """What stands beside the zip sees the image as it was analysed: two channels, no frames."""

    def test_tables_and_provenance_speak_of_compartments(self, lab: Lab) -> None:
        lab.environ["EXTRA_OUTPUTS"] = "table-csv,provenance"
        result = lab.run(MesmerConsumer, TISSUE, compartment="both")
        keys = json.loads(result.fields["extra_outputs"])
        table = (lab.folder / "bucket" / keys["table-csv"]).read_text("utf-8")
        assert table.count("whole-cell") == 4
        assert table.count("nuclear") == 3
        told = json.loads((lab.folder / "bucket" / keys["provenance"]).read_text("utf-8"))
        assert told["parameters"] == {"channels": [0, 1], "compartment": "both", "scale": 1.0}
        assert told["objects"] == 7
        assert (told["input"]["axes"], told["input"]["axes_from"]) == ("CYX", "rule")


class TestChannels:
    FOUR = checkers((30, 40, 4)).transpose(2, 0, 1)
    NAMED = ome(FOUR, "CYX", ["DAPI", "CD3", "CD45", "Na/K ATPase, 1"])

    @pytest.mark.parametrize(
        ("channels", "expected"),
        [
            ("", [0, 1]),
            (",", [0, 1]),
            ("0,1", [0, 1]),
            ("3,1", [3, 1]),
            (" 2 , 2 ", [2, 2]),
            ("DAPI,CD45", [0, 2]),
            ("cd45,dapi", [2, 0]),
            ("DAPI,3", [0, 3]),
        ],
    )
    def test_two_are_taken_by_index_or_name_or_the_first(self, lab: Lab, channels: str, expected: list[int]) -> None:
        result = lab.run(MesmerConsumer, self.NAMED, channels=channels)
        assert result.fields["status"] == "done"
        (_, seen), *_ = lab.models.seen
        taken = np.moveaxis(self.FOUR[expected], 0, -1)[np.newaxis]
        np.testing.assert_array_equal(seen, multiplex_preprocess(taken.copy()))
        assert result.fields["image_channels"] == ",".join(map(str, expected))
        assert result.fields["image_channels_from"] == ("job" if channels.strip(",") else "rule")

    @pytest.mark.parametrize(
        ("channels", "reason"),
        [
            ("0", f"The field 'channels' names 1 channel: {STAINS}"),
            ("0,", f"The field 'channels' names 1 channel: {STAINS}"),
            ("0,1,2", f"The field 'channels' names 3 channels: {STAINS}"),
            ("0,4", "The field 'channels' names '4': allowed are 0 to 3 and DAPI"),
            ("DAPI,CD8", "The field 'channels' names 'CD8': allowed are 0 to 3 and DAPI"),
        ],
    )
    def test_other_numbers_and_names_are_refused(self, lab: Lab, channels: str, reason: str) -> None:
        assert lab.run(MesmerConsumer, self.NAMED, channels=channels).reason.startswith(reason)
        assert not lab.models.seen

    @pytest.mark.parametrize("fields", [{}, {"dimension_order": "XY"}, {"dimension_order": "XYB"}])
    def test_an_image_of_one_channel_is_refused(self, lab: Lab, fields: dict[str, str]) -> None:
        result = lab.run(MesmerConsumer, checkers((30, 40)), "one.tif", **fields)
        assert result.reason == f"The image 'one.tif' has 1 channel: {STAINS}"

    def test_a_grey_picture_in_colours_is_one_channel(self, lab: Lab) -> None:
        file = io.BytesIO()
        Picture.fromarray(np.repeat(np.uint8(checkers((30, 40, 1))), 3, -1)).save(file, "PNG")
        assert (
            lab.run(MesmerConsumer, file.getvalue(), "one.png").reason == f"The image 'one.png' has 1 channel: {STAINS}"
        )

    def test_a_colour_picture_is_no_stain_unless_the_job_says_so(self, lab: Lab) -> None:
        file = io.BytesIO()
        Picture.fromarray(np.uint8(checkers((30, 40, 3)))).save(file, "PNG")
        assert "is a colour picture" in lab.run(MesmerConsumer, file.getvalue(), "a.png").reason
        assert lab.run(MesmerConsumer, file.getvalue(), "a.png", channels="2,0").fields["status"] == "done"


class TestAxes:
    """Nothing in the Kiosk's form for tissue says what the axes are: a file of two pages is two stains."""

    CYX = checkers((30, 40, 2)).transpose(2, 0, 1)
    TWELVE = checkers((30, 40, 12))

    @pytest.mark.parametrize(
        ("content", "name", "order"),
        [
            (CYX, "a.tif", "CYX"),
            (CYX, "a.npy", "CYX"),
            (np.moveaxis(CYX, 0, -1).copy(), "a.npy", "YXC"),
            (np.moveaxis(TWELVE, -1, 0).copy(), "a.tif", "CYX"),
            (TWELVE, "a.npy", "YXC"),
            (ome(CYX, "CYX"), "a.ome.tif", "CYX"),
            (ome(CYX[np.newaxis], "TCYX"), "a.ome.tif", "CYX"),
            (ome(CYX, "ZYX"), "a.ome.tif", "CYX"),
            (ome(CYX, "TYX"), "a.ome.tif", "CYX"),
        ],
        ids=[
            "tif pages",
            "npy pages",
            "npy channels",
            "tif twelve pages",
            "npy twelve channels",
            "ome channels",
            "ome one time",
            "ome slices",
            "ome times",
        ],
    )
    def test_dim_order_is_what_the_file_was_taken_for(
        self, lab: Lab, content: AnyArray | bytes, name: str, order: str
    ) -> None:
        result = lab.run(MesmerConsumer, content, name)
        assert result.fields["status"] == "done", result.fields
        assert result.fields["dim_order"] == order
        (_, seen), *_ = lab.models.seen
        whole = self.TWELVE[..., :2] if np.size(content) == self.TWELVE.size else np.moveaxis(self.CYX, 0, -1)
        np.testing.assert_array_equal(seen, multiplex_preprocess(np.array(whole[np.newaxis])))

    def test_frames_of_two_channels_stay_frames(self, lab: Lab) -> None:
        result = lab.run(MesmerConsumer, checkers((3, 30, 40, 2)), "a.npy")
        assert result.fields["dim_order"] == "BYXC"
        assert result.files["a_feature_0.tif"].shape == (3, 30, 40)

    @pytest.mark.parametrize(
        ("content", "fields"),
        [
            (CYX, {"dimension_order": "BXY"}),
            (ome(checkers((5, 30, 40)), "TYX"), {}),
            (ome(CYX, "ZYX"), {"dimension_order": "ZXY"}),
        ],
        ids=["the job's batch", "five points in time", "the job's slices"],
    )
    def test_what_is_said_to_be_frames_is_no_channels(
        self, lab: Lab, content: AnyArray | bytes, fields: dict[str, str]
    ) -> None:
        assert (
            lab.run(MesmerConsumer, content, "a.tif", **fields).reason == f"The image 'a.tif' has 1 channel: {STAINS}"
        )


def test_it_has_two_names() -> None:
    assert CONSUMERS["mesmer"] is CONSUMERS["multiplex"] is MesmerConsumer is MultiplexConsumer
