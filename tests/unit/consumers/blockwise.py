"""Nuclei, models that find them, and blocks so small that there are many."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import scipy

from redis_consumer.consumers import large
from redis_consumer.processing import planes, stitching, views

if TYPE_CHECKING:
    import pytest
    from tests.unit.consumers.lab import Lab

    from redis_consumer.arrays import AnyArray

SHAPE = (310, 430)
PIECE = {"MAX_IMAGE_HEIGHT": "64", "MAX_IMAGE_WIDTH": "64"}
SMOOTH = 1.5


def with_small_blocks(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Return a lab of models that are known, in which images are segmented by small blocks."""
    monkeypatch.setattr(large, "stitch", partial(stitching.stitch, side=90, halo=100))
    monkeypatch.setattr(views, "blocks", lambda shape: planes.blocks(shape, 50))
    monkeypatch.setattr(large, "SAMPLE", 60)
    lab.models.add("Nuclei:1", heads, (None, 64, 64, 1))
    lab.models.add("Cytoplasm:1", heads, (None, None, None, 1))
    lab.models.add("Tissue:2", tissue_heads, (None, 64, 64, 2))
    lab.environ.update(NUCLEAR_MODEL="Nuclei:1", CYTOPLASM_MODEL="Cytoplasm:1", MESMER_MODEL="Tissue:2")
    return lab


def heads(image: AnyArray) -> dict[str, AnyArray]:
    """Return what a model of nuclei gives of a contrast that is known: distance and foreground."""
    bright = np.asarray(image, np.float32)
    inner = scipy.ndimage.gaussian_filter(bright, (0, SMOOTH, SMOOTH, 0), truncate=2)
    above = np.maximum(inner - 0.3, 0)  # no plateau: where all is equal, chance decides between two basins
    return {"semantic_0": inner, "semantic_1": above / (0.2 + above)}


def tissue_heads(image: AnyArray) -> dict[str, AnyArray]:
    nuclei, cells = (heads(np.asarray(image)[..., c : c + 1]) for c in (0, 1))
    classes = [np.concatenate([0 * one, one, 0 * one], -1) for one in (cells["semantic_1"], nuclei["semantic_1"])]
    return {
        "semantic_0": cells["semantic_0"],
        "semantic_1": classes[0],
        "semantic_2": nuclei["semantic_0"],
        "semantic_3": classes[1],
    }


def field(seed: int, shape: tuple[int, int] = SHAPE) -> AnyArray:
    """Return nuclei on a dim ground, uint16."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape)
    for y, x in zip(*(rng.integers(0, size, shape[0] * shape[1] // 260) for size in shape), strict=True):
        image[y, x] = rng.uniform(0.5, 1)
    image = scipy.ndimage.gaussian_filter(image, 4)
    return np.asarray(200 + 40000 * image / image.max() + rng.normal(0, 30, shape), np.uint16)
