"""Against the real TensorFlow: its decoder, its messages, and a SavedModel that it runs.

Needs the interpreter of an environment with ``tensorflow-cpu`` and ``tensorflow-serving-api`` (installed with
``--no-deps``) in REDIS_CONSUMER_TENSORFLOW_PYTHON; 1.5 GB, so it stays apart from ours.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.onnx_models import save_exams

from redis_consumer.job import ModelId
from redis_consumer.models.tf_serving import TensorFlowServing
from redis_consumer.serving.server import EmbeddedServer
from redis_consumer.testing.models import ModelServerExam
from redis_consumer.wire import serving_pb2 as pb
from redis_consumer.wire.framing import MalformedMessage
from redis_consumer.wire.tensors import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from redis_consumer.arrays import AnyArray
    from redis_consumer.models.base import ModelServer

PYTHON = os.environ.get("REDIS_CONSUMER_TENSORFLOW_PYTHON", "")
PEER = Path(__file__).with_name("tensorflow_peer.py")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="REDIS_CONSUMER_TENSORFLOW_PYTHON names no Python with TensorFlow"),
]
QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}

CASES: list[tuple[int, tuple[int, ...] | None, dict[str, Any]]] = [
    (pb.DT_FLOAT, (4,), {"float_val": [1, 2]}),
    (pb.DT_FLOAT, (4,), {"float_val": [3]}),
    (pb.DT_FLOAT, (2, 2), {}),
    (pb.DT_FLOAT, (2,), {"double_val": [9]}),
    (pb.DT_FLOAT, (2,), {"float_val": [1, 2, 3]}),
    (pb.DT_FLOAT, None, {"float_val": [4]}),
    (pb.DT_FLOAT, (0, 5), {"float_val": [1]}),
    (pb.DT_FLOAT, (3,), {"tensor_content": bytes(8)}),
    (pb.DT_FLOAT, (2,), {"tensor_content": bytes(8), "float_val": [5]}),
    (pb.DT_FLOAT, (-1,), {"float_val": [1]}),
    (pb.DT_FLOAT, (2**40, 2**40), {"float_val": [1]}),
    (pb.DT_FLOAT, (1,) * 255, {"float_val": [1]}),
    (pb.DT_DOUBLE, (2,), {"double_val": [1, 2]}),
    (pb.DT_UINT8, (3,), {"int_val": [256, -1, 7]}),
    (pb.DT_INT8, (2,), {"int_val": [128, -129]}),
    (pb.DT_INT16, (1,), {"int_val": [40000]}),
    (pb.DT_UINT16, (1,), {"int_val": [-1]}),
    (pb.DT_INT32, (1,), {"int_val": [-5]}),
    (pb.DT_INT64, (2,), {"int64_val": [-5, 2**40]}),
    (pb.DT_UINT32, (2,), {"uint32_val": [5]}),
    (pb.DT_UINT64, (1,), {"uint64_val": [2**63]}),
    (pb.DT_BOOL, (3,), {"bool_val": [True, False]}),
    (pb.DT_HALF, (2,), {"half_val": [0x3C00]}),
    (pb.DT_BFLOAT16, (2,), {"half_val": [0x3F80, 0x4049]}),
    (pb.DT_BFLOAT16, (2,), {"int_val": [0x3F80]}),
    (pb.DT_BFLOAT16, (2,), {"tensor_content": b"\x80\x3f\x49\x40"}),
    (pb.DT_COMPLEX64, (2,), {"scomplex_val": [1, 2, 3]}),
    (pb.DT_COMPLEX128, (2,), {"dcomplex_val": [1, 2, 3, 4]}),
    (pb.DT_QINT8, (2,), {"int_val": [-3, 4]}),
    (pb.DT_STRING, (3,), {"string_val": [b"a", b"bc"]}),
    (pb.DT_STRING, (2,), {}),
    (pb.DT_STRING, (2,), {"tensor_content": b"\x01\x02abc"}),
    (pb.DT_STRING, (2,), {"tensor_content": b"\x01\x02ab"}),
]


def serialized(data_type: int, shape: tuple[int, ...] | None, fields: dict[str, Any]) -> bytes:
    message = pb.TensorProto(dtype=data_type, **fields)  # type: ignore[arg-type] # enums are open
    if shape is not None:
        dims = [pb.TensorShapeProto.Dim(size=size) for size in shape]
        message.tensor_shape.CopyFrom(pb.TensorShapeProto(dim=dims))
    return message.SerializeToString()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYTHON, str(PEER), *arguments], env=QUIET, capture_output=True, text=True, timeout=100, check=False
    )


def decoded_by_tensorflow(folder: Path, tensors: Mapping[str, tuple[int, bytes]]) -> dict[str, AnyArray | None]:
    """Return what TensorFlow makes of these; None where it refuses."""
    for name, (data_type, data) in tensors.items():
        (folder / f"{name}.{data_type}.pb").write_bytes(data)
    done = run("decode", str(folder))
    assert done.returncode == 0, done.stderr
    return {
        name: np.load(folder / f"{name}.npy") if not (folder / f"{name}.error").exists() else None for name in tensors
    }


def test_we_decode_as_tensorflow_does(tmp_path: Path) -> None:
    tensors = {str(i): (case[0], serialized(*case)) for i, case in enumerate(CASES)}
    theirs = decoded_by_tensorflow(tmp_path, tensors)
    for name, (_, data) in tensors.items():
        try:
            ours: AnyArray | None = decode_tensor(data)
        except MalformedMessage:
            ours = None
        case = CASES[int(name)]
        expected = theirs[name]
        assert (ours is None) == (expected is None), case
        if ours is not None and expected is not None:
            assert ours.shape == expected.shape, case
            assert ours.tolist() == expected.tolist(), case


def test_tensorflow_reads_what_we_write(tmp_path: Path) -> None:
    dtypes = ["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16", "S3"]
    arrays = {dtype: np.arange(6).reshape(2, 3).astype(dtype) for dtype in dtypes}
    tensors = {}
    for dtype, array in arrays.items():
        for as_values in (False, True):
            data = b"".join(encode_tensor(array, as_values=as_values))
            tensors[f"{dtype.replace('?', 'bool')}-{as_values}"] = (pb.TensorProto.FromString(data).dtype, data)
    tensors["bfloat16"] = (pb.DT_BFLOAT16, b"".join(encode_tensor(arrays["f4"], pb.DT_BFLOAT16)))
    for name, found in decoded_by_tensorflow(tmp_path, tensors).items():
        assert found is not None, name
        expected = arrays.get(name.split("-")[0].replace("bool", "?"), arrays["f4"])
        assert found.tolist() == expected.tolist(), name


def test_tensorflows_messages_are_understood_by_our_server(tmp_path: Path) -> None:
    server = EmbeddedServer(save_exams(tmp_path))
    done = run("client", f"127.0.0.1:{server.start()}")
    server.stop()
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("saved")
    command = [PYTHON, str(PEER), "serve", str(folder)]
    with subprocess.Popen(command, env=QUIET, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@pytest.fixture
def server(address: str) -> Iterator[ModelServer]:
    client = TensorFlowServing(address, timeout_seconds=30)
    yield client
    client.close()


class TestSavedModel(ModelServerExam):
    """Our client sits the exam with a SavedModel that TensorFlow runs."""

    @pytest.fixture
    def server(self, server: ModelServer) -> ModelServer:
        return server


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "uint8", "int64", "bool", "complex64"])
def test_inputs_and_outputs_of_other_dtypes_pass(server: ModelServer, dtype: str) -> None:
    array = np.array([[0, 1], [1, 0]], np.float32)
    made = server.predict(ModelId("Same_" + dtype), {"x": array})["y"]
    assert made.dtype == np.dtype("float32" if dtype == "bfloat16" else dtype)
    np.testing.assert_array_equal(made, array.astype(made.dtype))
