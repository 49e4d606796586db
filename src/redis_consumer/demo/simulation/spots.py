"""Simulated molecules: points of light inside cells, their coordinates and cells known.  Three channels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

from redis_consumer.demo.simulation.microscope import Microscope, record
from redis_consumer.demo.simulation.nuclei import Cells, place, stain
from redis_consumer.demo.simulation.outline import bell
from redis_consumer.demo.simulation.tissue import Tissue, cells_around, membranes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from redis_consumer.demo.simulation.microscope import FloatPlane
    from redis_consumer.demo.simulation.outline import LabelPlane

BORDER: Final = 3
"""No spot is nearer to the edge of the field, pixels: detectors leave it out."""


@dataclass(frozen=True)
class Spots:
    """What glows.  Light in units of a typical nucleus' brightness."""

    per_cell: float = 12.0
    """Mean number in a cell; some cells have none, some a multiple."""
    outside: int = 10
    """Number outside all cells."""
    spacing: float = 3.0
    """Least distance of two, pixels: nearer ones are one to the microscope."""
    brightness: float = 0.8
    """Median light at the peak."""
    brightness_spread: float = 0.25
    """Standard deviation of its logarithm."""
    sigma: float = 1.2
    """Standard deviation of the point spread function, pixels."""
    cytoplasm: float = 0.12
    """Light of the cells in this channel."""


@dataclass(frozen=True)
class SpotField:
    """One simulated picture of spots in cells, and its truth."""

    name: str
    image: NDArray[np.uint16]
    """``(3, Y, X)``: spots, nuclei, cytoplasm."""
    points: NDArray[np.float64]
    """``(N, 2)``: row and column, pixel centres at whole numbers."""
    cells: LabelPlane
    """``(Y, X)``: 0 background, 1 to n."""
    nuclei: LabelPlane
    """``(Y, X)``: nucleus k lies in cell k."""

    @property
    def cell_of_points(self) -> NDArray[np.int32]:
        """Return the cell of each point, 0 outside."""
        rows, columns = np.rint(self.points).astype(np.intp).T
        return np.asarray(self.cells[rows, columns])


def simulate_spots(
    shape: tuple[int, int] = (512, 512),
    *,
    nuclei: Cells,
    tissue: Tissue,
    spots: Spots,
    microscope: Microscope,
    seed: int,
    name: str = "spots",
) -> SpotField:
    """Return one field of ``shape`` (rows, columns).

    Every spot lies a pixel or more inside its cell, or outside all of them.
    """
    rng = np.random.default_rng(seed)
    labels, outlines = place(shape, nuclei, rng)
    cells = cells_around(labels, tissue, rng)
    points = scatter(cells, spots, rng)
    inside = ndi.gaussian_filter((cells > 0).astype(np.float32), 2)
    # The points are drawn as the microscope shows them, hence not blurred again.
    glow = record(light_of(points, shape, spots, rng) + spots.cytoplasm * inside, replace(microscope, blur=0.0), rng)
    others = (stain(labels, outlines, nuclei, rng), membranes(cells, tissue, rng))
    image = np.stack([glow, *(record(scene, microscope, rng) for scene in others)])
    return SpotField(name=name, image=image, points=points, cells=cells, nuclei=labels)


def scatter(cells: LabelPlane, spots: Spots, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return points ``(N, 2)`` in cells and beside them, by row."""
    sure = np.where(ndi.maximum_filter(cells, 3) == ndi.minimum_filter(cells, 3), cells, -1)
    frame = np.full(cells.shape, -1)
    frame[BORDER:-BORDER, BORDER:-BORDER] = sure[BORDER:-BORDER, BORDER:-BORDER]
    numbers = rng.poisson(rng.gamma(2.0, spots.per_cell / 2, int(cells.max()) + 1))
    numbers[0] = spots.outside
    chosen = [_some(np.argwhere(frame == cell), number, rng) for cell, number in enumerate(numbers.tolist())]
    pixels = np.concatenate(chosen)
    points = apart(pixels + rng.uniform(-0.5, 0.5, pixels.shape), spots.spacing)
    return points[np.lexsort(points.T[::-1])]


def _some(pixels: NDArray[np.intp], number: int, rng: np.random.Generator) -> NDArray[np.intp]:
    return rng.permutation(pixels)[:number]


def apart(points: NDArray[np.float64], spacing: float) -> NDArray[np.float64]:
    """Return the points without those that are nearer than ``spacing`` to an earlier one that stays."""
    keep = np.ones(len(points), bool)
    for one, other in sorted(cKDTree(points).query_pairs(spacing)) if len(points) else ():
        if keep[one]:
            keep[other] = False
    return points[keep]


def light_of(points: NDArray[np.float64], shape: tuple[int, int], spots: Spots, rng: np.random.Generator) -> FloatPlane:
    """Return the light of points, each a Gaussian."""
    light = np.zeros(shape, np.float32)
    peaks = spots.brightness * np.exp(rng.normal(0, spots.brightness_spread, len(points)))
    for (y, x), peak in zip(points.tolist(), peaks.tolist(), strict=True):
        window, glow = bell(shape, y, x, spots.sigma)
        light[window] += (peak * glow).astype(np.float32)
    return light


def builtin_spots() -> list[SpotField]:
    """Return the demonstration's pictures of spots: always the same two."""
    large = Cells(count=22, diameter=42, clustering=0.0, irregularity=0.05, defocused=0, debris=0, dividing=0)
    return [
        simulate_spots(
            nuclei=large,
            tissue=Tissue(reach=22, ruggedness=3, membrane=0.5, cytoplasm=0.4),
            spots=Spots(per_cell=22),
            microscope=Microscope(photons=300, unevenness=0.1),
            seed=31,
            name="transcripts",
        ),
        simulate_spots(
            nuclei=replace(large, count=40, diameter=34),
            tissue=Tissue(reach=16, ruggedness=3, membrane=0.5, cytoplasm=0.4),
            spots=Spots(per_cell=14, brightness=0.45, brightness_spread=0.35, cytoplasm=0.25),
            microscope=Microscope(photons=120, unevenness=0.25, background=0.12),
            seed=32,
            name="transcripts-dim",
        ),
    ]
