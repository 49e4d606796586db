"""Tiny ONNX models, written on the spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from redis_consumer.testing.models import EXAM, EXAM_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FLOAT, INT64, HALF, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16, TensorProto.STRING


def save_exam(folder: Path, version: int, *, directory: str = "") -> Path:
    """Write the model of `redis_consumer.testing.models.exam_models`."""
    constants = [
        helper.make_tensor("two", FLOAT, [], [2.0]),
        helper.make_tensor("version", FLOAT, [], [float(version)]),
    ]
    nodes = [
        helper.make_node("Mul", ["image", "two"], ["doubled"]),
        helper.make_node("Add", ["image", "version"], ["bright"]),
    ]
    free = ["N", None, None, 1]
    return _save(
        folder / EXAM.name / (directory or str(version)),
        nodes,
        [helper.make_tensor_value_info("image", FLOAT, free)],
        [helper.make_tensor_value_info(name, FLOAT, free) for name in ("doubled", "bright")],
        constants,
    )


def save_exams(folder: Path) -> Path:
    for version in EXAM_VERSIONS:
        save_exam(folder, version)
    return folder


def save_identity(folder: Path, name: str, kind: int = FLOAT, shape: Sequence[int | str | None] = ("N", 2)) -> Path:
    """Write a model that gives its input `x` back as `y`."""
    return _save(
        folder / name / "1",
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )


def save_sum(folder: Path, name: str) -> Path:
    """Write a model that adds its inputs `a` and `b`, which need not have the same shape for the signature."""
    free = ["N", None]
    return _save(
        folder / name / "1",
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [helper.make_tensor_value_info(key, FLOAT, free) for key in ("a", "b")],
        [helper.make_tensor_value_info("y", FLOAT, free)],
    )


def save_nuclei(
    folder: Path,
    name: str,
    version: int,
    *,
    threshold: float = 0.3,
    size: int | None = None,
    heads: Sequence[str] = ("semantic_0", "semantic_1"),
) -> Path:
    """Write a stand-in for a nuclei model: each of `heads` is relu(mean of 9 x 9 pixels - `threshold`).

    It takes images of any size, or of `size` x `size` pixels only.
    """
    shape = ["N", size, size, 1]
    nodes = [
        helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["mean"], kernel_shape=[9, 9], pads=[4] * 4, count_include_pad=0),
        helper.make_node("Sub", ["mean", "threshold"], ["above"]),
        helper.make_node("Relu", ["above"], ["head"]),
    ]
    nodes += [helper.make_node("Transpose", ["head"], [head], perm=[0, 2, 3, 1]) for head in heads]
    return _save(
        folder / name / str(version),
        nodes,
        [helper.make_tensor_value_info("image", FLOAT, shape)],
        [helper.make_tensor_value_info(head, FLOAT, shape) for head in heads],
        [helper.make_tensor("threshold", FLOAT, [], [threshold])],
    )


def _save(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
) -> Path:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path
