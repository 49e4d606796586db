"""The network of the built-in nuclei model: a small U-Net that works at half resolution.

Knows nothing of files, training or ONNX. The first layer folds every 2 x 2 pixels into four channels and the
last one unfolds them again, because on a CPU most of a U-Net's time goes into its full-resolution levels;
a thin full-resolution layer that sees the image again sharpens the outlines afterwards.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS: Final = (32, 48, 64, 80, 96)
"""Channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution."""

MULTIPLE: Final = 2 ** len(WIDTHS)
"""Height and width must be multiples of this, pixels."""


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class NucleiNet(nn.Module):
    """Images ``[N, 1, H, W]`` to logits ``[N, 3, H, W]``: centre, foreground, depth.

    * centre: 1 at a nucleus' centroid, falling to 0 at its equivalent radius;
    * foreground: inside any nucleus;
    * depth: distance to the nucleus' own outline, 1 at ``targets.DEPTH_PIXELS`` and more.

    H and W must be multiples of :data:`MULTIPLE`.
    """

    def __init__(self) -> None:
        super().__init__()
        before = (4, *WIDTHS[:-1])
        self.down = nn.ModuleList(nn.Sequential(_conv(i, o), _conv(o, o)) for i, o in zip(before, WIDTHS, strict=True))
        self.lateral = nn.ModuleList(nn.Conv2d(deep, shallow, 1) for shallow, deep in pairwise(WIDTHS))
        self.up = nn.ModuleList(nn.Sequential(_conv(w, w), _conv(w, w)) for w in WIDTHS[:-1])
        self.unfold = nn.Conv2d(WIDTHS[0], 4 * 8, 1)
        self.refine = nn.Sequential(_conv(8 + 1, 12), nn.Conv2d(12, 3, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of the three maps."""
        x = functional.pixel_unshuffle(image, 2)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in reversed(range(len(WIDTHS) - 1)):
            deeper = functional.interpolate(self.lateral[level](x), scale_factor=2.0, mode="nearest")
            x = self.up[level](deeper + skips[level])
        fine = functional.relu(functional.pixel_shuffle(self.unfold(x), 2))
        logits: Tensor = self.refine(torch.cat([fine, image], 1))
        return logits
