"""Consumers written to the names that came after 2020 run unchanged: two as people have on branches of their own."""

from __future__ import annotations

from timeit import default_timer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.compat.test_custom_consumer import Hashes
from tests.unit.consumers.lab import Lab

from redis_consumer import processing, settings, utils
from redis_consumer.consumers import ImageFileConsumer, TensorFlowServingConsumer
from redis_consumer.worker import work_off

if TYPE_CHECKING:
    from pathlib import Path

    from redis_consumer.arrays import AnyArray


class MibiConsumer(TensorFlowServingConsumer):
    """One model, one scale, the result scaled back."""

    def _consume(self, redis_hash: str) -> str:
        start = default_timer()
        self._redis_hash = redis_hash
        hvals = self.redis.hgetall(redis_hash)
        self._redis_values = hvals
        if hvals.get("status") in self.finished_statuses:
            self.logger.warning("Found completed hash %s", redis_hash)
            return str(hvals.get("status"))
        self.update_key(redis_hash, {"status": "started", "identity_started": self.name})
        model_name, model_version = settings._strip(settings.MIBI_MODEL).split(":")
        with utils.get_tempdir() as tempdir:
            fname = self.storage.download(hvals.get("input_file_name"), tempdir)
            image: Any = utils.get_image(fname)
        self.update_key(redis_hash, {"status": "pre-processing", "download_time": default_timer() - start})
        image = np.expand_dims(image, axis=0)
        image = processing.phase_preprocess(image)
        scale = float(hvals.get("scale"))
        image = utils.rescale(image[0], scale, channel_axis=-1)
        self.update_key(redis_hash, {"status": "predicting"})
        image = self.predict(image, model_name, model_version)
        self.update_key(redis_hash, {"status": "post-processing"})
        image = self.postprocess(image, ["deep_watershed"])
        self.update_key(redis_hash, {"status": "saving-results"})
        save_name = hvals.get("original_name", fname)
        dest, output_url = self.save_output(image, redis_hash, save_name, scale)
        self.update_key(
            redis_hash,
            {
                "status": self.final_status,
                "output_url": output_url,
                "upload_time": default_timer() - start,
                "output_file_name": dest,
                "total_jobs": 1,
                "total_time": default_timer() - start,
                "finished_at": self.get_current_timestamp(),
            },
        )
        return self.final_status


class MultiplexedConsumer(TensorFlowServingConsumer):
    """Asks what the model takes, and has the image checked against it."""

    def _consume(self, redis_hash: str) -> str:
        hvals = self.redis.hgetall(redis_hash)
        model_name, model_version = str(settings.MIBI_MODEL).split(":")
        image: Any = self.download_image(hvals.get("input_file_name"))
        image = np.expand_dims(np.moveaxis(image[..., 0], 0, -1) if image.ndim == 4 else image, axis=0)
        dim_order = self.detect_dimension_order(image, model_name, model_version)
        self.update_key(redis_hash, {"dim_order": ",".join(dim_order)})
        (metadata,) = self.get_model_metadata(model_name, model_version)
        assert metadata["in_tensor_dtype"] == "DT_FLOAT"
        channels = [int(c) for c in hvals["channels"].split(",")] if hvals.get("channels") else None
        image = self.validate_model_input(image, model_name, model_version, channels=channels)
        image = self.preprocess(image, ["none"])
        outputs = self.predict(image, model_name, model_version, untile=True)
        labels = self.postprocess(outputs, ["none"])
        dest, output_url = self.save_output(labels, hvals.get("original_name"))
        self.update_key(redis_hash, {"status": "done", "output_url": output_url, "output_file_name": dest})
        return self.final_status


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("MIBI_MODEL", "/Mibi:1/")
    made = Lab(tmp_path)
    made.models.add("Mibi:1", lambda given: {"b_inside": given, "a_distance": given})
    made.models.add("Two:1", lambda given: given + 1, (None, None, None, 2))
    return made


def done(lab: Lab, consumer_type: type[TensorFlowServingConsumer], image: AnyArray, **fields: str) -> dict[str, str]:
    key = lab.put(image, "cells.tif")
    job = lab.claim(original_name="plate 1/my cells.tif", input_file_name=key, **fields)
    work_off(lab.queue, lab.equipped(consumer_type, Hashes(lab.broker)).handle, job)
    return lab.broker.jobs[job.key]


def dome() -> AnyArray:
    rows, columns = np.mgrid[:40, :60]
    distance = np.hypot(rows - 20, columns - 30)
    bright: AnyArray = (1000 * np.sqrt(np.clip(1 - (distance / 12) ** 2, 0, 1))).astype(np.uint16)
    return bright


@pytest.mark.parametrize("scale", ["1", "0.5", "2"])
def test_a_consumer_of_one_scale_runs_unchanged(lab: Lab, scale: str) -> None:
    fields = done(lab, MibiConsumer, dome(), scale=scale)
    assert fields["status"] == "done", fields
    ((name, labels),) = lab.files(fields).items()
    assert name == "plate 1/my cells_feature_0.tif"
    assert np.squeeze(labels).shape == (40, 60)
    assert set(np.unique(labels)) == {0, 1}
    assert lab.queue.words() == ["started", "pre-processing", "predicting", "post-processing", "saving-results", "done"]


