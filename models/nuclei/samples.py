"""Training samples: real images varied widely, simulated fields, and fields without any nucleus.

Every sample went through what the Kiosk does before the model: contrast equalisation of the *whole* image
(after all photometric changes, before any cropping), then reflection at the borders. Writes one ``.npz`` of
equally large crops, so that training only has to flip and crop.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Final

import numpy as np
import targets
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.exposure import equalize_adapthist
from skimage.io import imread
from skimage.measure import label as connected_components

SIZE: Final = 320
"""Height and width of a sample, pixels; training crops 256 of it."""

_MARGIN: Final = 64
_LARGEST: Final = 640  # a longer side is cropped before scaling, to keep equalisation cheap

Image = NDArray[np.float32]
Labels = NDArray[np.int32]


def normalise(image: NDArray[np.generic], kernel: int | None = None) -> Image:
    """Return what ``histogram_normalization`` gives the model; a constant image gives zeros."""
    plane = image.astype(np.float32)
    low, high = plane.min(), plane.max()
    if high <= low:
        return np.zeros_like(plane)
    scaled = (plane - low) / (high - low)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return equalize_adapthist(scaled, kernel_size=kernel, clip_limit=0.01).astype(np.float32)


def rescale(image: Image, labels: Labels, factors: tuple[float, float]) -> tuple[Image, Labels]:
    """Enlarge or shrink an image and its labels, per axis; shrinking blurs first."""
    sigma = [max(0.0, (1 / f - 1) / 2) for f in factors]
    blurred = ndi.gaussian_filter(image, sigma) if any(sigma) else image
    return (
        ndi.zoom(blurred, factors, order=1, grid_mode=True, mode="nearest"),
        ndi.zoom(labels, factors, order=0, grid_mode=True, mode="nearest"),
    )


def smooth_field(shape: tuple[int, ...], rng: np.random.Generator, cells: int = 4) -> Image:
    """Return a smooth random surface, mean about 0 and of about unit amplitude."""
    coarse = rng.normal(size=(cells, cells))
    field = ndi.zoom(coarse, [s / cells for s in shape], order=3, grid_mode=True, mode="reflect")
    return field[: shape[0], : shape[1]].astype(np.float32)


def vary_light(image: Image, labels: Labels, rng: np.random.Generator) -> Image:
    """Return the image as another microscope, stain or exposure might have recorded it."""
    low, high = np.percentile(image, (0.5, 99.9))
    plane = (image - low) / max(high - low, 1e-6)
    if rng.random() < 0.5:  # nuclei of different stain uptake
        gain = np.exp(rng.normal(0, rng.uniform(0.1, 0.5), labels.max() + 1))
        gain[0] = 1
        plane *= ndi.gaussian_filter(gain[labels].astype(np.float32), 1.0)
    if rng.random() < 0.5:
        plane = np.clip(plane, 0, None) ** np.exp(rng.normal(0, 0.35))
    if rng.random() < 0.3:
        plane = ndi.gaussian_filter(plane, rng.uniform(0.3, 1.8))
    if rng.random() < 0.3:  # out-of-focus light
        plane += rng.uniform(0.1, 0.6) * ndi.gaussian_filter(plane, rng.uniform(6, 25))
    if rng.random() < 0.35:  # uneven illumination
        plane *= np.exp(rng.uniform(0.05, 0.35) * smooth_field(plane.shape, rng))
    if rng.random() < 0.3:  # uneven background
        plane += rng.uniform(0.02, 0.16) * smooth_field(plane.shape, rng, int(rng.integers(3, 8)))
    if rng.random() < 0.5:
        plane = add_noise(plane, rng)
    if rng.random() < 0.3:  # dim recordings use few grey levels
        levels = rng.uniform(15, 120)
        plane = np.round(plane * levels) / levels
    if rng.random() < 0.2:  # saturation
        plane = np.minimum(plane, rng.uniform(0.5, 1.0))
    return plane.astype(np.float32)


def add_noise(plane: Image, rng: np.random.Generator) -> Image:
    """Return the plane with shot and read noise of a random strength."""
    shot, read = 10 ** rng.uniform(-2.5, -0.9), 10 ** rng.uniform(-3, -1.2)
    noise = rng.normal(size=plane.shape) * np.sqrt(shot**2 * np.clip(plane, 0, 2) + read**2)
    if rng.random() < 0.3:
        noise = ndi.gaussian_filter(noise, rng.uniform(0.4, 0.8)) * 1.5
    return (plane + noise).astype(np.float32)


def typical_diameter(labels: Labels) -> float:
    """Return the median equivalent diameter, pixels; 20 if there is no nucleus."""
    area = np.bincount(labels.ravel())[1:]
    return float(np.sqrt(np.median(area[area > 0]) * 4 / np.pi)) if area.any() else 20.0


def random_factors(labels: Labels, rng: np.random.Generator) -> tuple[float, float]:
    """Return a scale per axis: often near 1, sometimes 0.4 to 2.5, nuclei staying 6 to 110 pixels across."""
    diameter = typical_diameter(labels)
    wide = rng.random() < 0.35
    factor = np.exp(rng.uniform(np.log(0.4), np.log(2.5))) if wide else np.exp(rng.normal(0, 0.2))
    factor = float(np.clip(factor, 6.5 / diameter, max(110 / diameter, 0.4)))
    stretch = float(np.exp(rng.normal(0, 0.08)))
    return factor * stretch, factor / stretch


def reflected(labels: Labels, pad: list[tuple[int, int]]) -> Labels:
    """Return labels reflected at the borders: a nucleus and its mirror image are one only where they touch."""
    mirrored = np.pad(labels, pad, mode="reflect")
    return np.asarray(connected_components(mirrored, background=0, connectivity=1), dtype=np.int32)


def crops(image: Image, labels: Labels, rng: np.random.Generator, limit: int = 3) -> list[NDArray[np.float16]]:
    """Return up to ``limit`` samples ``(5, SIZE, SIZE)`` of a normalised image: image and the four targets."""
    pad = [(max(_MARGIN, -(-(SIZE - n) // 2)),) * 2 for n in image.shape]
    image = np.pad(image, pad, mode="reflect")
    labels = reflected(labels, pad)
    target = targets.of_labels(labels)
    stack = np.stack([image, target.centre, target.foreground, target.depth, target.weight])
    count = int(np.clip(image.size / SIZE**2 * 0.7, 1, limit))
    corners = [[int(rng.integers(0, n - SIZE + 1)) for n in image.shape] for _ in range(count)]
    return [stack[:, y : y + SIZE, x : x + SIZE].astype(np.float16) for y, x in corners]


def vary(image: Image, labels: Labels, rng: np.random.Generator) -> list[NDArray[np.float16]]:
    """Return samples of one random variation of a labelled image."""
    factors = random_factors(labels, rng)
    window = [min(n, int(_LARGEST / f)) for n, f in zip(image.shape, factors, strict=True)]
    y, x = (int(rng.integers(0, n - w + 1)) for n, w in zip(image.shape, window, strict=True))
    image, labels = (a[y : y + window[0], x : x + window[1]] for a in (image, labels))
    image, labels = rescale(image, labels, factors)
    kernel = int(rng.integers(24, 160)) if rng.random() < 0.35 else None
    return crops(normalise(vary_light(image, labels, rng), kernel), labels, rng)


def empty(rng: np.random.Generator) -> list[NDArray[np.float16]]:
    """Return samples of a field without nuclei: noise, uneven background, both or nothing at all."""
    shape = (int(rng.integers(200, 500)), int(rng.integers(200, 500)))
    plane = np.zeros(shape, np.float32)
    if rng.random() < 0.7:
        plane += rng.uniform(0.01, 0.3) * smooth_field(shape, rng, int(rng.integers(2, 12)))
    if rng.random() < 0.9:
        noise = rng.normal(size=shape)
        if rng.random() < 0.5:  # denoised, binned or enlarged pictures have smooth noise
            noise = ndi.gaussian_filter(noise, rng.uniform(0.4, 5))
            noise /= noise.std()
        plane += (rng.uniform(0.02, 0.2) * noise).astype(np.float32)
    if rng.random() < 0.3:
        plane = np.round(plane * rng.uniform(10, 60))
    return crops(normalise(plane), np.zeros(shape, np.int32), rng, limit=1)


def read(folder: Path, part: str) -> list[tuple[Image, Labels]]:
    """Return the images and labels of ``train`` or ``val`` of the folder's ``split.json``, by name."""
    names = sorted(k for k, v in json.loads((folder / "split.json").read_text()).items() if v == part)
    return [
        (
            imread(folder / "images" / f"{n}.png").astype(np.float32),
            imread(folder / "labels" / f"{n}.png").astype(np.int32),
        )
        for n in names
    ]


