"""TensorFlow Serving over gRPC: the model server of production.

Texts and codes are those of TensorFlow Serving 2.8 to 2.20.  Knows no tiles, no jobs and no patience: a call
either succeeds or fails at once.
"""

from __future__ import annotations

import copy
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import grpc

from redis_consumer.errors import (
    AccessDenied,
    BatchTooLarge,
    ConsumerError,
    InvalidModelInput,
    JobRejected,
    ModelNotFound,
    ModelNotLoaded,
    OutOfMemory,
    PredictionFailed,
    ServerBusy,
    ServerNotReady,
)
from redis_consumer.models.base import TensorSpec
from redis_consumer.models.channels import Channels
from redis_consumer.models.inputs import fit_inputs
from redis_consumer.models.stops import Lookout, check, never
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.framing import MAX_MESSAGE_BYTES, MalformedMessage
from redis_consumer.wire.tensors import UnsupportedType, decode_tensor, dtype_of, encode_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis_consumer.arrays import AnyArray
    from redis_consumer.job import ModelId
    from redis_consumer.models.stops import Stop

_QUESTION_SECONDS = 10.0
"""Time limit of the calls that carry no image."""
_TOO_LARGE = re.compile(r"Task size \d+ is larger than maximum (?:input )?batch size (\d+)")
# TensorFlow's allocator, also as one of several causes ("2 root error(s) found ..."), and XLA's.
_NO_MEMORY = re.compile(r"\b(?:OOM when allocating|[Oo]ut of memory|[Ff]ailed to allocate)\b")
_COMING = frozenset({pb.ModelVersionStatus.START, pb.ModelVersionStatus.LOADING})


@dataclass(frozen=True)
class Signature:
    """What a model takes: for people, and for the wire (where bfloat16 and float32 differ)."""

    inputs: tuple[TensorSpec, ...]
    data_types: Mapping[str, int]


