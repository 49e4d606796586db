"""One ONNX model, loaded: what it takes and gives, and how to run it.  Knows no gRPC server and no versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from redis_consumer.errors import MissingExtra
from redis_consumer.serving.refusal import Refusal, invalid
from redis_consumer.wire import serving_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from redis_consumer.arrays import AnyArray

_TYPES: dict[str, int] = {
    "tensor(float)": pb.DT_FLOAT,
    "tensor(double)": pb.DT_DOUBLE,
    "tensor(float16)": pb.DT_HALF,
    "tensor(int8)": pb.DT_INT8,
    "tensor(int16)": pb.DT_INT16,
    "tensor(int32)": pb.DT_INT32,
    "tensor(int64)": pb.DT_INT64,
    "tensor(uint8)": pb.DT_UINT8,
    "tensor(uint16)": pb.DT_UINT16,
    "tensor(uint32)": pb.DT_UINT32,
    "tensor(uint64)": pb.DT_UINT64,
    "tensor(bool)": pb.DT_BOOL,
    "tensor(string)": pb.DT_STRING,
}


@dataclass(frozen=True)
class Port:
    """An input or output of a model."""

    name: str
    data_type: int
    shape: tuple[int, ...]
    """Sizes; -1 for a free one."""

    def takes(self, shape: Sequence[int]) -> bool:
        """Say whether an array of this shape fits."""
        return len(shape) == len(self.shape) and all(
            free in {-1, size} for free, size in zip(self.shape, shape, strict=True)
        )


class OnnxModel:
    """A model file in ONNX Runtime.  Several threads may run it at a time."""

    def __init__(self, path: Path, *, threads: int) -> None:
        """Load the file; whatever ONNX Runtime raises about it comes through, MissingExtra where there is none."""
        runtime = import_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Idle threads sleep: the cores are shared with the worker that waits for us.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = {port.name: port for port in map(_port, self._session.get_inputs())}
        self.outputs = {port.name: port for port in map(_port, self._session.get_outputs())}

    def run(self, inputs: Mapping[str, AnyArray], outputs: Sequence[str]) -> list[AnyArray]:
        """Return the named outputs; Refusal where the model cannot make them of these inputs."""
        feeds = {name: _text(array) if array.dtype.kind == "O" else array for name, array in inputs.items()}
        try:
            made: list[AnyArray] = self._session.run(list(outputs), feeds)
        except Exception as error:
            raise _refusal(error) from error
        return made


def import_runtime() -> Any:
    """Return the module onnxruntime; MissingExtra where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("serve-models", "demo") from error
    return onnxruntime


def _port(node: Any) -> Port:
    if node.type not in _TYPES:
        raise ValueError(f"{node.name}: {node.type} cannot be served, only {sorted(_TYPES)}")
    return Port(node.name, _TYPES[node.type], tuple(d if isinstance(d, int) else -1 for d in node.shape))


def _refusal(error: Exception) -> Refusal:
    """Tell a model that cannot take its input, which is the common case, from one that ran out of memory."""
    text = " ".join(str(error).split())
    if "allocate memory" in text or isinstance(error, MemoryError):
        return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, f"OOM when allocating tensor: {text}")
    # Its exceptions are named for its codes and have no common base.
    if type(error).__name__ in {"InvalidArgument", "RuntimeException", "Fail"}:
        return invalid(text)
    return Refusal(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {text}")


def _text(array: AnyArray) -> AnyArray:
    """Turn strings of bytes into the text that ONNX Runtime takes."""
    decoded = [value.decode(errors="replace") for value in array.ravel().tolist()]
    return np.array(decoded, object).reshape(array.shape)
