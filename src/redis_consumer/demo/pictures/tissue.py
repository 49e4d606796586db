"""Tissue in two colours of light, with whole cells and nuclei outlined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from redis_consumer.demo.pictures.canvas import Colour, captioned, zoom_for
from redis_consumer.demo.pictures.outlines import PEAK, enlarged, outlines, stretched

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.demo.pictures.canvas import Picture

LIGHT: Final = ((0.30, 0.50, 1.0), (0.25, 0.75, 0.45))
"""Red, green and blue of each channel: nuclei and membranes."""
CELL: Final[Colour] = (255, 215, 64)
NUCLEUS: Final[Colour] = (255, 128, 255)


def both_outlined(
    image: npt.NDArray[np.floating | np.integer], cells: npt.NDArray[np.integer], nuclei: npt.NDArray[np.integer]
) -> Picture:
    """Return ``image`` (2, Y, X: nuclei, membranes), enlarged, with the outlines of two label images (Y, X)."""
    zoom = zoom_for(cells.shape, 1600)
    light = [np.multiply.outer(stretched(plane) / PEAK, colour) for plane, colour in zip(image, LIGHT, strict=True)]
    picture = enlarged(np.rint(200 * np.clip(sum(light), 0, 1)).astype(np.uint8), zoom)
    for labels, colour in ((nuclei, NUCLEUS), (cells, CELL)):
        picture[outlines(enlarged(labels, zoom), max(1, zoom - 1))] = colour
    key = [(CELL, f"{number(cells)} whole cells"), (NUCLEUS, f"{number(nuclei)} nuclei")]
    names = [(_bright(LIGHT[0]), "nuclear stain"), (_bright(LIGHT[1]), "membrane stain")]
    return captioned(picture, [*key, *names])


def number(labels: npt.NDArray[np.integer]) -> int:
    """Return the number of objects."""
    return int(np.count_nonzero(np.unique(labels)))


def _bright(light: tuple[float, float, float]) -> Colour:
    red, green, blue = (round(200 * part) for part in light)
    return red, green, blue
