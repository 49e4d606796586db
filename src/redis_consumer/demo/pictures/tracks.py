"""Tracks: frames of a movie with tails behind the nuclei, and below them who descends from whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw

from redis_consumer.demo.pictures.canvas import GREY, MARGIN, PAPER, WHITE, Colour, captioned, font, zoom_for
from redis_consumer.demo.pictures.outlines import PALETTE, enlarged, outlines, stretched
from redis_consumer.demo.pictures.spots import around, middles

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from redis_consumer.demo.pictures.canvas import Picture

    Middles = list[dict[int, tuple[float, float]]]

SHOWN: Final = 6
"""Frames in the picture, the first and the last among them."""
COLUMNS: Final = 3
FRAME: Final = 640
"""Side that a frame is enlarged to at most, pixels."""
TAIL: Final = 10
"""Frames that a tail goes back."""
FRESH: Final = 6
"""Frames that a division stays marked."""
LARGEST: Final = 1024
"""Frames of a larger side are reduced by whole numbers, pixels."""
LANE, NARROWEST_LANE, HIGHEST_TREE = 10, 3, 900
"""Height of a track's line in the tree, and of the tree at most, pixels: beyond it, the first families are shown."""


def montage(
    movie: npt.NDArray[np.floating | np.integer], labels: npt.NDArray[np.integer], parents: Mapping[int, int]
) -> Picture:
    """Return frames of ``movie`` (T, Y, X) with outlines and tails, and the tree of all tracks over time.

    ``labels`` (T, Y, X) has one label for each track; ``parents`` has the parent of each track that has one.
    """
    step = -(-max(labels.shape[1:]) // LARGEST)
    movie, labels = movie[:, ::step, ::step], labels[:, ::step, ::step]
    centres = [middles(frame) for frame in labels]
    chosen = np.unique(np.linspace(0, len(movie) - 1, SHOWN).round().astype(int)).tolist()
    frames = [frame_picture(movie[number], labels[number], number, centres, parents) for number in chosen]
    shown = np.concatenate([stitched(frames), tree(centres, parents, stitched(frames).shape[1], chosen)])
    tracks = {label for frame in centres for label in frame}
    key = [(colour_of(1), f"{len(tracks)} tracks, each in its colour, with a tail of {TAIL} frames")]
    return captioned(shown, [*key, (WHITE, f"{len(set(parents.values()))} divisions")])


def frame_picture(
    image: npt.NDArray[np.floating | np.integer],
    labels: npt.NDArray[np.integer],
    number: int,
    centres: Middles,
    parents: Mapping[int, int],
) -> Picture:
    """Return one frame."""
    zoom = zoom_for(image.shape, FRAME)
    picture = np.repeat(enlarged(stretched(image), zoom)[..., None], 3, axis=-1)
    large = enlarged(labels, zoom)
    lines = outlines(large, 2)
    picture[lines] = PALETTE[(large[lines] - 1) % len(PALETTE)]
    sheet = Image.fromarray(picture)
    draw = ImageDraw.Draw(sheet)
    for label in centres[number]:
        draw.line(tail(label, number, centres, zoom), colour_of(label), 2)
    for daughter, parent in parents.items():
        mark_division(draw, daughter, parent, number, centres, zoom)
    draw.text((MARGIN, MARGIN), f"frame {number}", WHITE, font(), stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(sheet)


def tail(label: int, number: int, centres: Middles, zoom: int) -> list[tuple[float, float]]:
    """Return where a track has been in the last frames, x and y in the picture."""
    last = centres[max(0, number - TAIL) : number + 1]
    return [_place(frame[label], zoom) for frame in last if label in frame]


def mark_division(
    draw: ImageDraw.ImageDraw, daughter: int, parent: int, number: int, centres: Middles, zoom: int
) -> None:
    """Draw a white line from where the parent was last, with a ring there, to a daughter that is young."""
    born = next((frame for frame, found in enumerate(centres) if daughter in found), len(centres))
    if not born <= number < born + FRESH or daughter not in centres[number]:
        return
    before = next((found[parent] for found in reversed(centres[:born]) if parent in found), None)
    if before is None:
        return
    x, y = _place(before, zoom)
    draw.line([(x, y), _place(centres[number][daughter], zoom)], WHITE, 2)
    draw.ellipse(around(x, y, 5), outline=WHITE, width=2)


def stitched(frames: list[Picture]) -> Picture:
    """Return frames of one size in rows."""
    high, wide, _ = frames[0].shape
    columns = min(COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    sheet = np.full((rows * (high + MARGIN), columns * (wide + MARGIN) - MARGIN, 3), PAPER, np.uint8)
    for place, frame in enumerate(frames):
        y, x = place // columns * (high + MARGIN), place % columns * (wide + MARGIN)
        sheet[y : y + high, x : x + wide] = frame
    return sheet


def tree(centres: Middles, parents: Mapping[int, int], width: int, chosen: list[int]) -> Picture:
    """Return a line for each track from its first frame to its last, joined at divisions; time runs to the right."""
    spans = {label: [t for t, found in enumerate(centres) if label in found] for found in centres for label in found}
    order = families(sorted(spans), parents)[: HIGHEST_TREE // NARROWEST_LANE]
    lane = min(LANE, HIGHEST_TREE // max(len(order), 1))
    sheet = Image.new("RGB", (width, lane * (len(order) + 1) + 4 * MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    step = (width - 4 * MARGIN) / max(len(centres) - 1, 1)
    at = {label: ((place + 1) * lane + MARGIN) for place, label in enumerate(order)}
    for number in chosen:
        x = 2 * MARGIN + number * step
        draw.line([(x, 0), (x, sheet.height)], (60, 60, 66), 1)
        draw.text((x, sheet.height), f" frame {number} ", GREY, font(14), anchor="rb" if number else "lb")
    for label in order:
        x, end = (2 * MARGIN + frame * step for frame in (spans[label][0], spans[label][-1]))
        draw.line([(x, at[label]), (end + 3, at[label])], colour_of(label), max(2, lane // 3))
        if label in parents and parents[label] in at:
            draw.line([(x, at[label]), (x - step, at[parents[label]])], WHITE, 1)
    return np.asarray(sheet)


def families(labels: list[int], parents: Mapping[int, int]) -> list[int]:
    """Return the labels so that the daughters stand right below and above their parent."""
    daughters = {label: [one for one in labels if parents.get(one) == label] for label in labels}

    def together(label: int) -> list[int]:
        above, below = daughters[label][::2], daughters[label][1::2]
        return [*(x for one in above for x in together(one)), label, *(x for one in below for x in together(one))]

    return [label for root in labels if parents.get(root) not in daughters for label in together(root)]


def colour_of(label: int) -> Colour:
    """Return the colour of a track."""
    red, green, blue = PALETTE[(label - 1) % len(PALETTE)].tolist()
    return red, green, blue


def _place(centre: tuple[float, float], zoom: int) -> tuple[float, float]:
    return (centre[1] + 0.5) * zoom, (centre[0] + 0.5) * zoom
