from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from tests.unit.consumers.lab import checkers

from redis_consumer.consumers import ImageFileConsumer, SegmentationConsumer

if TYPE_CHECKING:
    from tests.unit.consumers.lab import Lab

    from redis_consumer.arrays import AnyArray
    from redis_consumer.consumers import Consumer

RAW = {"preprocess_function": "none", "postprocess_function": "none"}
"""What the model gives is what is saved."""
BOTH = pytest.mark.parametrize("consumer_type", [ImageFileConsumer, SegmentationConsumer])
THREE_STAINS = {"name": "cells.npy", "dimension_order": "YXC"}


@pytest.fixture
def lab(lab: Lab) -> Lab:
    lab.models.add("Nuclei:1", lambda image: image)
    lab.models.add("Cytoplasm:1", lambda image: 1000 + image)
    lab.models.add("Phase:1", lambda image: 2000 + image)
    lab.models.add("Own:3", lambda image: 3000 + image)
    lab.environ.update(NUCLEAR_MODEL="Nuclei:1", CYTOPLASM_MODEL="Cytoplasm:1", PHASE_MODEL="Phase:1")
    return lab


def blobs(size: int = 96) -> tuple[AnyArray, int]:
    """Return an image of well separated round nuclei, and their number."""
    image = np.zeros((size, size), np.float32)
    y, x = np.mgrid[:size, :size]
    centres = range(16, size, 32)
    for row in centres:
        for column in centres:
            image += 200 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 50)
    return image, len(centres) ** 2


def heads(image: AnyArray) -> dict[str, AnyArray]:
    """Return what a model of nuclei gives: inner distance and foreground."""
    bright = np.asarray(image, np.float32)
    bright = bright / max(float(bright.max()), 1e-6)
    return {"semantic_0": np.where(bright > 0.4, bright, 0), "semantic_1": (bright > 0.4).astype(np.float32)}


class TestBlankFields:
    @BOTH
    def test_blank_fields_are_the_kiosks_defaults(self, lab: Lab, consumer_type: type[Consumer]) -> None:
        image, count = blobs()
        lab.models.add("Nuclei:1", heads)
        names = (
            "model_name",
            "model_version",
            "preprocess_function",
            "postprocess_function",
            "cuts",
            "scale",
            "channels",
        )
        result = lab.run(consumer_type, image, "cells.tif", label="", **dict.fromkeys(names, " "))
        (labels,) = result.files.values()
        assert labels.shape == image.shape
        np.testing.assert_array_equal(np.unique(labels), np.arange(count + 1))

    def test_the_image_that_the_model_sees_is_normalized_by_default(self, lab: Lab) -> None:
        lab.run(ImageFileConsumer, checkers((96, 96)), postprocess_function="none")
        _, seen = lab.models.seen[0]
        assert 0 <= np.min(np.asarray(seen, np.float32)) < np.max(np.asarray(seen, np.float32)) <= 1

    def test_a_blank_picture_has_no_nuclei(self, lab: Lab) -> None:
        lab.models.add("Nuclei:1", heads)
        result = lab.run(SegmentationConsumer, np.zeros((64, 64), np.uint16))
        assert not result.files["cells_batch_0_feature_0.tif"].any()


