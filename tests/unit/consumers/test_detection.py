"""What the image shows, and models that predict boxes: the `image` queue of the first Kiosk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.unit.consumers.lab import checkers

from redis_consumer.consumers import ImageFileConsumer, SegmentationConsumer, consumer
from redis_consumer.processing import retinanet
from redis_consumer.processing.rescale import resize

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.consumers.lab import Lab

    from redis_consumer.arrays import AnyArray, Image
    from redis_consumer.consumers import Predict
    from redis_consumer.job import Job

RAW = {"preprocess_function": "none", "postprocess_function": "none"}
ALLOWED = "allowed are 0 (nuclei), 1 (phase), 2 (cytoplasm)"


@pytest.fixture
def lab(lab: Lab) -> Lab:
    for name in ("Nuclei:1", "Phase:1", "Cytoplasm:1", "Own:1"):
        lab.models.add(name, lambda image: image)
    lab.environ.update(NUCLEAR_MODEL="Nuclei:1", CYTOPLASM_MODEL="Cytoplasm:1", PHASE_MODEL="Phase:1")
    return lab


def says(label: int, classes: int = 3) -> Callable[[AnyArray], AnyArray]:
    """Return a model that gives every tile this class."""
    return lambda image: np.repeat(np.eye(classes, dtype=np.float32)[label : label + 1], len(image), 0)


class TestLabel:
    @pytest.mark.parametrize(
        ("label", "model"), [("", "Nuclei:1"), ("0", "Nuclei:1"), ("1", "Phase:1"), ("2", "Cytoplasm:1")]
    )
    def test_it_chooses_the_model(self, lab: Lab, label: str, model: str) -> None:
        lab.run(ImageFileConsumer, checkers((8, 9)), label=label, **RAW)
        assert [name for name, _ in lab.models.seen] == [model]

    def test_a_model_that_is_named_wins(self, lab: Lab) -> None:
        lab.run(ImageFileConsumer, checkers((8, 9)), label="99", model_name="Own", model_version="1", **RAW)
        assert [name for name, _ in lab.models.seen] == ["Own:1"]

    @pytest.mark.parametrize("label", ["3", "-1", "nuclei", "1.0"])
    def test_another_one_is_refused(self, lab: Lab, label: str) -> None:
        assert (
            lab.run(ImageFileConsumer, checkers((8, 9)), label=label).reason
            == f"The field 'label' is {label!r}: {ALLOWED}"
        )

    def test_a_blank_one_is_what_a_model_sees_if_one_is_asked(self, lab: Lab) -> None:
        lab.models.add("LabelDetection:1", says(2), (None, 16, 16, 1))
        assert "label" not in lab.run(ImageFileConsumer, checkers((40, 30)), **RAW).fields
        lab.environ["LABEL_DETECT_ENABLED"] = "true"
        result = lab.run(ImageFileConsumer, checkers((40, 30)), label=" ", **RAW)
        assert result.fields["label"] == "2"
        assert [name for name, _ in lab.models.seen] == ["Nuclei:1", "LabelDetection:1", "Cytoplasm:1"]
        lab.models.seen.clear()
        lab.run(ImageFileConsumer, checkers((40, 30)), label="0", **RAW)
        assert [name for name, _ in lab.models.seen] == ["Nuclei:1"]

    def test_a_model_that_sees_what_nobody_knows(self, lab: Lab) -> None:
        lab.environ["LABEL_DETECT_ENABLED"] = "true"
        lab.models.add("LabelDetection:1", says(4, classes=5))
        reason = lab.run(ImageFileConsumer, checkers((8, 9))).reason
        assert reason == f"The model LabelDetection:1 finds the label 4: {ALLOWED}"

    def test_the_segmentation_queue_has_roles_instead(self, lab: Lab) -> None:
        lab.environ["LABEL_DETECT_ENABLED"] = "true"
        lab.run(SegmentationConsumer, checkers((8, 9)), label="2", **RAW)
        assert [name for name, _ in lab.models.seen] == ["Nuclei:1"]

    def test_a_type_with_a_model_of_its_own_keeps_it(self, lab: Lab) -> None:
        @consumer("own", model="Own:1")
        def as_predicted(image: Image, job: Job, predict: Predict) -> AnyArray:  # noqa: ARG001 - the contract's parameters
            return predict(image)[0]

        class Own(ImageFileConsumer):
            model = "Own:1"

        for consumer_type in (as_predicted, Own):
            lab.run(consumer_type, checkers((8, 9)), label="2", **RAW)
        assert [name for name, _ in lab.models.seen] == ["Own:1", "Own:1"]


def boxes(image: AnyArray) -> dict[str, AnyArray]:
    """Return boxes around the two halves of an image, as RetinaMask predicts them, and noise in front."""
    frames, rows, columns, _ = image.shape
    box = np.array([[1, 1, columns // 2 - 2, rows - 1], [columns // 2 + 2, 1, columns - 1, rows - 1], [0, 0, 3, 3]])
    mask = np.full((3, 14, 14, 1), 0.9)
    scores = np.array([0.9, 0.8, 0.1])
    made = {"prediction_1": box, "prediction_2": scores, "prediction_3": scores, "prediction_4": mask}
    repeated = {name: np.repeat(array[np.newaxis].astype(np.float32), frames, 0) for name, array in made.items()}
    return {"prediction_0": image, **repeated}


def with_depth(image: AnyArray) -> dict[str, AnyArray]:
    """Return the same, and steps of depth that show nothing, and an output that nobody reads."""
    steps = np.zeros((*image.shape[:3], 4), np.float32)
    steps[..., 0] = 1
    return boxes(image) | {"prediction_5": steps, "prediction_6": image}


class TestBoxes:
    FIELDS = {"preprocess_function": "none", "postprocess_function": "retinanet"}  # noqa: RUF012 - never written to

    def test_frames_go_whole_to_the_model_and_come_back_as_labels(self, lab: Lab) -> None:
        lab.models.add("Nuclei:1", boxes)
        image = checkers((2, 40, 60))
        result = lab.run(ImageFileConsumer, image, dimension_order="BXY", **self.FIELDS)
        assert sum(seen.shape[0] for _, seen in lab.models.seen) == 2
        expected = retinanet(list(boxes(image[..., None]).values()), (40, 60))
        np.testing.assert_array_equal(result.files["cells_feature_0.tif"], expected[..., 0])
        assert set(np.unique(expected)) == {0, 1, 2}

    def test_a_model_of_fixed_size_sees_the_image_at_that(self, lab: Lab) -> None:
        lab.models.add("Nuclei:1", boxes, (None, 64, 64, 1))
        image = checkers((40, 60))
        result = lab.run(ImageFileConsumer, image, **self.FIELDS)
        np.testing.assert_array_equal(lab.models.seen[0][1], resize(image[None, ..., None], (64, 64)))
        labels = result.files["cells_feature_0.tif"]
        assert labels.shape == (40, 60)
        assert set(np.unique(labels)) == {0, 1, 2}

    def test_a_scaled_image_has_labels_of_its_own_size(self, lab: Lab) -> None:
        lab.models.add("Nuclei:1", boxes)
        result = lab.run(ImageFileConsumer, checkers((80, 120)), scale="0.5", **self.FIELDS)
        assert result.files["cells_feature_0.tif"].shape == (80, 120)
        assert set(np.unique(result.files["cells_feature_0.tif"])) == {0, 1, 2}

    def test_the_semantic_kind_drops_the_last_output(self, lab: Lab) -> None:
        lab.models.add("Nuclei:1", with_depth)
        result = lab.run(ImageFileConsumer, checkers((40, 60)), postprocess_function="retinanet-semantic")
        assert set(np.unique(result.files["cells_feature_0.tif"])) == {0, 1, 2}

    def test_there_are_no_cuts(self, lab: Lab) -> None:
        reason = lab.run(ImageFileConsumer, checkers((40, 60)), cuts="2", **self.FIELDS).reason
        assert reason == "The field 'cuts' is 2: allowed is 0 where boxes are predicted"

    def test_a_model_of_no_boxes_is_refused(self, lab: Lab) -> None:
        reason = lab.run(ImageFileConsumer, checkers((40, 60)), **self.FIELDS).reason
        assert reason.startswith(
            "The image cannot be processed: retinanet: outputs of shapes [(1, 40, 60, 1)]: expected"
        )

    def test_channels_are_checked_as_ever(self, lab: Lab) -> None:
        fields = {**self.FIELDS, "channels": "0,1"}
        reason = lab.run(ImageFileConsumer, checkers((40, 60, 2)), "a.npy", **fields).reason
        assert reason.startswith("The image has 2 channels, the model Nuclei:1 takes 1")
