"""A model server that says what a test tells it to say: real gRPC, no models."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
from google.protobuf.any_pb2 import Any

from redis_consumer.wire import messages, serving_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    Answer: TypeAlias = bytes | tuple[grpc.StatusCode, str]


class Script:
    """What is answered, by method; each request is kept."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, bytes]] = []
        self.peers: set[str] = set()
        self._made: dict[str, Callable[[bytes], Answer]] = {}
        self._held: dict[str, Callable[[], object]] = {}
        self._free = threading.Event()

    def say(self, method: str, *answers: Answer) -> None:
        """Answer one after the other; the last one for ever."""
        self.answers[method] = list(answers)

    def make(self, method: str, answer: Callable[[bytes], Answer]) -> None:
        """Answer with what this returns for the request."""
        self._made[method] = answer

    def hold(self, method: str, *, then: Callable[[], object]) -> None:
        """Keep calls of this method waiting, after having done something."""
        self._held[method] = then

    def let_go(self) -> None:
        """Answer the calls that wait, and all that come."""
        self._held.clear()
        self._free.set()

    def calls(self, method: str) -> int:
        return sum(1 for name, _ in self.requests if name == method)

    def answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.requests.append((method, request))
        self.peers.add(context.peer())
        if method in self._held:
            self._held[method]()
            self._free.wait(60)
        if method in self._made:
            answer = self._made[method](request)
        else:
            left = self.answers[method]
            answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, tuple):
            context.abort(*answer)
        return answer


@contextmanager
def scripted_server(
    script: Script, credentials: grpc.ServerCredentials | None = None, *, port: int = 0
) -> Iterator[str]:
    """Serve `script` on a port of the loopback, a free one by default; gives the address."""
    methods = [messages.PREDICT, messages.GET_MODEL_METADATA, messages.GET_MODEL_STATUS]
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, options=[("grpc.max_receive_message_length", 2**31 - 1)])
        for method in methods:
            _, service, verb = method.split("/")
            handler = grpc.unary_unary_rpc_method_handler(_behaviour(script, method))
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {verb: handler}),))
        if credentials is None:
            port = server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            script.let_go()
            server.stop(0).wait()


def _behaviour(script: Script, method: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    return lambda request, context: script.answer(method, request, context)


def metadata(
    signatures: dict[str, dict[str, tuple[int, tuple[int, ...] | None]]],
) -> bytes:
    """Return a GetModelMetadataResponse: DataType and shape by input by signature; None is an unknown rank."""
    found = pb.SignatureDefMap()
    for signature, inputs in signatures.items():
        infos = {name: _info(data_type, shape) for name, (data_type, shape) in inputs.items()}
        found.signature_def[signature].CopyFrom(pb.SignatureDef(inputs=infos))
    reply = pb.GetModelMetadataResponse()
    value = found.SerializeToString()
    reply.metadata[messages.SIGNATURE_DEF].CopyFrom(Any(type_url=messages.SIGNATURE_DEF_URL, value=value))
    return reply.SerializeToString()


def states(*versions: tuple[int, int, str]) -> bytes:
    """Return a GetModelStatusResponse of (version, state, error)."""
    statuses = [
        pb.ModelVersionStatus(
            version=version,
            state=state,  # type: ignore[arg-type] # enums are open
            status=pb.StatusProto(error_code=2 if error else 0, error_message=error),
        )
        for version, state, error in versions
    ]
    return pb.GetModelStatusResponse(model_version_status=statuses).SerializeToString()


def _info(data_type: int, shape: tuple[int, ...] | None) -> pb.TensorInfo:
    if shape is None:
        found = pb.TensorShapeProto(unknown_rank=True)
    else:
        found = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in shape])
    return pb.TensorInfo(name="serving_default_x:0", dtype=data_type, tensor_shape=found)  # type: ignore[arg-type] # enums are open