class TestImageFileConsumer:
    def test_the_result_has_a_file_for_each_feature(self, lab: Lab) -> None:
        lab.models.add("Nuclei:1", lambda image: np.concatenate([image, image], axis=-1))
        result = lab.run(ImageFileConsumer, checkers((8, 9)), "a b.tif", **RAW)
        assert list(result.files) == ["a b_feature_0.tif", "a b_feature_1.tif"]

    def test_readers_see_every_stage(self, lab: Lab) -> None:
        lab.run(ImageFileConsumer, checkers((8, 9)), **RAW)
        assert lab.queue.words() == ["pre-processing", "predicting", "post-processing", "saving-results", "done"]

    @pytest.mark.parametrize(
        ("fields", "base"),
        [
            ({}, 0),
            ({"model_name": "Own", "model_version": "3"}, 3000),
            ({"model_name": "Own", "model_version": ""}, 3000),
            ({"model_name": " ", "model_version": "3"}, 0),
        ],
    )
    def test_the_job_chooses_the_model_or_the_setting_does(self, lab: Lab, fields: dict[str, str], base: int) -> None:
        result = lab.run(ImageFileConsumer, checkers((8, 9)), **RAW, **fields)
        np.testing.assert_array_equal(result.files["cells_feature_0.tif"], checkers((8, 9)) + base)

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"model_name": "Own", "model_version": "9"}, "There is no model Own:9"),
            ({"model_name": "Absent"}, "There is no model Absent"),
            ({"model_name": "Own", "model_version": "x"}, "The fields 'model_name' and 'model_version' are wrong: "),
            ({"model_name": "../Own"}, "The fields 'model_name' and 'model_version' are wrong: model name '../Own'"),
        ],
    )
    def test_a_model_that_is_not_there_is_named(self, lab: Lab, fields: dict[str, str], reason: str) -> None:
        assert lab.run(ImageFileConsumer, checkers((8, 9)), **RAW, **fields).reason.startswith(reason)

    def test_scale_zooms_the_model_s_view_and_not_the_result(self, lab: Lab) -> None:
        result = lab.run(ImageFileConsumer, np.full((40, 61), 7, np.float32), scale="0.5", **RAW)
        assert lab.models.seen[0][1].shape == (1, 20, 30, 1)
        assert set(np.unique(result.files["cells_feature_0.tif"])) == {7}

    def test_labels_are_zoomed_back_as_labels(self, lab: Lab) -> None:
        image, count = blobs()
        lab.models.add("Nuclei:1", heads)
        result = lab.run(ImageFileConsumer, image, scale="0.75")
        labels = result.files["cells_feature_0.tif"]
        assert labels.shape == image.shape
        np.testing.assert_array_equal(np.unique(labels), np.arange(count + 1))

    def test_an_image_that_would_grow_beyond_the_limit_is_refused(self, lab: Lab) -> None:
        lab.environ["MAX_IMAGE_PIXELS"] = "5000"
        assert lab.run(ImageFileConsumer, checkers((20, 30)), scale="2", **RAW).fields["status"] == "done"
        reason = lab.run(ImageFileConsumer, checkers((20, 30)), scale="4", **RAW).reason
        assert reason == (
            "The field 'scale' is 4: the image would grow to 9600 values, allowed are 5000 (MAX_IMAGE_PIXELS)"
        )

    @pytest.mark.parametrize("scale", ["nan", "0", "-1", "11", "0.05", "big", "1,5", "inf"])
    def test_a_scale_that_is_none_is_refused(self, lab: Lab, scale: str) -> None:
        reason = lab.run(ImageFileConsumer, checkers((8, 9)), scale=scale).reason
        assert reason == f"The field 'scale' is {scale!r}: allowed is a number from 0.1 to 10"
        assert not lab.models.seen

    @pytest.mark.parametrize("size", [16, None])
    def test_a_blank_scale_is_what_a_model_finds_if_one_is_asked(self, lab: Lab, size: int | None) -> None:
        def halves(image: AnyArray) -> AnyArray:
            assert image.shape[1:] == (size or 216, size or 216, 1)
            return np.full((len(image), 1), 0.5, np.float32)

        lab.models.add("ScaleDetection:1", halves, (None, size, size, 1))
        image = np.full((40, 61), 7, np.float32)
        assert lab.run(ImageFileConsumer, image, **RAW).fields["status"] == "done"
        assert {model for model, _ in lab.models.seen} == {"Nuclei:1"}  # disabled: not even asked
        lab.models.seen.clear()
        lab.environ["SCALE_DETECT_ENABLED"] = "true"
        result = lab.run(ImageFileConsumer, image, scale=" ", **RAW)
        assert lab.models.seen[-1][1].shape == (1, 20, 30, 1)
        assert result.fields["scale"] == "0.5"
        assert result.files["cells_feature_0.tif"].shape == (40, 61)
        lab.models.seen.clear()
        lab.run(ImageFileConsumer, image, scale="1", **RAW)
        assert {model for model, _ in lab.models.seen} == {"Nuclei:1"}

    @pytest.mark.parametrize(
        ("found", "reason"),
        [
            (12.5, "The model ScaleDetection:1 finds the scale 12.5: allowed is a number from 0.1 to 10; name one in "),
            (np.nan, "The image cannot be processed: a detection model predicted values of shape (1, 1)"),
        ],
    )
    def test_a_scale_that_a_model_cannot_mean_is_refused(self, lab: Lab, found: float, reason: str) -> None:
        lab.environ["SCALE_DETECT_ENABLED"] = "true"
        lab.models.add("ScaleDetection:1", lambda image: np.full((len(image), 1), found, np.float32))
        assert lab.run(SegmentationConsumer, checkers((8, 9))).reason.startswith(reason)

    def test_cuts_send_pieces_of_the_image(self, lab: Lab) -> None:
        result = lab.run(ImageFileConsumer, checkers((40, 60)), cuts="2", field_size="11", **RAW)
        assert {seen.shape[1:3] for _, seen in lab.models.seen} == {(30, 40)}
        np.testing.assert_array_equal(result.files["cells_feature_0.tif"], checkers((40, 60)))

    @pytest.mark.parametrize("field", ["cuts", "field_size"])
    @pytest.mark.parametrize("value", ["-1", "1.5", "two", "²"])
    def test_what_counts_is_a_whole_number(self, lab: Lab, field: str, value: str) -> None:
        reason = lab.run(ImageFileConsumer, checkers((8, 9)), **{field: value}).reason
        assert reason == f"The field {field!r} is {value!r}: allowed is a whole number from 0"

    def test_functions_are_applied_one_after_the_other(self, lab: Lab) -> None:
        fields = {"preprocess_function": "histogram_normalization, normalize", "postprocess_function": "none"}
        lab.run(ImageFileConsumer, checkers((64, 64)), **fields)
        seen = np.asarray(lab.models.seen[0][1], np.float64)
        assert abs(seen.mean()) < 1e-3  # what `normalize` leaves
        assert abs(seen.std() - 1) < 1e-2

    @pytest.mark.parametrize("field", ["preprocess_function", "postprocess_function"])
    def test_an_unknown_function_is_named_with_those_that_are(self, lab: Lab, field: str) -> None:
        reason = lab.run(ImageFileConsumer, checkers((8, 9)), **{field: "none,sharpen"}).reason
        assert reason.startswith(f"{field} 'sharpen': allowed are ")
        assert not lab.models.seen

    def test_what_a_function_refuses_is_the_inputs_fault(self, lab: Lab) -> None:
        result = lab.run(ImageFileConsumer, np.full((8, 9), np.nan, np.float32), "a.npy")
        assert result.reason == (
            "The image cannot be processed: the image holds values that are not finite (NaN or infinity)"
        )


