"""Write the trained network as an ONNX model whose heads suit the Kiosk's nuclear post-processing.

``deep_watershed`` was made for other networks, and its defaults are fixed by name: markers are h-maxima
(h = 0.1, compared within 10 pixels, even across valleys) of ``semantic_0``; objects are flooded over
``semantic_1``, smoothed with sigma 1 and cut at 0.01. The graph therefore ends in a little arithmetic:

* ``semantic_0`` is steep and saturates: the middle of every nucleus is a plateau of exactly 1. Equal peaks
  survive however close they are, noise in the middle of a large nucleus makes no second one.
* ``semantic_1`` is 0.02 on a nucleus' rim, because a step from 0 to 0.02 has its 0.01 after smoothing exactly on
  the outline. Inside it rises with the cube of the depth, so that touching nuclei have a valley between them.

The graph takes any height and width: it pads by the last row and column to what the network needs, and crops.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
import torch
from network import MULTIPLE, NucleiNet
from torch import Tensor, nn
from torch.nn import functional

OPSET: Final = 17


@dataclass(frozen=True)
class Calibration:
    """The constants of the heads, chosen on the training part by ``calibrate.py``."""

    low: float = 0.22
    """Predicted closeness to the centre that gives 0."""
    high: float = 0.47
    """Predicted closeness to the centre that gives 1; the middle of most nuclei is predicted to be 0.6."""
    smooth: float = 1.0
    """Sigma of the smoothing of the closeness before that, in small nuclei, pixels."""
    smooth_large: float = 3.0
    """The same in large nuclei, where a plateau may otherwise fall in two."""
    coarse: float = 7.0
    """Sigma of a third smoothing, which only leaves the middle of large nuclei, pixels."""
    coarse_low: float = 0.28
    """Closeness after it that gives 0."""
    coarse_high: float = 0.38
    """Closeness after it that gives 1: small plateaus around become one with this one."""
    sure: float = 0.9
    """Probability, around a pixel, of being nuclear, below which there is no marker."""
    small: float = 0.15
    """Mean depth around a pixel at which ``smooth`` alone is used."""
    large: float = 0.6
    """Mean depth around a pixel at which ``smooth_large`` alone is used."""
    foreground: float = 0.55
    """Probability above which a pixel is nuclear."""
    steepness: float = 20.0
    """Slope of the foreground there, per unit of probability."""
    rim: float = 0.02
    """What ``semantic_1`` is on the rim of a nucleus."""
    power: float = 3.0
    """Power of the depth."""


def heads_of(logits: Tensor, c: Calibration) -> tuple[Tensor, Tensor]:
    """Return ``semantic_0`` and ``semantic_1`` ``[N, 1, H, W]`` of the network's logits ``[N, 3, H, W]``."""
    centre, foreground, depth = torch.sigmoid(logits).chunk(3, dim=1)
    inside = torch.clamp((foreground - c.foreground) * c.steepness + 0.5, 0, 1)
    size = torch.clamp((_mean_around(depth) - c.small) / (c.large - c.small), 0, 1)
    fine = (1 - size) * _smoothed(centre, c.smooth) + size * _smoothed(centre, c.smooth_large)
    fine = torch.clamp((fine - c.low) / (c.high - c.low), 0, 1)
    coarse = (_smoothed(centre, c.coarse) - c.coarse_low) / (c.coarse_high - c.coarse_low)
    sure = torch.clamp((_smoothed(foreground, 1.0) - c.sure) * c.steepness + 0.5, 0, 1)
    peaks = torch.maximum(fine, torch.clamp(coarse, 0, 1)) * sure * inside
    return peaks, inside * (c.rim + (1 - c.rim) * depth**c.power)


def _mean_around(plane: Tensor) -> Tensor:
    """Return the mean over a square of 25 pixels, which tells large nuclei from small ones."""
    rows = functional.avg_pool2d(plane, (1, 25), 1, (0, 12), count_include_pad=False)
    return functional.avg_pool2d(rows, (25, 1), 1, (12, 0), count_include_pad=False)


def _smoothed(plane: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(2.5 * sigma))
    bell = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)]
    weights = torch.tensor([w / sum(bell) for w in bell])
    padded = functional.pad(plane, (reach,) * 4, mode="replicate")
    across = functional.conv2d(padded, weights.reshape(1, 1, 1, -1))
    return functional.conv2d(across, weights.reshape(1, 1, -1, 1))


class Exported(nn.Module):
    """Images ``[N, H, W, 1]`` to both heads ``[N, H, W, 1]``, any H and W."""

    def __init__(self, network: NucleiNet, calibration: Calibration, *, views: int = 1) -> None:
        super().__init__()
        self.network = network
        self.calibration = calibration
        self.views = views

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``semantic_0`` and ``semantic_1``."""
        height, width = image.shape[1], image.shape[2]
        planes = _extended(_extended(image.permute(0, 3, 1, 2), 2), 3)
        logits = self.network(planes)
        if self.views > 1:  # the picture turned by 180 degrees is as good a picture
            logits = (logits + self.network(planes.flip(2, 3)).flip(2, 3)) / 2
        peaks, inside = heads_of(logits[:, :, :height, :width], self.calibration)
        return peaks.permute(0, 2, 3, 1), inside.permute(0, 2, 3, 1)


def _extended(planes: Tensor, axis: int) -> Tensor:
    """Return planes whose axis is a multiple of what the network needs, its end repeated."""
    size = planes.shape[axis]
    index = torch.arange((size + MULTIPLE - 1) // MULTIPLE * MULTIPLE)
    index = index - torch.clamp(index - size + 1, min=0)  # min(index, size - 1) in operations that are traced
    return planes.index_select(axis, index)


def load(weights: Path) -> NucleiNet:
    """Return the trained network, ready to predict."""
    network = NucleiNet()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval()


def export(weights: Path, out: Path, calibration: Calibration, *, views: int = 1) -> None:
    """Write the ONNX file, with one input ``input_1`` and outputs ``semantic_0``, ``semantic_1``."""
    axes = {name: {0: "N", 1: "H", 2: "W"} for name in ("input_1", "semantic_0", "semantic_1")}
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        Exported(load(weights), calibration, views=views).eval(),
        (torch.zeros(1, 256, 256, 1),),
        str(out),
        input_names=["input_1"],
        output_names=["semantic_0", "semantic_1"],
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,
    )
    model = onnx.load(out)
    for output in model.graph.output:  # the tracer does not know that there is one channel
        output.type.tensor_type.shape.dim[3].dim_value = 1
    model.producer_name, model.producer_version, model.doc_string = "kiosk-redis-consumer", "1", __doc__ or ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, out)


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="weights of train.py (.pt)")
    parser.add_argument("--out", type=Path, required=True, help="model.onnx to write")
    parser.add_argument("--views", type=int, choices=(1, 2), default=1, help="orientations averaged in the graph")
    arguments = parser.parse_args()
    export(arguments.weights, arguments.out, Calibration(), views=arguments.views)


if __name__ == "__main__":
    main()
