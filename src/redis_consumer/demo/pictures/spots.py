"""Spots circled over the image, or coloured by the cell that they lie in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw

from redis_consumer.demo.pictures.canvas import GREY, WHITE, Colour, captioned, font, zoom_for
from redis_consumer.demo.pictures.outlines import PALETTE, colours, enlarged, outlines, stretched

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.demo.pictures.canvas import Picture
    from redis_consumer.spots import Points

CIRCLE: Final[Colour] = (255, 158, 64)
RADIUS: Final = 3.5
"""Of a circle around a spot, pixels of the image."""
DOT: Final = 1.4
"""Of a dot on a spot, pixels of the image."""


def circled(image: npt.NDArray[np.floating | np.integer], points: Points) -> Picture:
    """Return ``image`` (Y, X), enlarged, with a circle around each of ``points`` (N, 2: row, column)."""
    zoom = zoom_for(image.shape)
    picture = Image.fromarray(in_grey(image, zoom))
    draw = ImageDraw.Draw(picture)
    for x, y in placed(points, zoom):
        draw.ellipse(around(x, y, RADIUS * zoom), outline=CIRCLE, width=max(1, zoom // 2))
    return captioned(np.asarray(picture), [(CIRCLE, f"{len(points)} spots")])


def counted(
    image: npt.NDArray[np.floating | np.integer],
    points: Points,
    cells: npt.NDArray[np.integer],
    cell_of_points: npt.NDArray[np.integer],
) -> Picture:
    """Return ``image`` (Y, X), enlarged, with cells outlined, each spot in its cell's colour, and their number in each.

    ``cells`` is a label image (Y, X); ``cell_of_points`` (N,) has the label of each spot's cell, 0 for none.
    """
    zoom = zoom_for(image.shape)
    picture = in_grey(image, zoom)
    large = enlarged(cells, zoom)
    palette = PALETTE[colours(cells)]
    lines = outlines(large, 2)
    picture[lines] = palette[large[lines]]
    sheet = Image.fromarray(picture)
    draw = ImageDraw.Draw(sheet)
    for (x, y), cell in zip(placed(points, zoom), cell_of_points.tolist(), strict=True):
        draw.ellipse(around(x, y, DOT * zoom), fill=tuple(palette[cell].tolist()) if cell else GREY)
    for cell, (row, column) in middles(cells).items():
        words = str(int(np.count_nonzero(cell_of_points == cell)))
        place = ((column + 0.5) * zoom, (row + 0.5) * zoom)
        draw.text(place, words, WHITE, font(22), anchor="mm", stroke_width=3, stroke_fill=(0, 0, 0))
    inside = int(np.count_nonzero(cell_of_points))
    key = [(WHITE, f"{inside} spots in {len(middles(cells))} cells, counted in each")]
    return captioned(np.asarray(sheet), [*key, (GREY, f"{len(points) - inside} outside")])


def in_grey(image: npt.NDArray[np.floating | np.integer], zoom: int) -> Picture:
    """Return an image (Y, X) as a picture, its contrast stretched."""
    return np.repeat(enlarged(stretched(image), zoom)[..., None], 3, axis=-1)


def placed(points: Points, zoom: int) -> list[tuple[float, float]]:
    """Return points as x and y in the picture; pixel centres are at whole numbers in points, not there."""
    return [(x, y) for y, x in ((points + 0.5) * zoom - 0.5).tolist()]


def around(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    """Return the box of a circle."""
    return (x - radius, y - radius, x + radius, y + radius)


def middles(labels: npt.NDArray[np.integer]) -> dict[int, tuple[float, float]]:
    """Return the mean row and column of each object."""
    flat = labels.ravel()
    area = np.bincount(flat)
    rows, columns = (np.bincount(flat, axis.ravel()) for axis in np.indices(labels.shape))
    return {
        label: (float(rows[label] / area[label]), float(columns[label] / area[label]))
        for label in np.flatnonzero(area).tolist()
        if label
    }