@pytest.mark.parametrize(
    ("shape", "channels", "expected", "order"),
    [((3, 30, 40), "2,0", [2, 0], "YXC"), ((2, 30, 40), "", [0, 1], "YXC")],
)
def test_a_consumer_that_checks_its_input_runs_unchanged(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], channels: str, expected: list[int], order: str
) -> None:
    monkeypatch.setenv("MIBI_MODEL", "Two:1")
    image = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    fields = done(lab, MultiplexedConsumer, image, channels=channels)
    assert fields["status"] == "done", fields
    assert fields["dim_order"] == order
    files = lab.files(fields)
    assert list(files) == [f"plate 1/my cells_feature_{c}.tif" for c in range(2)]
    for array, channel in zip(files.values(), expected, strict=True):
        np.testing.assert_array_equal(np.squeeze(array), image[channel] + 1.0)


# What each of the names gives.


@pytest.fixture
def consumer(lab: Lab) -> TensorFlowServingConsumer:
    made = lab.equipped(MibiConsumer)
    assert isinstance(made, MibiConsumer)
    return made


TALL = np.arange(2 * 5 * 6, dtype=np.float32).reshape(2, 5, 6)


@pytest.mark.parametrize(
    ("image", "order", "moved"),
    [
        (TALL, "CYX", np.moveaxis(TALL, 0, -1)),
        (TALL[np.newaxis], "CYX", np.moveaxis(TALL, 0, -1)[np.newaxis]),
        (np.moveaxis(TALL, 0, 1), "CYX", np.moveaxis(TALL, 0, -1)),
        (np.moveaxis(TALL, 0, -1), "YXC", np.moveaxis(TALL, 0, -1)),
    ],
    ids=["channels first", "with a batch", "channels between", "channels last"],
)
def test_the_shortest_axis_is_that_of_the_channels(
    consumer: TensorFlowServingConsumer, image: AnyArray, order: str, moved: AnyArray
) -> None:
    assert consumer.detect_dimension_order(image, "Two", "1") == [order]
    found = consumer.validate_model_input(image, "Two", "1")
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, moved)


@pytest.mark.parametrize(
    ("image", "channels", "reason"),
    [
        (np.zeros((5, 6)), None, "expected are 4 axes, or 3 without a batch"),
        (np.zeros((5, 6, 3)), None, "The image has 3 channels, the model takes 2"),
        (np.zeros((5, 6, 2)), [0, 2], r"The channels are \[0, 2\]: allowed are 0 to 1"),
        (np.zeros((2049, 6, 2)), None, "2049 x 6 pixels: allowed are 2048 x 2048"),
        ([np.zeros((5, 6, 2))] * 2, None, "has 1 inputs, given are 2"),
    ],
    ids=["rank", "channels", "no such channel", "size", "inputs"],
)
def test_an_image_that_does_not_fit_the_model_is_a_value_error(
    consumer: TensorFlowServingConsumer, image: Any, channels: list[int] | None, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        consumer.validate_model_input(image, "Two", "1", channels)


def test_an_unknown_step_is_a_value_error(consumer: TensorFlowServingConsumer) -> None:
    with pytest.raises(ValueError, match="postprocess_function 'magic': allowed are"):
        consumer.postprocess(TALL, ["magic"])


def test_a_prediction_keeps_its_batch_axis(consumer: TensorFlowServingConsumer) -> None:
    image = np.ones((5, 6, 2), np.float32)
    for given in (image, image[np.newaxis]):
        for untile in (True, False):
            outputs = consumer.predict(given, "Two", "1", untile)
            assert isinstance(outputs, np.ndarray)
            np.testing.assert_array_equal(outputs, np.full((1, 5, 6, 2), 2))


@pytest.mark.parametrize("wanted", [(10, 12), (10, 12, 1), (1, 10, 12, 1), 0.5])
def test_a_result_is_stored_in_the_size_that_is_asked_for(
    lab: Lab, consumer: TensorFlowServingConsumer, wanted: Any
) -> None:
    labels = np.repeat(np.repeat([[[7], [9]]], 5, axis=0), 3, axis=1)
    upload = consumer.save_output(labels, "a:hash", "my cells.tif", wanted)
    ((name, saved),) = lab.files({"output_file_name": upload.key}).items()
    assert name == "my cells_feature_0.tif"
    assert saved.shape == (10, 12)
    assert set(np.unique(saved)) == {7, 9}


def test_a_subclass_of_the_image_consumer_has_the_steps_too(lab: Lab) -> None:
    made = lab.equipped(ImageFileConsumer)
    assert isinstance(made, ImageFileConsumer)
    assert made.preprocess(np.ones((5, 6, 1)), ["none"]).shape == (5, 6, 1)
