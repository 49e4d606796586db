from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image as Picture
from tests.unit.consumers.lab import checkers

from redis_consumer.arrays import AnyArray, Image, Labels
from redis_consumer.consumers import ImageConsumer, Predict, consumer
from redis_consumer.errors import JobRejected

if TYPE_CHECKING:
    from tests.unit.consumers.lab import Lab

    from redis_consumer.job import Job


@consumer("nuclei", model="Nuclei:2")
def find_nuclei(image: Image, job: Job, predict: Predict) -> Labels:
    """Find what is brighter than the job says."""
    (head,) = predict(image)
    return Labels(np.greater(head, float(job.get("threshold", "0"))).astype(np.int32))


@consumer("maps")
def as_it_is(image: Image, job: Job, predict: Predict) -> AnyArray:  # noqa: ARG001 - the contract's parameters
    return image


@consumer("other")
def by_other_model(image: Image, job: Job, predict: Predict) -> AnyArray:  # noqa: ARG001 - the contract's parameters
    return predict(image, "Other:1")[0]


class Brighter(ImageConsumer):
    """The second rung: a class."""

    model = "Nuclei:2"

    def analyze(self, image: Image, job: Job) -> Labels:
        if job.get("label") == "dark":
            raise JobRejected("The field 'label' is 'dark': allowed is light")
        return Labels(self.predict(image)[0].astype(np.int64))


@pytest.fixture
def lab(lab: Lab) -> Lab:
    lab.models.add("Nuclei:2", lambda image: image + 1)
    lab.models.add("Other:1", lambda image: image + 100)
    return lab


def picture(pixels: AnyArray, kind: str = "PNG") -> bytes:
    """Return a picture file of uint8 pixels."""
    out = io.BytesIO()
    Picture.fromarray(np.asarray(pixels, np.uint8)).save(out, kind)
    return out.getvalue()


class TestFlow:
    def test_a_function_is_a_whole_consumer(self, lab: Lab) -> None:
        image = np.zeros((6, 7), np.uint8)
        image[2, 3] = 200
        result = lab.run(find_nuclei, image, "my cells.tif", threshold="100")
        assert result.fields["status"] == "done"
        assert list(result.files) == ["my cells_feature_0.tif"]
        labels = result.files["my cells_feature_0.tif"]
        assert (labels.dtype, labels.shape) == (np.dtype(np.float32), (6, 7))
        np.testing.assert_array_equal(np.argwhere(labels), [[2, 3]])

    def test_its_name_and_its_words_are_kept(self) -> None:
        assert find_nuclei.__name__ == "nuclei"
        assert find_nuclei.__doc__ == "Find what is brighter than the job says."
        assert find_nuclei.__module__ == __name__
        assert issubclass(find_nuclei, ImageConsumer)

    def test_a_class_is_one_too(self, lab: Lab) -> None:
        result = lab.run(Brighter, checkers((6, 7)))
        np.testing.assert_array_equal(result.files["cells_feature_0.tif"], checkers((6, 7)) + 1)

    def test_an_array_is_saved_as_it_is_one_file_for_each_channel(self, lab: Lab) -> None:
        result = lab.run(as_it_is, checkers((6, 7, 2)), "a.npy", dimension_order="YXC")
        assert list(result.files) == ["a_feature_0.tif", "a_feature_1.tif"]
        np.testing.assert_array_equal(result.files["a_feature_1.tif"], checkers((6, 7, 2))[..., 1])

    def test_frames_are_one_stack(self, lab: Lab) -> None:
        result = lab.run(as_it_is, checkers((3, 6, 7)), "a.npy", dimension_order="TYX")
        assert result.files["a_feature_0.tif"].shape == (3, 6, 7)

    def test_another_model_is_asked_by_its_name(self, lab: Lab) -> None:
        result = lab.run(by_other_model, checkers((6, 7)))
        np.testing.assert_array_equal(result.files["cells_feature_0.tif"], checkers((6, 7)) + 100)

    def test_without_a_model_of_its_own_the_setting_holds(self, lab: Lab) -> None:
        @consumer("plain")
        def plain(image: Image, job: Job, predict: Predict) -> AnyArray:  # noqa: ARG001 - the contract's parameters
            return predict(image)[0]

        lab.environ["NUCLEAR_MODEL"] = "Other:1"
        assert lab.run(plain, checkers((6, 7))).files["cells_feature_0.tif"].min() == 100

    def test_readers_see_every_stage_in_order(self, lab: Lab) -> None:
        result = lab.run(find_nuclei, checkers((6, 7)))
        stages = ["pre-processing", "predicting", "post-processing", "saving-results"]
        assert lab.queue.words() == [*stages, "done"]
        times = ["download_time", "preprocess_time", "prediction_time", "postprocess_time", "upload_time"]
        assert all(float(result.fields[name]) >= 0 for name in times)
        assert result.fields["predict_retries"] == "0"
        assert result.fields["progress"] == "100"

    def test_the_folder_of_a_job_is_gone_after_it(self, lab: Lab) -> None:
        folders: list[str] = []

        class Looking(Brighter):
            def analyze(self, image: Image, job: Job) -> Labels:
                folders.append(str(self.work.folder))
                assert self.work.folder.is_dir()
                return super().analyze(image, job)

        lab.run(Looking, checkers((6, 7)))
        lab.run(Looking, checkers((6, 7)), label="dark")
        assert len(set(folders)) == 2
        assert not any(lab.folder.joinpath(folder).exists() for folder in folders)


