"""Simulated tissue: nuclei, and cells around them with membranes that touch.  Two channels, both truths known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage as ndi
from skimage.segmentation import watershed

from redis_consumer.demo.simulation.microscope import Microscope, record
from redis_consumer.demo.simulation.nuclei import Cells, distractors, place, stain, texture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from redis_consumer.demo.simulation.microscope import FloatPlane
    from redis_consumer.demo.simulation.outline import LabelPlane


@dataclass(frozen=True)
class Tissue:
    """What lies around the nuclei.  Lengths in pixels, light in units of a typical nucleus' brightness."""

    reach: float = 8.0
    """Median distance from a nucleus' outline to its cell's, where no other cell is in the way."""
    reach_spread: float = 0.25
    """Standard deviation of its logarithm, from cell to cell."""
    ruggedness: float = 1.2
    """How far an outline wanders."""
    membrane: float = 1.0
    """Light of a membrane."""
    cytoplasm: float = 0.18
    """Light between nucleus and membrane."""
    brightness_spread: float = 0.25
    """Standard deviation of the logarithm of a cell's brightness."""


@dataclass(frozen=True)
class TissueField:
    """One simulated picture of tissue and its truth."""

    name: str
    image: NDArray[np.uint16]
    """``(2, Y, X)``: nuclei, then membranes."""
    nuclei: LabelPlane
    """``(Y, X)``: 0 background, 1 to n."""
    cells: LabelPlane
    """``(Y, X)``: cell k has nucleus k, all of it."""


def simulate_tissue(
    shape: tuple[int, int] = (512, 512),
    *,
    nuclei: Cells,
    tissue: Tissue,
    microscope: Microscope,
    seed: int,
    name: str = "tissue",
) -> TissueField:
    """Return one field of ``shape`` (rows, columns).

    Every cell is one piece and holds its nucleus; cells touch, but never overlap in the truth.
    """
    rng = np.random.default_rng(seed)
    labels, outlines = place(shape, nuclei, rng)
    cells = cells_around(labels, tissue, rng)
    nuclear = stain(labels, outlines, nuclei, rng) + distractors(shape, nuclei, rng)
    scenes = (nuclear, membranes(cells, tissue, rng))
    image = np.stack([record(scene, microscope, rng) for scene in scenes])
    return TissueField(name=name, image=image, nuclei=labels, cells=cells)


def cells_around(nuclei: LabelPlane, tissue: Tissue, rng: np.random.Generator) -> LabelPlane:
    """Return the cells ``(Y, X)`` of nuclei: as far as each reaches, and to the middle between two nuclei."""
    if not nuclei.any():
        return np.zeros_like(nuclei)
    distance, nearest = ndi.distance_transform_edt(nuclei == 0, return_indices=True)
    reach = tissue.reach * np.exp(rng.normal(0, tissue.reach_spread, int(nuclei.max()) + 1))
    wandering = tissue.ruggedness * texture(nuclei.shape, 6 * tissue.reach, rng)
    inside = (distance + wandering <= reach[nuclei[tuple(nearest)]]) | (nuclei > 0)
    return np.asarray(watershed(distance, nuclei, mask=inside), np.int32)


def membranes(cells: LabelPlane, tissue: Tissue, rng: np.random.Generator) -> FloatPlane:
    """Return the light of membranes, patchy, and of the cytoplasm within."""
    brightness = np.exp(rng.normal(0, tissue.brightness_spread, int(cells.max()) + 1)).astype(np.float32)
    brightness[0] = 0
    highest, lowest = ndi.maximum_filter(cells, size=3), ndi.minimum_filter(cells, size=3)
    patches = np.clip(1 + 0.25 * texture(cells.shape, 30, rng), 0.3, 2)
    rim = tissue.membrane * (highest != lowest) * patches
    return np.asarray(brightness[cells] * (rim + tissue.cytoplasm), np.float32)


def builtin_tissues() -> list[TissueField]:
    """Return the demonstration's pictures of tissue: always the same two."""
    return [
        simulate_tissue(
            nuclei=Cells(count=330, diameter=17, clustering=0.0, irregularity=0.05, defocused=3, debris=4, spots=-0.3),
            tissue=Tissue(reach=7),
            microscope=Microscope(blur=1.0, haze=0.06, unevenness=0.1),
            seed=21,
            name="epithelium",
        ),
        simulate_tissue(
            (768, 768),
            nuclei=Cells(count=260, diameter=20, clustering=0.35, irregularity=0.07, defocused=8, debris=8),
            tissue=Tissue(reach=10, reach_spread=0.35, ruggedness=2.0, membrane=0.8, cytoplasm=0.25),
            microscope=Microscope(blur=1.2, haze=0.1, photons=150, unevenness=0.2),
            seed=22,
            name="loose-tissue",
        ),
    ]
