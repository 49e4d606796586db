"""A model server that computes nothing: TensorFlow Serving's messages over gRPC, answered after a given time.

The maps are those of a nuclear model (inner distance and foreground) for some 80 nuclei in 512 x 512 pixels, drawn
once; the bytes of a reply are kept for each shape of a batch, so that a reply costs what gRPC costs.  They have nothing
to do with the image, but repeat every `PERIOD` pixels, which is how far the worker's tiles lie apart: neighbours agree
where they overlap, and the labels are nuclei without seams.

Batches are computed one after the other, `--milliseconds` each, as on a GPU: one that comes while another is computed
waits.  With 0 all are answered at once.

``python benchmarks/model_server.py`` listens on a free port of the loopback and says which.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING

import grpc
import numpy as np
import scipy
from google.protobuf.any_pb2 import Any

from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.framing import MAX_MESSAGE_BYTES, split
from redis_consumer.wire.tensors import encode_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

TILE = 512
PERIOD, GRID = 384, 7
"""Three quarters of a tile, and nuclei along it."""
NUCLEI_IN_512 = (GRID * TILE / PERIOD) ** 2
THREADS = 64
BATCHES = "/benchmark.ModelServer/Batches"
"""Returns how many batches were predicted so far, as text."""


def maps() -> npt.NDArray[np.float32]:
    """Return inner distance and foreground of one period, (2, PERIOD, PERIOD), as a model would: some nuclei touch."""
    rng = np.random.default_rng(0)
    made = np.zeros((2, PERIOD, PERIOD), np.float32)
    for place in np.argwhere(np.ones((GRID, GRID))):
        y, x = (place + 0.5) * PERIOD / GRID + rng.uniform(-14, 14, 2)
        radius = rng.uniform(10, 16)
        rows, columns = (np.arange(int(centre) - 20, int(centre) + 20) for centre in (y, x))
        distance = np.hypot(rows[:, None] - y, columns - x)
        stamp = np.where(distance < radius, [1 / (1 + 4 * distance / (1.77 * radius)), np.ones_like(distance)], 0)
        window = np.ix_(np.arange(2), rows % PERIOD, columns % PERIOD)
        made[window] = np.maximum(made[window], stamp)
    made += rng.normal(0, 0.005, made.shape)
    return np.clip(scipy.ndimage.gaussian_filter(made, (0, 1, 1), mode="wrap"), 0, 1)


class Model:
    """What is asked, and how long a batch takes."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._maps = maps()
        self._free_at = 0.0
        self._batches = 0
        self._lock = threading.Lock()
        self._reply = lru_cache(self._written)

    def predict(self, request: bytes) -> bytes:
        """Answer when the batch is computed."""
        _, tensors = messages.read(pb.PredictRequest, request)
        small, _ = split(tensors["image"], {pb.TensorProto.TENSOR_CONTENT_FIELD_NUMBER})
        count, height, width, _ = (dim.size for dim in pb.TensorProto.FromString(small).tensor_shape.dim)
        reply = self._reply(count, height, width)
        time.sleep(self._turn())
        return reply

    def metadata(self, _: bytes) -> bytes:
        """Describe a model of 512 x 512 tiles."""
        shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in (-1, TILE, TILE, 1)])
        names = ("semantic_0", "semantic_1")
        signature = pb.SignatureDef(
            inputs={"image": pb.TensorInfo(name="image", dtype=pb.DT_FLOAT, tensor_shape=shape)},
            outputs={name: pb.TensorInfo(name=name, dtype=pb.DT_FLOAT, tensor_shape=shape) for name in names},
            method_name="tensorflow/serving/predict",
        )
        known = pb.SignatureDefMap(signature_def={messages.DEFAULT_SIGNATURE: signature})
        reply = pb.GetModelMetadataResponse(model_spec=messages.model_spec("model", 1))
        told = Any(type_url=messages.SIGNATURE_DEF_URL, value=known.SerializeToString())
        reply.metadata[messages.SIGNATURE_DEF].CopyFrom(told)
        return reply.SerializeToString()

    def batches(self, _: bytes) -> bytes:
        """Return how many batches were predicted."""
        return str(self._batches).encode()

    def _turn(self) -> float:
        """Return how long a batch that comes now has to wait until it is computed.

        The next one begins when this one ends, not when its thread wakes up: a GPU does not wait for our processor.
        """
        with self._lock:
            self._batches += 1
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + self._seconds
            return self._free_at - now

    def _written(self, count: int, height: int, width: int) -> bytes:
        rows, columns = np.arange(height) % PERIOD, np.arange(width) % PERIOD
        heads = self._maps[:, rows[:, None], columns]
        tensors = {
            f"semantic_{i}": encode_tensor(np.stack([head] * count)[..., None], as_values=True)
            for i, head in enumerate(heads)
        }
        return messages.write(pb.PredictResponse(model_spec=messages.model_spec("model", 1)), tensors)


def handler(path: str, method: Callable[[bytes], bytes]) -> grpc.GenericRpcHandler[bytes, bytes]:
    """Return what answers one method, bytes for bytes."""
    _, service, verb = path.split("/")
    answer = grpc.unary_unary_rpc_method_handler(lambda request, _: method(request))
    return grpc.method_handlers_generic_handler(service, {verb: answer})


def main() -> None:
    """Serve until SIGTERM."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--milliseconds", type=float, default=0.0, help="time of one batch")
    model = Model(options.parse_args().milliseconds / 1000)
    methods = {
        messages.PREDICT: model.predict,
        messages.GET_MODEL_METADATA: model.metadata,
        BATCHES: model.batches,
    }
    limits = [(f"grpc.max_{way}_message_length", MAX_MESSAGE_BYTES) for way in ("receive", "send")]
    server = grpc.server(ThreadPoolExecutor(THREADS), options=limits)
    server.add_generic_rpc_handlers(tuple(handler(path, method) for path, method in methods.items()))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(0))
    print(f"listening on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