def main() -> None:
    """Write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/, labels/, split.json")
    parser.add_argument("--out", type=Path, required=True, help=".npz to write")
    parser.add_argument("--count", type=int, default=2000, help="how many samples")
    parser.add_argument("--simulated", type=float, default=0.12, help="fraction of simulated fields")
    parser.add_argument("--empty", type=float, default=0.03, help="fraction of fields without nuclei")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    fields = read(arguments.data, "train")
    samples: list[NDArray[np.float16]] = []
    order: list[int] = []
    while len(samples) < arguments.count:
        kind = rng.random()
        if kind < arguments.empty:
            samples += empty(rng)
        elif kind < arguments.empty + arguments.simulated:
            samples += simulated(rng)
        else:
            order = order or list(rng.permutation(len(fields)))
            samples += vary(*fields[order.pop()], rng)
    stacked = np.stack(samples[: arguments.count])
    np.savez(
        arguments.out,
        image=stacked[:, 0],
        maps=np.round(stacked[:, 1:4] * 255).astype(np.uint8),
        weight=stacked[:, 4].astype(np.uint8),
    )


def simulated(rng: np.random.Generator) -> list[NDArray[np.float16]]:
    """Return samples of one simulated field."""
    from redis_consumer.demo.simulation import nuclei

    shape = (int(rng.integers(256, 512)), int(rng.integers(256, 512)))
    field = nuclei.simulate(shape, rng=rng)
    return crops(normalise(field.image), field.labels, rng, limit=1)


if __name__ == "__main__":
    main()
