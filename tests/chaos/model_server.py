"""A model server that gives back what it gets, at once, and fails on command: ``python -m tests.chaos.model_server``.

A process of its own that speaks TensorFlow Serving's API with its texts.  One line on the control port sets how it
behaves: ``ok``, ``cold`` (loading), ``full`` (its queue), ``exhausted`` (its threads), ``oom N`` (more than N
entries in one batch do not fit the memory).
"""

from __future__ import annotations

import socketserver
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
from tests.scripted_serving import metadata, states

from redis_consumer.serving.refusal import Refusal, not_found
from redis_consumer.testing.servers import HOST
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.tensors import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

NAME, VERSION = "Echo", 1
MODEL = f"{NAME}:{VERSION}"
THREADS = 32
FULL = (
    "The batch scheduling queue to which this task was submitted is full; "
    "currently 10 batches enqueued and max_enqueued_batches is 10"
)


class Echo:
    """The answers.  `mood` is the last line that the control port got."""

    def __init__(self) -> None:
        self.mood = ["ok"]

    def predict(self, request: bytes) -> bytes:
        """Return the input as the only output."""
        self._refuse()
        _, tensors = messages.read(pb.PredictRequest, request)
        array = decode_tensor(tensors["image"])
        if self.mood[0] == "oom" and len(array) > int(self.mood[1]):
            shape = ",".join(map(str, array.shape))
            raise Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"OOM when allocating tensor with shape[{shape}] and type float on "
                "/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc",
            )
        head = pb.PredictResponse(model_spec=messages.model_spec(NAME, VERSION, messages.DEFAULT_SIGNATURE))
        return messages.write(head, {"prediction": encode_tensor(array, as_values=True)})

    def metadata(self, _: bytes) -> bytes:
        """Return the signature: one image of free size."""
        self._refuse_when_cold()
        return metadata({messages.DEFAULT_SIGNATURE: {"image": (pb.DT_FLOAT, (-1, -1, -1, 1))}})

    def status(self, _: bytes) -> bytes:
        """Return the state of the one version."""
        state = pb.ModelVersionStatus.LOADING if self.mood[0] == "cold" else pb.ModelVersionStatus.AVAILABLE
        return states((VERSION, state, ""))

    def _refuse(self) -> None:
        self._refuse_when_cold()
        if self.mood[0] == "full":
            raise Refusal(grpc.StatusCode.UNAVAILABLE, FULL)
        if self.mood[0] == "exhausted":
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")

    def _refuse_when_cold(self) -> None:
        if self.mood[0] == "cold":
            raise not_found(f"Servable not found for request: Specific({NAME}, {VERSION})")


def main(port: int, control_port: int) -> None:
    """Serve until the end of the process."""
    echo = Echo()
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", 0)])
    for path, answer in (
        (messages.PREDICT, echo.predict),
        (messages.GET_MODEL_METADATA, echo.metadata),
        (messages.GET_MODEL_STATUS, echo.status),
    ):
        _, service, verb = path.split("/")
        handlers = {verb: grpc.unary_unary_rpc_method_handler(_behaviour(answer))}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"{HOST}:{port}")
    server.start()

    class Control(socketserver.StreamRequestHandler):
        """Takes lines, and says when each holds."""

        def handle(self) -> None:
            for line in self.rfile:
                echo.mood = line.decode().split()
                self.wfile.write(line)

    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer((HOST, control_port), Control) as control:
        control.serve_forever()


def _behaviour(answer: Callable[[bytes], bytes]) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def behave(request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return answer(request)
        except Refusal as refusal:
            context.abort(refusal.code, refusal.details)

    return behave


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
