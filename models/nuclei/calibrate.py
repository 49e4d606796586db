"""Choose the constants of the exported heads: one after the other, by scores on the *training* part.

The network runs once over some training images as they are, some enlarged ones and some simulated fields; each
candidate then only redoes the heads and ``deep_watershed`` with its defaults.
"""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import evaluate
import export
import numpy as np
import samples
import torch
from network import MULTIPLE, NucleiNet

from redis_consumer import processing
from redis_consumer.demo.simulation import nuclei

CANDIDATES: Final[dict[str, tuple[Any, ...]]] = {
    "peak": ((0.15, 0.4), (0.2, 0.45), (0.22, 0.47), (0.25, 0.5), (0.3, 0.55), (0.3, 0.7), (0.4, 0.6)),
    "foreground": (0.45, 0.5, 0.55, 0.6),
    "size": ((0.1, 0.6), (0.3, 0.8), (0.6, 0.9)),
    "smooth": (0.7, 1.0, 1.5),
    "smooth_large": (2.0, 3.0, 4.0),
    "coarse_peak": ((0.2, 0.3), (0.25, 0.35), (0.28, 0.38), (0.35, 0.45)),
    "coarse": (5.0, 7.0, 9.0),
    "sure": (0.7, 0.8, 0.85),
    "steepness": (8.0, 20.0),
    "rim": (0.015, 0.02, 0.025, 0.03),
    "power": (2.0, 3.0, 4.0),
}
"""Tried in this order; pairs of constants go together, see :data:`PAIRS`."""

PAIRS: Final = {
    "peak": ("low", "high"),
    "size": ("small", "large"),
    "coarse_peak": ("coarse_low", "coarse_high"),
}

Case = tuple[torch.Tensor, samples.Labels]


def cases(network: NucleiNet, data: Path, count: int, seed: int) -> list[Case]:
    """Return the network's logits of images of the training part and their truth."""
    rng = np.random.default_rng(seed)
    real = samples.read(data, "train")
    chosen = [real[k] for k in rng.permutation(len(real))[:count]]
    large = evaluate.enlarged([f for f in chosen if samples.typical_diameter(f[1]) > 20][: count // 5], 80)
    drawn = [nuclei.simulate((384, 384), rng=rng) for _ in range(count // 8)]
    # Without the constant ones, and without smooth noise: no constant helps there, and it would decide the sum.
    empty = [(image, np.zeros(image.shape, np.int32)) for image in evaluate.empty_fields(seed + 7)[2:8]]
    images = [*chosen, *large, *((f.image, f.labels) for f in drawn), *empty]
    return [(logits_of(network, image), labels) for image, labels in images]


def logits_of(network: NucleiNet, image: np.ndarray) -> torch.Tensor:
    """Return logits ``[1, 3, H, W]`` of an image of at most 1024 pixels a side, which the product does not tile."""
    normalised = processing.histogram_normalization(image[None, :, :, None].astype(np.float32))
    pad = [(0, 0), *((0, -n % MULTIPLE) for n in image.shape), (0, 0)]
    planes = torch.from_numpy(np.pad(normalised, pad, mode="edge")).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits: torch.Tensor = network(planes)
    return logits[:, :, : image.shape[0], : image.shape[1]]


def score(calibration: export.Calibration, chosen: list[Case]) -> evaluate.Scores:
    """Return the scores that the heads would have with these constants."""
    scores = evaluate.Scores()
    for logits, labels in chosen:
        heads = [head.permute(0, 2, 3, 1).numpy() for head in export.heads_of(logits, calibration)]
        scores.add(labels, processing.deep_watershed(heads)[0, :, :, 0])
    return scores


def changed(calibration: export.Calibration, name: str, value: Any) -> export.Calibration:
    """Return the constants with one candidate in place."""
    if name in PAIRS:
        return replace(calibration, **dict(zip(PAIRS[name], value, strict=True)))
    return replace(calibration, **{name: value})


def search(chosen: list[Case]) -> export.Calibration:
    """Return the best constants, printing every candidate's scores."""
    best = export.Calibration()
    highest = total(score(best, chosen))
    for name, values in CANDIDATES.items():
        for value in values:
            candidate = changed(best, name, value)
            if candidate == best:
                continue
            scores = score(candidate, chosen)
            print(f"{name:10s} {value!s:14s} {scores}", flush=True)
            if total(scores) > highest:
                best, highest = candidate, total(scores)
    return best


def total(scores: evaluate.Scores) -> float:
    """Return what is maximised."""
    return scores.f1 + 2 * scores.mean_ap


def main() -> None:
    """Search from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/, labels/, split.json")
    parser.add_argument("--count", type=int, default=60, help="training images to use")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = search(cases(export.load(arguments.weights), arguments.data, arguments.count, arguments.seed))
    for field in fields(found):
        print(f"{field.name} = {getattr(found, field.name)}")


if __name__ == "__main__":
    main()
