"""A contact sheet: small pictures with a line of text below each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw

from redis_consumer.demo.pictures.canvas import MARGIN, PAPER, TEXT, WHITE, font

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis_consumer.demo.pictures.canvas import Picture

SIDE: Final = 380
"""Of the square for each picture, pixels."""
MOST_COLUMNS: Final = 4


def contact_sheet(pictures: Sequence[tuple[str, Picture]]) -> Picture:
    """Return the pictures in rows, reduced or enlarged to fit, each above its text; long text is cut at the left."""
    columns = max(1, min(MOST_COLUMNS, math.ceil(math.sqrt(len(pictures)))))
    rows = max(1, math.ceil(len(pictures) / columns))
    across, down = SIDE + MARGIN, SIDE + TEXT + 2 * MARGIN
    sheet = Image.new("RGB", (columns * across + MARGIN, rows * down + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, (words, picture) in enumerate(pictures):
        x, y = MARGIN + place % columns * across, MARGIN + place // columns * down
        small = fitted(picture)
        sheet.paste(small, (x + (SIDE - small.width) // 2, y + (SIDE - small.height) // 2))
        draw.text((x, y + SIDE + 2), shortened(words), WHITE, font())
    return np.asarray(sheet)


def fitted(picture: Picture) -> Image.Image:
    """Return a picture whose longer side is that of the square."""
    image = Image.fromarray(picture)
    factor = SIDE / max(image.size)
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def shortened(words: str) -> str:
    """Return text that fits below a picture."""
    if font().getlength(words) <= SIDE:
        return words
    while font().getlength(f"...{words}") > SIDE:
        words = words[1:]
    return f"...{words}"