class TensorFlowServing:
    """A `ModelServer` at ``host:port``.

    `credentials` (of ``grpc.ssl_channel_credentials``) switch TLS on.  A channel is renewed after
    `recycle_seconds`, and after a call that found the server absent, full or broken.  Signatures are asked for
    again after `describe_seconds`, as the latest version may change.  Where the address stands for several servers
    (a headless service) they take turns, and those that do not answer are left out.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout_seconds: float = 30.0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        recycle_seconds: float = 300.0,
        describe_seconds: float = 30.0,
    ) -> None:
        self.address = address
        self._timeout_seconds = timeout_seconds
        self._describe_seconds = describe_seconds
        self._stop: Stop = never
        self._lookout = Lookout()
        self._signatures: dict[ModelId, tuple[float, Signature]] = {}
        self._lock = threading.Lock()
        options = _options(max_message_bytes)

        def open_channel() -> grpc.Channel:
            if credentials is None:
                return grpc.insecure_channel(address, options)
            return grpc.secure_channel(address, credentials, options)

        self._channels = Channels(open_channel, recycle_seconds=recycle_seconds)

    def stopped_by(self, stop: Stop) -> Self:
        """Return a server that raises what `stop` returns: before a call, and instead of waiting for its end.

        It shares channels and signatures with this one: one for each lane, or for each job, costs nothing.
        """
        twin = copy.copy(self)
        twin._stop = stop  # noqa: SLF001 - our own twin
        return twin

    def describe(self, model: ModelId) -> tuple[TensorSpec, ...]:
        """Return the inputs of the signature ``serving_default``, sorted by name."""
        return self._signature(model).inputs

    def predict(self, model: ModelId, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Return every output, sorted by name.  The latest version answers where `model` names none."""
        signature = self._signature(model)
        fitting = fit_inputs(model, signature.inputs, inputs)
        head = pb.PredictRequest(model_spec=messages.model_spec(model.name, model.version))
        try:
            tensors = {name: encode_tensor(fitting[name], signature.data_types[name]) for name in fitting}
            request = messages.write(head, tensors)
        except (MalformedMessage, messages.MessageTooLarge) as error:
            raise InvalidModelInput(f"Model {model}: {error}") from error
        try:
            reply = self._ask(messages.PREDICT, request, model)
        except BatchTooLarge:
            raise
        except InvalidModelInput:
            self._forget(model)  # the model may have changed under its name
            raise
        return _outputs(model, reply)

    def states(self, model: ModelId) -> dict[int, pb.ModelVersionStatus]:
        """Return the state of each version the server knows of, or of the one that `model` names."""
        request = pb.GetModelStatusRequest(model_spec=messages.model_spec(model.name, model.version))
        reply = self._call(messages.GET_MODEL_STATUS, request.SerializeToString(), model)
        found = _parsed(model, pb.GetModelStatusResponse, reply)
        return {status.version: status for status in found.model_version_status}

    def ready(self, model: ModelId) -> bool:
        """Say whether the model can be asked now; whatever is wrong, False."""
        try:
            return any(s.state == pb.ModelVersionStatus.AVAILABLE for s in self.states(model).values())
        except ConsumerError:
            return False

    def close(self) -> None:
        """Close the channels; calls in flight fail."""
        self._channels.close()

    def _signature(self, model: ModelId) -> Signature:
        with self._lock:
            known = self._signatures.get(model)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        request = pb.GetModelMetadataRequest(
            model_spec=messages.model_spec(model.name, model.version), metadata_field=[messages.SIGNATURE_DEF]
        ).SerializeToString()
        reply = self._ask(messages.GET_MODEL_METADATA, request, model)
        signature = read_signature(model, reply)
        with self._lock:
            self._signatures[model] = (time.monotonic() + self._describe_seconds, signature)
        return signature

    def _forget(self, model: ModelId) -> None:
        with self._lock:
            self._signatures.pop(model, None)

    def _ask(self, method: str, request: bytes, model: ModelId) -> bytes:
        try:
            return self._call(method, request, model)
        except ModelNotFound as error:
            self._explain(model, error)
            raise

    def _explain(self, model: ModelId, error: ModelNotFound) -> None:
        """Raise ServerNotReady where the model is on its way, and the reason where its loading failed."""
        try:
            states = self.states(model).values()
        except (ModelNotFound, PredictionFailed):  # not every server that predicts can tell its states
            return
        if any(status.state in _COMING for status in states):
            raise ServerNotReady(f"Model {model} is still being loaded: {error}") from error
        failures = [s.status.error_message for s in states if s.status.error_code]
        if failures and all(s.state == pb.ModelVersionStatus.END for s in states):
            raise ModelNotLoaded(f"Model {model} could not be loaded: {_one_line(failures[0])}") from error

    def _call(self, method: str, request: bytes, model: ModelId) -> bytes:
        check(self._stop)
        seconds = self._timeout_seconds
        if method != messages.PREDICT:
            seconds = min(seconds, _QUESTION_SECONDS)
        with self._channels.borrow() as channel:
            try:
                replies = self._replies(channel, method, request, seconds)
            except grpc.RpcError as error:
                failure = translated(error, model, self.address)
                if not isinstance(failure, JobRejected):
                    self._channels.retire(channel)  # another pod may stand behind the next one
                raise failure from error
        if len(replies) != 1:
            raise PredictionFailed(f"Model {model}: {method} has {len(replies)} replies, expected is one")
        return replies[0]

    def _replies(self, channel: grpc.Channel, method: str, request: bytes, seconds: float) -> list[bytes]:
        # One reply looks on the wire like a stream of one.  gRPC waits for a stream in our own thread; for the future
        # of a single reply it starts another thread, at each call, and the two wake each other.  A call that is
        # cancelled keeps some 25 KB, which is seldom: its job was taken away.
        call = channel.unary_stream(method, None, None)(request, timeout=seconds)
        with self._lookout.over(call.cancel, self._stop):
            try:
                return list(call)
            except grpc.RpcError:
                check(self._stop)
                raise


