"""TensorFlow Serving's answers: bytes in, bytes out, or a Refusal with its code and text.

The checks come in its order: model_spec, name, label, version, signature, number of inputs, each input, names,
output_filter, dtypes, batch.  Unlike it, shapes are checked against the signature.  Knows no gRPC server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.protobuf.any_pb2 import Any

from redis_consumer.serving.refusal import Refusal, invalid, not_found
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.framing import Buffer, MalformedMessage
from redis_consumer.wire.tensors import data_type_of, decode_tensor, encode_tensor, type_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from redis_consumer.arrays import AnyArray
    from redis_consumer.serving.gate import Gate
    from redis_consumer.serving.onnx import OnnxModel, Port
    from redis_consumer.serving.repository import Repository

_HEALTHY = frozenset({"", "ModelService", "PredictionService"})


class Service:
    """What the server is asked.  `max_batch_size` bounds the first axis of a request; None does not."""

    def __init__(self, repository: Repository[OnnxModel], gate: Gate, *, max_batch_size: int | None) -> None:
        self._repository = repository
        self._gate = gate
        self._max_batch_size = max_batch_size

    def predict(self, data: bytes) -> bytes:
        """Answer a PredictRequest; outputs come in typed fields, as stock TensorFlow Serving sends them."""
        try:
            request, tensors = messages.read(pb.PredictRequest, data)
        except MalformedMessage as error:
            raise _undecodable() from error
        version, model = self._find(request)
        signature = request.model_spec.signature_name or messages.DEFAULT_SIGNATURE
        if signature != messages.DEFAULT_SIGNATURE:
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{signature}" not found.')
        _check_count(model.inputs, tensors)
        with self._gate.enter():
            inputs = {name: _decoded(name, tensors[name]) for name in sorted(tensors)}
            _check_names(model.inputs, inputs)
            outputs = _chosen_outputs(model.outputs, request.output_filter)
            _check_types(model.inputs, inputs)
            self._check_batch(inputs)
            _check_shapes(model.inputs, inputs)
            made = model.run(inputs, outputs)
            spec = messages.model_spec(request.model_spec.name, version, signature)
            return messages.write(
                pb.PredictResponse(model_spec=spec),
                {name: encode_tensor(a, as_values=True) for name, a in zip(outputs, made, strict=True)},
            )

    def metadata(self, data: bytes) -> bytes:
        """Answer a GetModelMetadataRequest."""
        request = _request(pb.GetModelMetadataRequest, data)
        _check_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != messages.SIGNATURE_DEF:
                raise invalid(f"Metadata field {field} is not supported")
        version, model = self._find(request)
        reply = pb.GetModelMetadataResponse(model_spec=messages.model_spec(request.model_spec.name, version))
        value = _signatures(model).SerializeToString()
        reply.metadata[messages.SIGNATURE_DEF].CopyFrom(Any(type_url=messages.SIGNATURE_DEF_URL, value=value))
        return reply.SerializeToString()

    def status(self, data: bytes) -> bytes:
        """Answer a GetModelStatusRequest; a version label counts as no version."""
        request = _request(pb.GetModelStatusRequest, data)
        _check_spec(request)
        states = self._repository.states(request.model_spec.name, _version(request.model_spec))
        return pb.GetModelStatusResponse(model_version_status=states).SerializeToString()

    def health(self, data: bytes) -> bytes:
        """Answer a HealthCheckRequest: the server serves while it runs, whatever becomes of the models."""
        request = _request(pb.HealthCheckRequest, data)
        if request.service not in _HEALTHY:
            raise not_found("service name unknown")
        return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING).SerializeToString()

    def _find(self, request: pb.PredictRequest | pb.GetModelMetadataRequest) -> tuple[int, OnnxModel]:
        _check_spec(request)
        spec = request.model_spec
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        if spec.HasField("version_label"):  # nobody can attach one here
            raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        return self._repository.find(spec.name, _version(spec))

    def _check_batch(self, inputs: Mapping[str, AnyArray]) -> None:
        """Say what a batching session says; without a maximum there is none."""
        if self._max_batch_size is None:
            return
        if any(array.ndim == 0 for array in inputs.values()):
            raise invalid("Batching Run() input tensors must have at least one dimension")
        sizes = {array.shape[0] for array in inputs.values()}
        if len(sizes) > 1:
            raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
        if sizes and (size := sizes.pop()) > self._max_batch_size:
            raise invalid(f"Task size {size} is larger than maximum input batch size {self._max_batch_size}")


def _request(kind: type[messages.AnyMessage], data: bytes) -> messages.AnyMessage:
    try:
        return messages.parse(kind, data)
    except MalformedMessage as error:
        raise _undecodable() from error


def _undecodable() -> Refusal:
    return Refusal(grpc.StatusCode.INTERNAL, "Exception deserializing request!")


def _check_spec(request: pb.PredictRequest | pb.GetModelMetadataRequest | pb.GetModelStatusRequest) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")


def _version(spec: pb.ModelSpec) -> int | None:
    """Return the version asked for; 0 is one, absence is not."""
    return spec.version.value if spec.HasField("version") else None


def _check_count(wanted: Mapping[str, Port], sent: Mapping[str, Buffer]) -> None:
    if len(sent) != len(wanted):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} "
            f"len({_set(sent)}) != len({_set(wanted)}). Sent extra: {_set(sent.keys() - wanted.keys())}. "
            f"Missing but required: {_set(wanted.keys() - sent.keys())}."
        )


def _decoded(name: str, tensor: Buffer) -> AnyArray:
    try:
        return decode_tensor(tensor)
    except MalformedMessage as error:
        raise invalid(f"tensor parsing error: {name}") from error


def _check_names(wanted: Mapping[str, Port], sent: Mapping[str, AnyArray]) -> None:
    for name in sorted(wanted.keys() - sent.keys()):
        raise invalid(
            f"Signature input alias: {name}(feed name: {_feed_name(name)}) not found in request and no default "
            f"value provided. Inputs expected to be in the request {_set(sent)}, or default input alias set: "
        )


def _chosen_outputs(made: Mapping[str, Port], wanted: Iterable[str]) -> list[str]:
    """Return the names of `wanted`, all if there are none."""
    chosen: list[str] = []
    for name in wanted:
        if name not in made:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set {_set(made)}."
            )
        if name in chosen:
            raise invalid(f"duplicate output tensor alias: {name}")
        chosen.append(name)
    return chosen or sorted(made)


def _check_types(wanted: Mapping[str, Port], sent: Mapping[str, AnyArray]) -> None:
    for index, name in enumerate(sorted(sent)):
        given = data_type_of(sent[name].dtype)
        if given != wanted[name].data_type:
            raise invalid(
                f"Expects arg[{index}] to be {_short(wanted[name].data_type)} but {_short(given)} is provided"
            )


def _check_shapes(wanted: Mapping[str, Port], sent: Mapping[str, AnyArray]) -> None:
    for name, array in sent.items():
        if not wanted[name].takes(array.shape):
            raise invalid(f"input {name} has shape {list(array.shape)}, the signature says {list(wanted[name].shape)}")


def _signatures(model: OnnxModel) -> pb.SignatureDefMap:
    signature = pb.SignatureDef(
        inputs={name: _info(port, _feed_name(name)) for name, port in model.inputs.items()},
        outputs={
            name: _info(model.outputs[name], f"StatefulPartitionedCall:{index}")
            for index, name in enumerate(sorted(model.outputs))
        },
        method_name="tensorflow/serving/predict",
    )
    return pb.SignatureDefMap(signature_def={messages.DEFAULT_SIGNATURE: signature})


def _info(port: Port, name: str) -> pb.TensorInfo:
    dims = [pb.TensorShapeProto.Dim(size=size) for size in port.shape]
    shape = pb.TensorShapeProto(dim=dims)
    return pb.TensorInfo(name=name, dtype=port.data_type, tensor_shape=shape)  # type: ignore[arg-type] # enums are open


def _feed_name(name: str) -> str:
    return f"serving_default_{name}:0"


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _short(data_type: int) -> str:
    """Return the name of a type as TensorFlow's texts have it: DT_FLOAT is ``float``."""
    return type_name(data_type).removeprefix("DT_").lower()
