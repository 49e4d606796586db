"""Predict requests and replies, whole: a head that protobuf handles, and tensors that it never touches.

Both sides use it: the client of a model server, and our own model server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.wrappers_pb2 import Int64Value

from redis_consumer.wire import serving_pb2 as pb
from redis_consumer.wire.framing import MAX_MESSAGE_BYTES, Buffer, MalformedMessage, frame, split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"

SIGNATURE_DEF = "signature_def"
"""The one metadata field there is."""
DEFAULT_SIGNATURE = "serving_default"
SIGNATURE_DEF_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"

_TENSORS = {
    pb.PredictRequest: pb.PredictRequest.INPUTS_FIELD_NUMBER,
    pb.PredictResponse: pb.PredictResponse.OUTPUTS_FIELD_NUMBER,
}
_KEY, _VALUE = 1, 2  # of every map entry

Predict = TypeVar("Predict", pb.PredictRequest, pb.PredictResponse)
AnyMessage = TypeVar("AnyMessage", bound=Message)


class MessageTooLarge(ValueError):
    """A message cannot have so many bytes."""


def model_spec(name: str, version: int | None = None, signature: str = "") -> pb.ModelSpec:
    """Return a ModelSpec; without a version it means the latest, while 0 is a version like any other."""
    chosen = None if version is None else Int64Value(value=version)
    return pb.ModelSpec(name=name, version=chosen, signature_name=signature)


def write(head: pb.PredictRequest | pb.PredictResponse, tensors: Mapping[str, Sequence[Buffer]]) -> bytes:
    """Serialize `head` with `tensors` (serialized TensorProtos as buffers) as its inputs or outputs.

    The tensors are copied once, into the result.  MessageTooLarge above 2 GiB.
    """
    number = _TENSORS[type(head)]
    pieces: list[Buffer] = [head.SerializeToString()]
    for name, tensor in tensors.items():
        pieces += frame(number, [*frame(_KEY, [name.encode()]), *frame(_VALUE, tensor)])
    size = sum(memoryview(piece).nbytes for piece in pieces)
    if size > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(f"message of {size} bytes: at most {MAX_MESSAGE_BYTES} can be sent")
    return b"".join(pieces)


def read(kind: type[Predict], data: Buffer) -> tuple[Predict, dict[str, Buffer]]:
    """Return the head of a message, without its tensors, and these by name as serialized TensorProtos.

    They are views of `data`.  MalformedMessage where it is no such message.
    """
    small, entries = split(data, {_TENSORS[kind]})
    return parse(kind, small), dict(_entry(entry) for _, entry in entries)


def parse(kind: type[AnyMessage], data: bytes) -> AnyMessage:
    """Return a message; MalformedMessage where `data` is none."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise MalformedMessage(f"not a {kind.__name__}: {error}") from error


def _entry(entry: Buffer) -> tuple[str, Buffer]:
    """Read an entry of a map; a missing key is the empty string, a repeated value merges."""
    _, fields = split(entry, {_KEY, _VALUE})
    keys = [view for number, view in fields if number == _KEY]
    values = [view for number, view in fields if number == _VALUE]
    try:
        key = str(keys[-1], "utf-8") if keys else ""
    except UnicodeDecodeError as error:
        raise MalformedMessage("a tensor's name is not UTF-8") from error
    return key, values[0] if len(values) == 1 else b"".join(values)
