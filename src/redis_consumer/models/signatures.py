"""What a model takes, as its server tells it and as consumers of a Kiosk keep it in Redis.  Knows neither of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from redis_consumer.errors import InvalidModelInput, PredictionFailed
from redis_consumer.models.base import TensorSpec
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.framing import MalformedMessage
from redis_consumer.wire.tensors import UnsupportedType, dtype_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis_consumer.job import ModelId


@dataclass(frozen=True)
class Signature:
    """The inputs of ``serving_default``: for people, and for the wire (where bfloat16 and float32 differ)."""

    inputs: tuple[TensorSpec, ...]
    data_types: Mapping[str, int]
    metadata: str = field(compare=False)
    """JSON of the map from name to TensorInfo, in protobuf's own form."""
    copied: bool = field(default=False, compare=False)
    """Whether somebody else wrote it down: the server may know better."""


def read_signature(model: ModelId, reply: bytes) -> Signature:
    """Return the inputs of ``serving_default`` from a GetModelMetadataResponse.

    Other signatures, the internal ``__saved_model_init_op`` among them, are passed over.
    """
    try:
        answer = messages.parse(pb.GetModelMetadataResponse, reply)
        # Any.Unpack compares the full name of the message, which is not ours.
        found = messages.parse(pb.SignatureDefMap, answer.metadata[messages.SIGNATURE_DEF].value).signature_def
    except MalformedMessage as error:
        raise PredictionFailed(f"Model {model}: the reply cannot be read: {error}") from error
    if messages.DEFAULT_SIGNATURE not in found:
        raise InvalidModelInput(
            f"Model {model} has the signatures {sorted(found)}, expected is {messages.DEFAULT_SIGNATURE!r}"
        )
    inputs = pb.SignatureDef(inputs=found[messages.DEFAULT_SIGNATURE].inputs)
    try:
        return _signature(inputs, json.dumps(MessageToDict(inputs).get("inputs", {})))
    except UnsupportedType as error:
        raise InvalidModelInput(f"Model {model}: {error}") from error


def read_copy(metadata: str) -> Signature | None:
    """Return what `Signature.metadata` says, or None where it makes no sense."""
    try:
        inputs = ParseDict({"inputs": json.loads(metadata)}, pb.SignatureDef(), ignore_unknown_fields=True)
        return _signature(inputs, metadata, copied=True) if inputs.inputs else None
    except (ParseError, UnsupportedType, ValueError, TypeError, ArithmeticError, RecursionError):
        return None


def _signature(found: pb.SignatureDef, metadata: str, *, copied: bool = False) -> Signature:
    infos = sorted(found.inputs.items())
    specs = tuple(TensorSpec(name, dtype_of(info.dtype), _shape(info.tensor_shape)) for name, info in infos)
    return Signature(specs, {name: info.dtype for name, info in infos}, metadata, copied)


def _shape(shape: pb.TensorShapeProto) -> tuple[int | None, ...] | None:
    if shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
