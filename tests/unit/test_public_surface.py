"""What people import by name.  A name that vanishes from here breaks somebody's consumer."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from redis_consumer import arrays, consumers, errors, job, utils
from redis_consumer.consumers import CONSUMERS, Children, Consumer, ImageConsumer, TensorFlowServingConsumer

if TYPE_CHECKING:
    from types import ModuleType


def public_names(module: ModuleType) -> set[str]:
    """Return the classes and functions that the module itself defines, without an underscore in front."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }


def test_consumers() -> None:
    assert set(consumers.__all__) == {
        "CONSUMERS",
        "CalibanConsumer",
        "ChildResult",
        "Children",
        "Consumer",
        "ImageConsumer",
        "ImageFileConsumer",
        "MesmerConsumer",
        "MultiplexConsumer",
        "PolarisConsumer",
        "Predict",
        "SegmentationConsumer",
        "SpotConsumer",
        "TensorFlowServingConsumer",
        "Tools",
        "TrackingConsumer",
        "ZipFileConsumer",
        "consumer",
    }
    assert all(hasattr(consumers, name) for name in consumers.__all__)


def test_consumer_types() -> None:
    images = {"image", "segmentation", "mesmer", "multiplex", "spot"}
    assert set(CONSUMERS) == images | {"caliban", "tracking", "polaris", "zip"}
    assert all(issubclass(consumer_type, Consumer) for consumer_type in CONSUMERS.values())


def test_arrays() -> None:
    assert {"Labels", "Track", "Tracks", "as_image"} <= public_names(arrays)
    assert {"AnyArray", "Image", "Result"} <= vars(arrays).keys()


def test_job() -> None:
    assert {"Job", "ModelId", "Status"} <= public_names(job)
    assert {"done", "failed"} == job.FINAL
    assert [str(status) for status in job.Status] == [
        "new",
        "started",
        "waiting",
        "pre-processing",
        "predicting",
        "post-processing",
        "saving-results",
        "done",
        "failed",
    ]


def test_errors() -> None:
    assert public_names(errors) == {
        "AccessDenied",
        "BatchTooLarge",
        "ConsumerError",
        "Failure",
        "InvalidModelInput",
        "JobRejected",
        "LeaseLost",
        "MissingExtra",
        "ModelNotFound",
        "ModelNotLoaded",
        "ObjectNotFound",
        "OutOfMemory",
        "PredictionFailed",
        "QueueUnavailable",
        "RetryJob",
        "ServerBusy",
        "ServerNotReady",
        "SettingsError",
        "StorageUnavailable",
        "failure_of",
        "is_machines",
        "kind_of",
        "reason_of",
        "without_secrets",
    }


def test_utils() -> None:
    assert public_names(utils) == {
        "get_image",
        "get_image_files_from_dir",
        "get_tempdir",
        "iter_image_archive",
        "load_track_file",
        "pad_image",
        "rescale",
        "reshape_matrix",
        "save_numpy_array",
        "strip_bucket_path",
        "zip_files",
    }


@pytest.mark.parametrize(
    ("owner", "name", "signature"),
    [
        (Consumer, "__init__", "redis_client, storage_client, queue, final_status, failed_status, name"),
        (Consumer, "_consume", "redis_hash"),
        (Consumer, "is_valid_hash", "redis_hash"),
        (Consumer, "update_key", "redis_hash, data"),
        (Consumer, "get_current_timestamp", ""),
        (Consumer, "handle", "job"),
        (Consumer, "equip", "tools"),
        (Consumer, "source_of", "queue"),
        (Consumer, "children", ""),
        (Children, "submit", "parts, fields"),
        (Children, "child", "queue, name, fields"),
        (Children, "upload", "path, subdir"),
        (Children, "results", ""),
        (Children, "fetch", "child, folder"),
        (Children, "clear_away", "children, seconds"),
        (TensorFlowServingConsumer, "grpc_image", "img, model_name, model_version"),
        (TensorFlowServingConsumer, "_get_predict_client", "model_name, model_version"),
        (TensorFlowServingConsumer, "get_model_metadata", "model_name, model_version"),
        (ImageConsumer, "analyze", "image, job"),
        (ImageConsumer, "predict", "image, model"),
    ],
)
def test_methods_keep_their_parameters(owner: type, name: str, signature: str) -> None:
    parameters = list(inspect.signature(getattr(owner, name)).parameters)
    assert ", ".join(name for name in parameters if name != "self") == signature


HEAVY = (
    "scipy.ndimage",
    "skimage.segmentation",
    "tifffile",
    "PIL",
    "imagecodecs",
    "numba",
    "onnxruntime",
    "rich",
    "tensorflow",
)


def test_importing_does_nothing_heavy() -> None:
    """The worker's start is counted in milliseconds, and consumers are imported by it."""
    script = f"""
import sys, redis_consumer.consumers, redis_consumer.utils, redis_consumer.bootstrap
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""
    command = [sys.executable, "-W", "error", "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == []
