"""ONNX graphs from expressions: fixed filters on planes ``[N, C, H, W]``.  For the models that nobody trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

OPSET: Final = 17
IR_VERSION: Final = 8
COARSE: Final = 4
"""Pixels of the grid on which wide means are taken."""


class Graph:
    """Nodes and constants in the order of their making; a value is the name of a tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        """Return a constant."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def apply(self, operator: str, *values: str | float, **attributes: object) -> str:
        """Return the first output of an operator; numbers become constants."""
        inputs = [value if isinstance(value, str) else self.constant(value) for value in values]
        output = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def name(self, value: str, name: str) -> None:
        """Give a value the name of an output."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))

    def clip(self, value: str, low: float = 0.0, high: float = 1.0) -> str:
        """Return a value cut at both ends."""
        return self.apply("Clip", value, low, high)

    def ramp(self, value: str, low: float, high: float) -> str:
        """Return 0 up to ``low``, 1 from ``high`` on, and a slope between."""
        return self.clip(self.apply("Div", self.apply("Sub", value, low), high - low))

    def channel(self, image: str, number: int) -> str:
        """Return one channel of an image ``[N, H, W, C]`` as a plane ``[N, 1, H, W]``."""
        planes = self.apply("Transpose", image, perm=[0, 3, 1, 2])
        bounds = [self.constant([bound], np.int64) for bound in (number, number + 1, 1)]
        return self.apply("Slice", planes, *bounds)

    def image(self, *planes: str) -> str:
        """Return planes as the channels of an image ``[N, H, W, C]``."""
        together = self.apply("Concat", *planes, axis=1) if len(planes) > 1 else planes[0]
        return self.apply("Transpose", together, perm=[0, 2, 3, 1])

    def extended(self, plane: str, rows: int, columns: int) -> str:
        """Return a plane with its edge repeated on every side."""
        sides = self.constant([0, 0, rows, columns] * 2, np.int64)
        return self.apply("Pad", plane, sides, mode="edge")

    def filtered(self, plane: str, *kernels: NDArray[np.floating]) -> str:
        """Return a plane after one kernel ``(rows, columns)`` of odd sides after another."""
        for kernel in kernels:
            rows, columns = kernel.shape
            padded = self.extended(plane, rows // 2, columns // 2)
            # ONNX correlates; turned by 180 degrees it is a convolution.
            plane = self.apply("Conv", padded, self.constant(kernel[None, None, ::-1, ::-1]))
        return plane

    def smoothed(self, plane: str, sigma: float) -> str:
        """Return a plane blurred by a Gaussian."""
        bell = gaussian(sigma)
        return self.filtered(plane, bell[:, None], bell[None])

    def mean_around(self, plane: str, side: int) -> str:
        """Return the mean over squares of about ``side`` pixels, of which there are fewer at the edges.

        It is taken on a grid of every fourth pixel, and between them by interpolation: else nothing would take longer.
        """
        pool = {"kernel_shape": (COARSE, COARSE), "strides": (COARSE, COARSE), "pads": [0, 0, COARSE - 1, COARSE - 1]}
        coarse = self.apply("AveragePool", plane, **pool, count_include_pad=0)
        reach = side // COARSE // 2
        for kernel, pads in (((2 * reach + 1, 1), [reach, 0] * 2), ((1, 2 * reach + 1), [0, reach] * 2)):
            coarse = self.apply("AveragePool", coarse, kernel_shape=kernel, pads=pads, count_include_pad=0)
        return self.apply("Resize", coarse, "", "", self.apply("Shape", plane), mode="linear")

    def highest_around(self, plane: str, rows: int, columns: int) -> str:
        """Return the maximum over rectangles of odd sides."""
        pads = [rows // 2, columns // 2] * 2
        return self.apply("MaxPool", plane, kernel_shape=(rows, columns), pads=pads)

    def save(self, path: Path, channels: int, outputs: dict[str, int], version: int, about: str) -> None:
        """Write the model: images ``input_1`` of any size, and outputs by name with their numbers of channels."""
        graph = helper.make_graph(
            self.nodes,
            path.parent.parent.name,
            [_images("input_1", channels)],
            [_images(name, count) for name, count in outputs.items()],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name, model.producer_version, model.doc_string = "kiosk-redis-consumer", str(version), about
        onnx.checker.check_model(model, full_check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)


def _images(name: str, channels: int) -> onnx.ValueInfoProto:
    shape: Sequence[str | int] = ("N", "H", "W", channels)
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def gaussian(sigma: float, order: int = 0) -> NDArray[np.float64]:
    """Return a Gaussian of sum 1, or its first or second derivative, up to 4 sigma away."""
    reach = max(1, round(4 * sigma))
    places = np.arange(-reach, reach + 1)
    bell = np.exp(-0.5 * (places / sigma) ** 2)
    bell /= bell.sum()
    if order == 0:
        return bell
    if order == 1:
        return -places / sigma**2 * bell
    curved = (places**2 / sigma**4 - 1 / sigma**2) * bell
    return curved - curved.mean()  # nothing where the plane is even
