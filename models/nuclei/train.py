"""Train the network of the built-in nuclei model on samples written by ``samples.py``.

One thread, one seed, a cosine schedule over a given number of minutes; the averaged weights are saved every few
minutes, so that ``export.py`` can make a model at any time. A slower machine takes fewer steps in the same
minutes: give ``--steps`` to repeat a run step for step.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from network import NucleiNet
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray

CROP: Final = 256
_AVERAGING: Final = 0.995
_WARM_UP_STEPS: Final = 50
_SAVE_SECONDS: Final = 120.0


class Samples:
    """Random crops of the samples, flipped and turned by quarters."""

    def __init__(self, paths: list[Path], rng: np.random.Generator) -> None:
        arrays = [np.load(path) for path in paths]
        self._image = np.concatenate([a["image"] for a in arrays])
        self._maps = np.concatenate([a["maps"] for a in arrays])
        self._weight = np.concatenate([a["weight"] for a in arrays])
        self._rng = rng
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._image)

    def batch(self, size: int) -> Tensor:
        """Return ``[size, 5, CROP, CROP]``: image, three maps, weight; every sample once before any twice."""
        return torch.from_numpy(np.stack([self._one() for _ in range(size)]))

    def _one(self) -> NDArray[np.float32]:
        self._order = self._order or list(self._rng.permutation(len(self)))
        k = self._order.pop()
        y, x = self._rng.integers(0, self._image.shape[1] - CROP + 1, 2)
        window = (slice(y, y + CROP), slice(x, x + CROP))
        stack = np.concatenate(
            [
                self._image[k][None, *window].astype(np.float32),
                self._maps[k][:, *window] / np.float32(255),
                self._weight[k][None, *window].astype(np.float32),
            ]
        )
        if self._rng.random() < 0.5:
            stack = stack[:, :, ::-1]
        return np.ascontiguousarray(np.rot90(stack, int(self._rng.integers(4)), (1, 2)))


def loss_of(logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss: cross entropy of the three maps, and the overlap of each picture's foreground.

    Nuclei weigh more than background, and more so where they cover little of the picture: small nuclei would
    hardly count. The foreground's cross entropy weighs pixels between close nuclei more.
    """
    centre, foreground, depth, weight = target.unbind(1)
    cover = foreground.mean((1, 2), keepdim=True).clamp(min=0.03)
    inside = 1 + 0.4 * foreground / cover
    entropy = functional.binary_cross_entropy_with_logits
    predicted = torch.sigmoid(logits[:, 1])
    shared, total = (predicted * foreground).sum((1, 2)), (predicted + foreground).sum((1, 2))
    return (
        entropy(logits[:, 0], centre, inside)
        + entropy(logits[:, 1], foreground, weight * (1 + 0.1 * foreground / cover))
        + entropy(logits[:, 2], depth, inside)
        + 0.5 * (1 - (2 * shared + 1) / (total + 1)).mean()
    )


def average_into(mean: NucleiNet, network: NucleiNet, step: int) -> None:
    """Move the averaged weights towards the current ones; the first steps count less."""
    keep = min(_AVERAGING, (1 + step) / (10 + step))
    with torch.no_grad():
        for old, new in zip(mean.state_dict().values(), network.state_dict().values(), strict=True):
            if old.dtype.is_floating_point:
                old.lerp_(new, 1 - keep)
            else:
                old.copy_(new)


def train(arguments: argparse.Namespace) -> None:
    """Run the training and save the averaged weights."""
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    samples = Samples(arguments.samples, np.random.default_rng(arguments.seed))
    network = NucleiNet().to(memory_format=torch.channels_last)
    if arguments.start is not None:
        network.load_state_dict(torch.load(arguments.start, weights_only=True))
    mean = NucleiNet()
    mean.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), lr=arguments.rate, weight_decay=0.01)
    began = saved = time.monotonic()
    step, recent = 0, 0.0
    while (done := progress(step, time.monotonic() - began, arguments)) < 1:
        rate = arguments.rate * min(1, (step + 1) / _WARM_UP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * done))
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = samples.batch(arguments.batch).contiguous(memory_format=torch.channels_last)
        loss = loss_of(network(batch[:, :1]), batch[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average_into(mean, network, step)
        recent += (loss.item() - recent) / min(step + 1, 50)
        step += 1
        if step % 25 == 0:
            print(f"{time.monotonic() - began:7.0f} s  step {step:5d}  loss {recent:.4f}", flush=True)
        if time.monotonic() - saved > _SAVE_SECONDS:
            torch.save(mean.state_dict(), arguments.out)
            saved = time.monotonic()
    torch.save(mean.state_dict(), arguments.out)


def progress(step: int, seconds: float, arguments: argparse.Namespace) -> float:
    """Return how much of the run is done, 0 to 1, by steps if they were given, else by time."""
    if arguments.steps:
        return float(step / arguments.steps)
    return float(seconds / (60 * arguments.minutes))


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, nargs="+", required=True, help=".npz files of samples.py")
    parser.add_argument("--out", type=Path, required=True, help="weights to write (.pt)")
    parser.add_argument("--start", type=Path, help="weights to start from")
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--steps", type=int, default=0, help="instead of --minutes")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--rate", type=float, default=2.5e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