def translated(error: grpc.RpcError, model: ModelId, address: str) -> ConsumerError:
    """Return our error for one of gRPC: by code first, then by how the text begins, which is kept."""
    code = error.code()
    details = _one_line(error.details() or "no reason given")
    text = f"Model server {address}, model {model}: {details} ({code.name})"
    if too_large := _TOO_LARGE.search(details):
        return BatchTooLarge(text, int(too_large[1]))
    return _kind(code, details)(text)


def _kind(code: grpc.StatusCode, details: str) -> type[ConsumerError]:
    if code is grpc.StatusCode.UNAVAILABLE:
        # The queue is full, splitting or not; everything else means that nobody is there.
        return ServerBusy if details.startswith("The batch scheduling queue") else ServerNotReady
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # gRPC's own limit, on either side: the same message will never fit.
        if "message larger than max" in details:
            return InvalidModelInput
        return OutOfMemory if _NO_MEMORY.search(details) else ServerBusy
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        # "Tensors with name ... from different tasks" can be the fault of a neighbour in the same batch.
        final = details.startswith(("Serving signature key", "Batched output"))
        return InvalidModelInput if final else PredictionFailed
    return _BY_CODE.get(code, PredictionFailed)


_BY_CODE: dict[grpc.StatusCode, type[ConsumerError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidModelInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidModelInput,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
}


def read_signature(model: ModelId, reply: bytes) -> Signature:
    """Return the inputs of ``serving_default`` from a GetModelMetadataResponse.

    Other signatures, the internal ``__saved_model_init_op`` among them, are passed over.
    """
    answer = _parsed(model, pb.GetModelMetadataResponse, reply)
    # Any.Unpack compares the full name of the message, which is not ours.
    found = _parsed(model, pb.SignatureDefMap, answer.metadata[messages.SIGNATURE_DEF].value).signature_def
    if messages.DEFAULT_SIGNATURE not in found:
        raise InvalidModelInput(
            f"Model {model} has the signatures {sorted(found)}, expected is {messages.DEFAULT_SIGNATURE!r}"
        )
    infos = sorted(found[messages.DEFAULT_SIGNATURE].inputs.items())
    try:
        specs = tuple(TensorSpec(name, dtype_of(info.dtype), _shape(info.tensor_shape)) for name, info in infos)
    except UnsupportedType as error:
        raise InvalidModelInput(f"Model {model}: {error}") from error
    return Signature(specs, {name: info.dtype for name, info in infos})


def _shape(shape: pb.TensorShapeProto) -> tuple[int | None, ...] | None:
    if shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in shape.dim)


def _outputs(model: ModelId, reply: bytes) -> dict[str, AnyArray]:
    try:
        _, tensors = messages.read(pb.PredictResponse, reply)
        return {name: decode_tensor(tensors[name]) for name in sorted(tensors)}
    except MalformedMessage as error:
        raise PredictionFailed(f"Model {model}: the reply cannot be read: {error}") from error


def _parsed(model: ModelId, kind: type[messages.AnyMessage], reply: bytes) -> messages.AnyMessage:
    try:
        return messages.parse(kind, reply)
    except MalformedMessage as error:
        raise PredictionFailed(f"Model {model}: the reply cannot be read: {error}") from error


def _options(max_message_bytes: int) -> list[tuple[str, int | str]]:
    return [
        # Streams are waited for in the thread that asks: see `_replies`, which works without it too.
        ("SingleThreadedUnaryStream", 1),
        # A name with several addresses is a headless service: all of them get calls.
        ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Without it a new channel to the same address shares the old connection, and so the old pod.
        ("grpc.use_local_subchannel_pool", 1),
        # It stands in our cluster or on our machine; http_proxy is for the web.
        ("grpc.enable_http_proxy", 0),
        # A server that is there again is found again within seconds, not minutes.
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # Only while a call is in flight, and rarely: servers close connections that ping more often.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())
