"""Listens: the embedded model server as an object, and as the command ``redis-consumer serve-models``."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import grpc

from redis_consumer.errors import SettingsError
from redis_consumer.serving.gate import Gate
from redis_consumer.serving.onnx import OnnxModel, import_runtime
from redis_consumer.serving.refusal import Refusal
from redis_consumer.serving.repository import Repository
from redis_consumer.serving.service import Service
from redis_consumer.wire import messages
from redis_consumer.wire.framing import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_QUEUED = 32
"""How many requests wait, each with its tensors in memory, before the next one is refused."""
_SPARE_THREADS = 8
"""For questions about models and health, which must be answered while predictions wait."""
_STOP_SECONDS = 5.0
_SIGNAL_SECONDS = 1.0
"""A signal that the system gives to another thread does not wake ours: a wait for it must end now and then."""
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # two servers on one port are a mistake, not a cluster
]


class EmbeddedServer:
    """The models of a folder behind TensorFlow Serving's gRPC API.

    `max_batch_size` bounds the first axis of a request (None: no bound), `max_in_flight` the predictions at a
    time, `threads` the cores that one prediction uses.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_batch_size: int | None = None,
        max_in_flight: int = 2,
        max_queued: int = MAX_QUEUED,
        threads: int = 2,
        poll_seconds: float = 1.0,
    ) -> None:
        _check(max_batch_size=max_batch_size, max_in_flight=max_in_flight, threads=threads)
        self._folder = folder
        self._poll_seconds = poll_seconds
        self._repository = Repository(folder, partial(OnnxModel, threads=threads))
        service = Service(self._repository, Gate(max_in_flight, max_queued), max_batch_size=max_batch_size)
        workers = max_in_flight + max_queued + _SPARE_THREADS
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="serve-models")
        self._server = grpc.server(self._executor, options=_OPTIONS)
        self._server.add_generic_rpc_handlers(tuple(_handlers(service)))

    def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Load the models, then listen; returns the port, a free one for 0.

        SettingsError where there is no such folder or the port is taken, MissingExtra without ONNX Runtime.
        """
        if not self._folder.is_dir():
            raise SettingsError(f"serve-models: {str(self._folder)!r} is not a folder")
        import_runtime()
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise SettingsError(f"serve-models: {host}:{port} cannot be listened on: {error}") from error
        self._repository.start(poll_seconds=self._poll_seconds)
        self._server.start()
        return bound

    def wait(self, timeout_seconds: float | None = None) -> None:
        """Return when the server has stopped, or when the time is over."""
        self._server.wait_for_termination(timeout_seconds)

    def stop(self, grace_seconds: float = _STOP_SECONDS) -> None:
        """Take no more calls; those in flight have `grace_seconds`.  Safe to repeat."""
        self._repository.stop()
        self._server.stop(grace_seconds).wait()
        self._executor.shutdown(wait=False, cancel_futures=True)


def serve_models(
    directory: Path,
    *,
    host: str,
    port: int,
    max_batch_size: int | None,
    max_in_flight: int,
    threads: int,
    announce: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT; says ``listening on HOST:PORT`` once it does.  For the main thread."""
    stopped = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    server = EmbeddedServer(directory, max_batch_size=max_batch_size, max_in_flight=max_in_flight, threads=threads)
    try:
        announce(f"listening on {host}:{server.start(host, port)}")
        while not stopped.wait(_SIGNAL_SECONDS):
            pass
    finally:
        server.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _check(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            option = name.replace("_", "-")
            raise SettingsError(f"serve-models: --{option} is {number}: allowed are whole numbers from 1")


def _handlers(service: Service) -> list[grpc.GenericRpcHandler[bytes, bytes]]:
    methods = {
        messages.PREDICT: service.predict,
        messages.GET_MODEL_METADATA: service.metadata,
        messages.GET_MODEL_STATUS: service.status,
        messages.HEALTH_CHECK: service.health,
    }
    handlers = []
    for path, method in methods.items():
        _, name, verb = path.split("/")
        handlers.append(grpc.method_handlers_generic_handler(name, {verb: _handler(method)}))
    return handlers


def _handler(method: Callable[[bytes], bytes]) -> grpc.RpcMethodHandler[bytes, bytes]:
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return method(request)
        except Refusal as refusal:
            context.abort(refusal.code, refusal.details)

    return grpc.unary_unary_rpc_method_handler(answer)
