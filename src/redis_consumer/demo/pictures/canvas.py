"""What pictures share: colours, sizes, a line of text with its key of colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Picture = npt.NDArray[np.uint8]

Colour: TypeAlias = tuple[int, int, int]

WHITE: Final[Colour] = (255, 255, 255)
GREY: Final[Colour] = (150, 150, 150)
PAPER: Final[Colour] = (24, 24, 28)
"""Around images and below text."""
WIDEST: Final = 1280
"""Images are enlarged up to this side, pixels."""
LARGEST_ZOOM: Final = 4
TEXT: Final = 18
"""Height of text, pixels."""
MARGIN: Final = 8


def zoom_for(shape: tuple[int, ...], widest: int = WIDEST) -> int:
    """Return by which whole number an image is enlarged so that single pixels can be made out."""
    return int(np.clip(widest // max(shape), 1, LARGEST_ZOOM))


def font(size: int = TEXT) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of all pictures."""
    return ImageFont.load_default(size)


def captioned(picture: Picture, key: Sequence[tuple[Colour, str]]) -> Picture:
    """Return the picture above a line that says what each colour is; the line goes on below where it is too long."""
    sheet = Image.fromarray(picture)
    places, height = _places(key, sheet.width)
    paper = Image.new("RGB", (sheet.width, sheet.height + height), PAPER)
    paper.paste(sheet, (0, 0))
    draw = ImageDraw.Draw(paper)
    for (x, y), (colour, words) in zip(places, key, strict=True):
        top = sheet.height + y
        draw.rectangle((x, top + 3, x + TEXT - 6, top + TEXT - 3), fill=colour)
        draw.text((x + TEXT, top - 2), words, fill=WHITE, font=font())
    return np.asarray(paper)


def _places(key: Sequence[tuple[Colour, str]], width: int) -> tuple[list[tuple[int, int]], int]:
    """Return where each entry goes below the picture, and how much room all take."""
    x, y, places = MARGIN, MARGIN, []
    for _, words in key:
        length = TEXT + int(font().getlength(words)) + 2 * MARGIN
        if x > MARGIN and x + length > width:
            x, y = MARGIN, y + TEXT + MARGIN
        places.append((x, y))
        x += length
    return places, y + TEXT + MARGIN
