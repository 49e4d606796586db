"""The jobs of other queues: one that does nothing, one that waits, and the image job written the obvious way.

The image job downloads and uploads with boto3, asks the model server with protobuf's own messages, and zips with
zipfile, as anybody would.  Its array functions are ours, so that queue and glue are compared.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from tell import tell

from redis_consumer import processing
from redis_consumer.wire import messages, serving_pb2 as pb

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

BUCKET, MODEL = "kiosk-bucket", "NuclearSegmentation"
NAP_VARIABLE, TF_VARIABLE = "NAP_SECONDS", "TF_ADDRESS"
MOST_BYTES = 2**30


def nothing() -> None:
    """Do nothing."""
    tell("began")


def nap() -> None:
    """Wait."""
    tell("began")
    time.sleep(float(os.environ[NAP_VARIABLE]))
    tell("ended")


def segment(key: str) -> str:
    """Find the nuclei of an image in the bucket, and return the key of the zip with their labels."""
    tell("began")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, labels, archive = (folder / name for name in ("image.tif", "labels.tif", "labels.zip"))
        bucket().download_file(BUCKET, key, str(image))
        pixels = tifffile.imread(image)[None, ..., None].astype(np.float32)
        maps = predict(processing.histogram_normalization(pixels))
        tifffile.imwrite(labels, processing.deep_watershed(maps)[0, ..., 0])
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
            made.write(labels, labels.name)
        result = f"output/{uuid.uuid4()}.zip"
        bucket().upload_file(str(archive), BUCKET, result)
    tell("ended")
    return result


def predict(image: Array) -> list[Array]:
    """Return what the model makes of one image, its outputs in the order of their names."""
    shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in image.shape])
    tensor = pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape, tensor_content=image.tobytes())
    request = pb.PredictRequest(model_spec=messages.model_spec(MODEL), inputs={"image": tensor})
    reply = stub()(request)
    return [as_array(reply.outputs[name]) for name in sorted(reply.outputs)]


def as_array(tensor: pb.TensorProto) -> Array:
    """Return a tensor as TensorFlow Serving sends it."""
    return np.array(tensor.float_val, np.float32).reshape([dim.size for dim in tensor.tensor_shape.dim])


@cache
def bucket() -> Any:
    """Return the client of the bucket; one for each process."""
    import boto3

    return boto3.client("s3")


@cache
def stub() -> Any:
    """Return what calls Predict; one for each process."""
    import grpc

    sizes = [(f"grpc.max_{way}_message_length", MOST_BYTES) for way in ("send", "receive")]
    channel = grpc.insecure_channel(os.environ[TF_VARIABLE], options=sizes)
    return channel.unary_unary(
        messages.PREDICT,
        request_serializer=pb.PredictRequest.SerializeToString,
        response_deserializer=pb.PredictResponse.FromString,
    )