class TestRoles:
    """The field `channels` of the segmentation queue: nuclei, cytoplasm, phase, by position."""

    @pytest.mark.parametrize(
        ("channels", "expected"),
        [
            ("0,", [("Nuclei:1", 0)]),
            ("0", [("Nuclei:1", 0)]),
            ("2,,", [("Nuclei:1", 2)]),
            (",1", [("Cytoplasm:1", 1)]),
            (" , 1 ", [("Cytoplasm:1", 1)]),
            (",,2", [("Phase:1", 2)]),
            ("1,0", [("Nuclei:1", 1), ("Cytoplasm:1", 0)]),
            ("0,1,2", [("Nuclei:1", 0), ("Cytoplasm:1", 1), ("Phase:1", 2)]),
            ("1,1", [("Nuclei:1", 1), ("Cytoplasm:1", 1)]),
        ],
    )
    def test_each_role_has_its_model_and_its_channel(
        self, lab: Lab, channels: str, expected: list[tuple[str, int]]
    ) -> None:
        image = checkers((8, 9, 3))
        result = lab.run(SegmentationConsumer, image, **THREE_STAINS, channels=channels, **RAW)
        assert [model for model, _ in lab.models.seen] == [model for model, _ in expected]
        for (_, seen), (_, channel) in zip(lab.models.seen, expected, strict=True):
            np.testing.assert_array_equal(seen[0, ..., 0], image[..., channel])
        assert list(result.files) == [f"cells_batch_0_feature_{i}.tif" for i in range(len(expected))]

    @pytest.mark.parametrize("channels", ["", ",", ",,", " , "])
    def test_without_any_role_the_image_is_nuclei(self, lab: Lab, channels: str) -> None:
        lab.run(SegmentationConsumer, checkers((8, 9)), channels=channels, **RAW)
        assert [model for model, _ in lab.models.seen] == ["Nuclei:1"]

    def test_the_model_of_the_job_serves_every_role(self, lab: Lab) -> None:
        fields = {"channels": "0,1", "model_name": "Own", "model_version": "3"}
        lab.run(SegmentationConsumer, checkers((8, 9, 3)), **THREE_STAINS, **fields, **RAW)
        assert [model for model, _ in lab.models.seen] == ["Own:3", "Own:3"]

    @pytest.mark.parametrize("channels", ["3,", ",3", "-1,", "x", "0,9"])
    def test_a_channel_that_is_not_there_is_refused(self, lab: Lab, channels: str) -> None:
        result = lab.run(SegmentationConsumer, checkers((8, 9, 3)), **THREE_STAINS, channels=channels)
        assert result.reason.startswith("The field 'channels' names ")
        assert not lab.models.seen

    def test_a_fourth_role_is_refused(self, lab: Lab) -> None:
        result = lab.run(SegmentationConsumer, checkers((8, 9, 3)), **THREE_STAINS, channels="0,1,2,0")
        assert result.reason == "The field 'channels' names 4 roles: allowed are 3 (nuclei, cytoplasm, phase)"

    @pytest.mark.parametrize(
        ("channels", "recorded"),
        [("0,", "0,"), (",1", ",1"), ("0,,", "0,,"), (",0", ",0"), ("0,1,2", "0,1,2"), (" , 2 ", ",2"), (",,", "0")],
    )
    def test_the_job_tells_which_channel_was_which_role(self, lab: Lab, channels: str, recorded: str) -> None:
        image = ome(checkers((3, 8, 9)), "CYX")
        result = lab.run(SegmentationConsumer, image, "a.ome.tif", channels=channels, **RAW)
        assert result.fields["image_channels"] == recorded
        assert result.fields["channels"] == channels

    def test_every_frame_and_role_is_a_file_frames_first(self, lab: Lab) -> None:
        fields = {"name": "plate.npy", "dimension_order": "TYXC", "channels": "0,1"}
        result = lab.run(SegmentationConsumer, checkers((2, 8, 9, 2)), **fields, **RAW)
        assert list(result.files) == [f"plate_batch_{b}_feature_{f}.tif" for b in (0, 1) for f in (0, 1)]
        expected = checkers((2, 8, 9, 2))[1, ..., 1] + 1000
        np.testing.assert_array_equal(result.files["plate_batch_1_feature_1.tif"], expected)

    def test_a_result_of_a_zoomed_image_with_roles_has_its_size(self, lab: Lab) -> None:
        result = lab.run(SegmentationConsumer, checkers((20, 30, 3)), **THREE_STAINS, channels="0,1", scale="2", **RAW)
        assert {image.shape for image in result.files.values()} == {(20, 30)}
        assert lab.models.seen[0][1].shape == (1, 40, 60, 1)

    def test_the_queue_s_readers_know_no_post_processing(self, lab: Lab) -> None:
        result = lab.run(SegmentationConsumer, checkers((8, 9)), **RAW)
        assert lab.queue.words() == ["pre-processing", "predicting", "saving-results", "done"]
        assert float(result.fields["postprocess_time"]) >= 0  # it is timed all the same


