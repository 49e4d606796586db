"""Tiny ONNX models, written on the spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from redis_consumer.testing.models import EXAM, EXAM_VERSIONS
from redis_consumer.tracking import PAIR_INPUTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

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


def save_mesmer(folder: Path, name: str, version: int, *, size: int | None = 256, threshold: float = 0.3) -> Path:
    """Write a stand-in for the multiplex model: four heads, of whole cells by channel 1 and nuclei by channel 0.

    Distance is relu(mean of 9 x 9 pixels - `threshold`), the second of the three classes four times that, up to 1.
    """
    shape = ["N", size, size, 2]
    nodes = [
        helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["mean"], kernel_shape=[9, 9], pads=[4] * 4, count_include_pad=0),
        helper.make_node("Sub", ["mean", "threshold"], ["above"]),
        helper.make_node("Relu", ["above"], ["both_planes"]),
        helper.make_node("Transpose", ["both_planes"], ["both"], perm=[0, 2, 3, 1]),
        helper.make_node("Split", ["both"], ["semantic_2", "semantic_0"], axis=3),
    ]
    for distance, classes in (("semantic_0", "semantic_1"), ("semantic_2", "semantic_3")):
        parts = [f"{classes}_{part}" for part in ("steep", "inside", "outside", "edge")]
        nodes += [
            helper.make_node("Mul", [distance, "four"], [parts[0]]),
            helper.make_node("Min", [parts[0], "one"], [parts[1]]),
            helper.make_node("Sub", ["one", parts[1]], [parts[2]]),
            helper.make_node("Mul", [parts[1], "none"], [parts[3]]),
            helper.make_node("Concat", [parts[3], parts[1], parts[2]], [classes], axis=3),
        ]
    heads = {"semantic_0": 1, "semantic_1": 3, "semantic_2": 1, "semantic_3": 3}
    constants = {"threshold": threshold, "four": 4.0, "one": 1.0, "none": 0.0}
    return _save(
        folder / name / str(version),
        nodes,
        [helper.make_tensor_value_info("image", FLOAT, shape)],
        [helper.make_tensor_value_info(head, FLOAT, [*shape[:3], n]) for head, n in heads.items()],
        [helper.make_tensor(constant, FLOAT, [], [value]) for constant, value in constants.items()],
    )


SPOT_HEADS = ("classification", "offset_regression")
SPOT_OFFSET = (0.25, -0.125)
"""How far from its pixel each spot is that the stand-in for the spot model finds: rows, columns."""


def save_spots(folder: Path, name: str, version: int) -> Path:
    """Write a stand-in for the spot model: a pixel is as likely a spot as it is bright, from 0 to 1."""
    shape = ["N", None, None, 1]
    nodes = [
        helper.make_node("Sub", ["one", "image"], ["no_spot"]),
        helper.make_node("Concat", ["no_spot", "image"], ["classification"], axis=3),
        helper.make_node("Mul", ["classification", "none"], ["nothing"]),
        helper.make_node("Add", ["nothing", "offset"], ["offset_regression"]),
    ]
    return _save(
        folder / name / str(version),
        nodes,
        [helper.make_tensor_value_info("image", FLOAT, shape)],
        [helper.make_tensor_value_info(head, FLOAT, [*shape[:3], 2]) for head in SPOT_HEADS],
        [
            helper.make_tensor("one", FLOAT, [], [1.0]),
            helper.make_tensor("none", FLOAT, [], [0.0]),
            helper.make_tensor("offset", FLOAT, [2], SPOT_OFFSET),
        ],
    )


def save_constants(
    folder: Path,
    name: str,
    version: int,
    heads: Mapping[str, npt.NDArray[np.float32]],
    *,
    size: int | None = None,
) -> Path:
    """Write a model that answers every image with the same arrays, whatever it shows: one of each of `heads`."""
    nodes = [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0)]
    nodes.append(helper.make_node("Mul", ["mean", "none"], ["nothing"]))  # shape (N,)
    constants = [helper.make_tensor("none", FLOAT, [], [0.0])]
    for head, array in heads.items():
        shape = helper.make_tensor(f"{head}_shape", INT64, [array.ndim + 1], [-1, *[1] * array.ndim])
        values = helper.make_tensor(f"{head}_values", FLOAT, array.shape, array.ravel())
        constants += [shape, values]
        nodes += [
            helper.make_node("Reshape", ["nothing", f"{head}_shape"], [f"{head}_nothing"]),
            helper.make_node("Add", [f"{head}_nothing", f"{head}_values"], [head]),
        ]
    return _save(
        folder / name / str(version),
        nodes,
        [helper.make_tensor_value_info("image", FLOAT, ["N", size, size, 1])],
        [helper.make_tensor_value_info(head, FLOAT, ["N", *array.shape]) for head, array in heads.items()],
        constants,
    )


def save_tracking(folder: Path, encoder: str, comparer: str, version: int) -> None:
    """Write stand-ins for the two tracking models: cells are the same where their centroids are near.

    The encoder has several outputs, of which the second is the centroids; the other one compares the last of them:
    p(same) is exp(-distance / 20), p(parent and daughter) 0.
    """
    cells: list[str | int | None] = ["N", "C"]
    inputs = {
        "encoder_app_input": [*cells, None, None, None],
        "encoder_morph_input": [*cells, 3],
        "encoder_centroid_input": [*cells, 2],
        "encoder_adj_input": [*cells, "C"],
    }
    _save(
        folder / encoder / str(version),
        [
            helper.make_node("Identity", ["encoder_morph_input"], ["a_shape"]),
            helper.make_node("Identity", ["encoder_centroid_input"], ["embedding"]),
            helper.make_node("Identity", ["encoder_adj_input"], ["neighbours"]),
        ],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [
            helper.make_tensor_value_info("a_shape", FLOAT, [*cells, 3]),
            helper.make_tensor_value_info("embedding", FLOAT, [*cells, 2]),
            helper.make_tensor_value_info("neighbours", FLOAT, [*cells, "C"]),
        ],
    )
    _save(
        folder / comparer / str(version),
        [
            helper.make_node("Gather", ["current_embeddings", "last"], ["tracks"], axis=1),  # (N, 1, tracks, 2)
            helper.make_node("Unsqueeze", ["tracks", "three"], ["from"]),
            helper.make_node("Unsqueeze", ["future_embeddings", "two"], ["to"]),
            helper.make_node("Sub", ["from", "to"], ["away"]),
            helper.make_node("ReduceL2", ["away"], ["distance"], axes=[-1], keepdims=1),
            helper.make_node("Mul", ["distance", "steep"], ["less"]),
            helper.make_node("Exp", ["less"], ["same"]),
            helper.make_node("Sub", ["one", "same"], ["different"]),
            helper.make_node("Mul", ["same", "none"], ["related"]),
            helper.make_node("Concat", ["same", "different", "related"], ["classes"], axis=4),
        ],
        [
            helper.make_tensor_value_info(f"{when}_{what}", FLOAT, ["N", frames, when, 2])
            for when, frames in (("current", "L"), ("future", 1))
            for what in ("embeddings", "centroids")
        ],
        [helper.make_tensor_value_info("classes", FLOAT, ["N", 1, "current", "future", 3])],
        [
            helper.make_tensor("last", INT64, [1], [-1]),
            helper.make_tensor("two", INT64, [1], [2]),
            helper.make_tensor("three", INT64, [1], [3]),
            *(
                helper.make_tensor(name, FLOAT, [], [value])
                for name, value in {"steep": -0.05, "one": 1.0, "none": 0.0}.items()
            ),
        ],
    )


def save_pairs(folder: Path, name: str, version: int, inputs: Sequence[str] = PAIR_INPUTS) -> Path:
    """Write a stand-in for a pairwise tracking model: a near cell is the same, or a daughter if it is much smaller.

    Both are exp(-distance / 20), or 0.  `inputs` are other names, in the order of `PAIR_INPUTS`.
    """
    sizes: dict[str, list[int]] = {
        "appearance": [32, 32, 1],
        "distance": [2],
        "neighborhood": [61, 61, 1],
        "regionprop": [3],
    }
    shapes = [["N", frames, *size] for size in sizes.values() for frames in ("L", 1)]
    step, before, after = (
        inputs[PAIR_INPUTS.index(what)] for what in ("distance_input2", "regionprop_input1", "regionprop_input2")
    )
    return _save(
        folder / name / str(version),
        [
            helper.make_node("Gather", [step, "first"], ["away"], axis=1),  # (N, 2)
            helper.make_node("ReduceL2", ["away"], ["distance"], axes=[1], keepdims=1),
            helper.make_node("Mul", ["distance", "steep"], ["less"]),
            helper.make_node("Exp", ["less"], ["near"]),
            helper.make_node("Gather", [before, "last"], ["shape_before"], axis=1),  # (N, 3)
            helper.make_node("Gather", [after, "first"], ["shape_after"], axis=1),
            helper.make_node("Gather", ["shape_before", "area"], ["area_before"], axis=1),  # (N, 1)
            helper.make_node("Gather", ["shape_after", "area"], ["area_after"], axis=1),
            helper.make_node("Div", ["area_after", "area_before"], ["ratio"]),
            helper.make_node("Less", ["ratio", "most"], ["smaller"]),
            helper.make_node("Where", ["smaller", "none", "near"], ["same"]),
            helper.make_node("Where", ["smaller", "near", "none"], ["daughter"]),
            helper.make_node("Sub", ["one", "near"], ["different"]),
            helper.make_node("Concat", ["different", "same", "daughter"], ["prediction"], axis=1),
        ],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in zip(inputs, shapes, strict=True)],
        [helper.make_tensor_value_info("prediction", FLOAT, ["N", 3])],
        [
            helper.make_tensor("first", INT64, [], [0]),
            helper.make_tensor("last", INT64, [], [-1]),
            helper.make_tensor("area", INT64, [1], [0]),
            *(
                helper.make_tensor(constant, FLOAT, [], [value])
                for constant, value in {"steep": -0.05, "one": 1.0, "none": 0.0, "most": 0.7}.items()
            ),
        ],
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