class TestFailures:
    def test_what_the_analysis_refuses_is_the_reason(self, lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
        assert (
            lab.run(Brighter, checkers((6, 7)), label="dark").reason == "The field 'label' is 'dark': allowed is light"
        )
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    def test_a_bug_in_the_analysis_fails_the_job_with_its_type(self, lab: Lab) -> None:
        assert lab.run(find_nuclei, checkers((6, 7)), threshold="high").reason.startswith(
            "ValueError: could not convert"
        )

    def test_labels_that_are_no_labels_are_told(self, lab: Lab) -> None:
        @consumer("wrong")
        def wrong(image: Image, job: Job, predict: Predict) -> Labels:  # noqa: ARG001 - the contract's parameters
            return Labels(image)  # type: ignore[arg-type]  # what is tested

        assert "expected is an integer type" in lab.run(wrong, checkers((6, 7))).reason

    def test_an_image_that_is_none_fails_the_job(self, lab: Lab) -> None:
        assert "'cells.tif'" in lab.run(find_nuclei, b"no image").reason

    def test_an_archive_belongs_to_another_queue(self, lab: Lab) -> None:
        reason = lab.run(find_nuclei, b"PK\3\4", "cells.zip").reason
        assert reason == "Invalid filetype for \"q\" job: 'uploads/cells.zip'"

    def test_a_class_without_an_analysis_says_so(self, lab: Lab) -> None:
        class Empty(ImageConsumer):
            pass

        assert lab.run(Empty, checkers((6, 7))).reason.startswith(
            "NotImplementedError: Empty does not override analyze"
        )


class TestChannels:
    def test_the_job_names_channels_by_index(self, lab: Lab) -> None:
        result = lab.run(as_it_is, checkers((6, 7, 3)), "a.npy", dimension_order="YXC", channels=" 2, 0 ,")
        assert list(result.files) == ["a_feature_0.tif", "a_feature_1.tif"]
        np.testing.assert_array_equal(result.files["a_feature_0.tif"], checkers((6, 7, 3))[..., 2])

    @pytest.mark.parametrize("named", ["3", "-1", "x", "0,9", "1.0"])
    def test_a_channel_that_the_image_does_not_have_is_refused(self, lab: Lab, named: str) -> None:
        result = lab.run(as_it_is, checkers((6, 7, 3)), "a.npy", dimension_order="YXC", channels=named)
        assert result.reason.startswith("The field 'channels' names ")
        assert result.reason.endswith(": allowed are 0 to 2")

    def test_a_colour_picture_is_refused_with_the_way_out(self, lab: Lab) -> None:
        reason = lab.run(as_it_is, picture(checkers((6, 7, 3))), "slide.png").reason
        assert "'slide.png' is a colour picture" in reason
        assert "name one channel in the field 'channels' (0 red, 1 green, 2 blue)" in reason

    def test_who_names_a_channel_of_a_colour_picture_gets_it(self, lab: Lab) -> None:
        result = lab.run(as_it_is, picture(checkers((6, 7, 3))), "slide.png", channels="1")
        np.testing.assert_array_equal(result.files["slide_feature_0.tif"], checkers((6, 7, 3))[..., 1])

    def test_a_grey_picture_that_is_saved_in_colour_has_one_channel(self, lab: Lab) -> None:
        grey = checkers((6, 7))
        result = lab.run(as_it_is, picture(np.stack([grey] * 3, axis=-1)), "grey.png")
        assert list(result.files) == ["grey_feature_0.tif"]
        np.testing.assert_array_equal(result.files["grey_feature_0.tif"], grey)

    def test_several_stains_are_no_colours(self, lab: Lab) -> None:
        result = lab.run(as_it_is, checkers((6, 7, 3)), "stains.npy", dimension_order="YXC")
        assert len(result.files) == 3