def ome(array: AnyArray, axes: str, *names: str) -> bytes:
    """Return an OME-TIFF of these axes and channels."""
    file = io.BytesIO()
    channels = {"Channel": {"Name": list(names)}} if names else {}
    stored = np.asarray(array, np.uint16)
    tifffile.imwrite(file, stored, ome=True, photometric="minisblack", metadata={"axes": axes, **channels})
    return file.getvalue()


class TestNames:
    """Channels by the names that OME-TIFFs give them."""

    NAMES = ("CD45", "Hoechst 33342", "pan-CK")

    @pytest.mark.parametrize(
        ("channels", "expected"),
        [
            ("Hoechst 33342,", [("Nuclei:1", 1)]),
            ("hoechst 33342,CD45", [("Nuclei:1", 1), ("Cytoplasm:1", 0)]),
            (",pan-CK", [("Cytoplasm:1", 2)]),
            ("1,cd45, PAN-CK", [("Nuclei:1", 1), ("Cytoplasm:1", 0), ("Phase:1", 2)]),
        ],
    )
    def test_a_role_takes_a_channel_by_its_name(self, lab: Lab, channels: str, expected: list[tuple[str, int]]) -> None:
        image = checkers((3, 8, 9))
        result = lab.run(SegmentationConsumer, ome(image, "CYX", *self.NAMES), channels=channels, **RAW)
        assert result.fields["status"] == "done"
        assert [model for model, _ in lab.models.seen] == [model for model, _ in expected]
        for (_, seen), (_, channel) in zip(lab.models.seen, expected, strict=True):
            np.testing.assert_array_equal(seen[0, ..., 0], image[channel])
        names = ",".join(self.NAMES[channel] for _, channel in expected)
        assert result.fields["image_channel_names"] == names

    @pytest.mark.parametrize(
        ("names", "channels", "reason"),
        [
            (NAMES, "DAPI,", "names 'DAPI': allowed are 0 to 2 and CD45, Hoechst 33342, pan-CK"),
            (NAMES, "0,3", "names '3': allowed are 0 to 2 and CD45, Hoechst 33342, pan-CK"),
            (("a", "A", "a"), "a,", "names 'a', which 2 channels are called: allowed are 0 to 2 and a, A, a"),
            ((), "DAPI,", "names 'DAPI': allowed are 0 to 2"),
        ],
    )
    def test_a_name_that_is_not_there_is_told_those_that_are(
        self, lab: Lab, names: tuple[str, ...], channels: str, reason: str
    ) -> None:
        result = lab.run(SegmentationConsumer, ome(checkers((3, 8, 9)), "CYX", *names), channels=channels)
        assert result.reason == f"The field 'channels' {reason}"

    def test_a_wavelength_is_a_name(self, lab: Lab) -> None:
        image = checkers((3, 8, 9))
        lab.run(SegmentationConsumer, ome(image, "CYX", "405", "488", "561"), channels="488", **RAW)
        np.testing.assert_array_equal(lab.models.seen[0][1][0, ..., 0], image[1])

    def test_a_name_is_exact_before_it_is_alike(self, lab: Lab) -> None:
        image = checkers((3, 8, 9))
        lab.run(SegmentationConsumer, ome(image, "CYX", "dapi", "Dapi", "DAPI"), channels="DAPI", **RAW)
        np.testing.assert_array_equal(lab.models.seen[0][1][0, ..., 0], image[2])


class TestBlankChannels:
    """What clients send that have no field for it: all optional fields blank."""

    @BOTH
    @pytest.mark.parametrize(
        ("names", "taken", "origin"),
        [
            ((), 0, "rule"),
            (("CD45", "DAPI", "pan-CK"), 1, "metadata"),
            (("CD45", "CD3", "Hoechst 33342"), 2, "metadata"),
            (("DNA1", "CD3", "DNA2"), 0, "metadata"),
            (("mCherry-H2B", "CD3", "CD8"), 0, "metadata"),
            (("CD45", "nucleolin", "pan-CK"), 0, "rule"),
        ],
    )
    def test_of_several_stains_the_nuclei_are_taken_and_it_is_told(
        self, lab: Lab, consumer_type: type[Consumer], names: tuple[str, ...], taken: int, origin: str
    ) -> None:
        image = checkers((3, 8, 9))
        blank = dict.fromkeys(("dimension_order", "channels", "scale", "model_name", "model_version", "label"), "")
        result = lab.run(consumer_type, ome(image, "CYX", *names), "a.tif", **blank, **RAW)
        assert len(result.files) == 1
        assert [model for model, _ in lab.models.seen] == ["Nuclei:1"]
        np.testing.assert_array_equal(lab.models.seen[0][1][0, ..., 0], image[taken])
        assert result.fields["image_channels"] == str(taken)
        assert result.fields["image_channels_from"] == origin

    @BOTH
    def test_a_model_of_as_many_channels_gets_them_all(self, lab: Lab, consumer_type: type[Consumer]) -> None:
        lab.models.add("Nuclei:1", lambda image: image[..., :1], (None, None, None, 2))
        result = lab.run(consumer_type, ome(checkers((2, 8, 9)), "CYX"), **RAW)
        assert lab.models.seen[0][1].shape[-1] == 2
        assert result.fields["image_channels"] == "0,1"

    def test_a_model_of_other_channels_is_named(self, lab: Lab) -> None:
        lab.models.add("Nuclei:1", lambda image: image[..., :1], (None, None, None, 2))
        result = lab.run(SegmentationConsumer, ome(checkers((3, 8, 9)), "CYX"))
        assert result.reason.startswith("The image has 3 channels, the model Nuclei:1 takes 2: ")

    @BOTH
    @pytest.mark.parametrize(
        ("array", "axes", "files"), [((8, 9), "YX", 1), ((3, 8, 9), "TYX", 3), ((3, 2, 8, 9), "ZCYX", 3)]
    )
    def test_the_axes_of_the_file_are_told(
        self, lab: Lab, consumer_type: type[Consumer], array: tuple[int, ...], axes: str, files: int
    ) -> None:
        result = lab.run(consumer_type, ome(checkers(array), axes), "a.tif", dimension_order="", channels="", **RAW)
        assert len(result.files) == (files if consumer_type is SegmentationConsumer else 1)
        told = {name: value for name, value in result.fields.items() if name.startswith("image_")}
        assert told == {
            "image_axes": axes,
            "image_axes_from": "metadata",
            "image_shape": ",".join(map(str, array)),
            "image_channels": "0",
            "image_channels_from": "rule" if "C" in axes else "metadata",
        }
        assert result.fields["dimension_order"] == ""
        assert "dim_order" not in result.fields

    def test_telling_costs_no_write_more(self, lab: Lab) -> None:
        lab.run(SegmentationConsumer, ome(checkers((3, 8, 9)), "CYX"), **RAW)
        told = {"status", "image_axes", "image_channels"}
        writes = [told & set(fields) for fields in lab.queue.writes if set(fields) != {"progress"}]
        assert writes == [{"status", "image_axes"}, {"status", "image_channels"}, {"status"}, {"status"}]

    @BOTH
    def test_a_plain_picture_with_the_form_s_defaults(self, lab: Lab, consumer_type: type[Consumer]) -> None:
        result = lab.run(consumer_type, checkers((8, 9)), dimension_order="XYB", channels="0,", scale="1", **RAW)
        (labels,) = result.files.values()
        np.testing.assert_array_equal(labels, checkers((8, 9)))

    def test_a_colour_picture_with_the_form_s_defaults_is_one_picture(self, lab: Lab) -> None:
        file = io.BytesIO()
        tifffile.imwrite(file, np.asarray(checkers((8, 9, 3)), np.uint8), photometric="rgb")
        fields = {"dimension_order": "XYB", **RAW}
        result = lab.run(SegmentationConsumer, file.getvalue(), "a.tif", channels="0,", **fields)
        assert list(result.files) == ["a_batch_0_feature_0.tif"]
        assert result.fields["image_axes"] == "YXS"
        assert "is a colour picture" in lab.run(SegmentationConsumer, file.getvalue(), "b.tif", **fields).reason

    def test_planes_that_were_stored_as_colours_have_a_way_out(self, lab: Lab) -> None:
        file = io.BytesIO()
        stack = np.asarray(checkers((3, 8, 9)), np.uint16)
        tifffile.imwrite(file, stack, photometric="rgb", planarconfig="separate")
        reason = lab.run(SegmentationConsumer, file.getvalue(), "a.tif", channels="").reason
        assert reason.endswith("or say 'BXY' in 'dimension_order' if its planes are frames")
        result = lab.run(SegmentationConsumer, file.getvalue(), "b.tif", dimension_order="BXY", **RAW)
        assert list(result.files) == [f"b_batch_{batch}_feature_0.tif" for batch in range(3)]

    def test_further_images_of_a_file_are_counted(self, lab: Lab) -> None:
        file = io.BytesIO()
        with tifffile.TiffWriter(file, ome=True) as writer:
            for _ in range(3):
                writer.write(np.asarray(checkers((8, 9)), np.uint16))
        assert lab.run(SegmentationConsumer, file.getvalue(), **RAW).fields["image_others"] == "2"
