"""What OME-XML says beside the axes: names of channels, other files, and how many planes it promises.

tifffile makes a list entry for every plane that is declared: see `promised_planes` before it does.
https://docs.openmicroscopy.org/ome-model/latest/ome-tiff/specification.html
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNTS = ("IFD", "PlaneCount", "NumPlanes", "FirstZ", "FirstC", "FirstT")
MOST_CHARACTERS = 100
"""Of a channel's name."""
SIZES = ("SizeX", "SizeY", "SizeZ", "SizeC", "SizeT")


def promised_planes(text: str, page_values: int) -> int:
    """Return the largest number of planes that any part of the OME-XML declares; 0 where it is no XML.

    `page_values` are the values of one page: sizes are planes in so far as they exceed it.
    """
    return max(_promises(_parsed(text), max(page_values, 1)), default=0)


def channel_names(text: str, image: int, images: int) -> tuple[str, ...]:
    """Return the names, or else the dyes, of the channels of an image, by its index among the `images` of the file.

    Empty where there are none, or the metadata describe images of other files too.
    """
    described = _parsed(text).findall("{*}Image")
    if len(described) != images:
        return ()
    channels = described[image].iterfind("{*}Pixels/{*}Channel")
    names = tuple(_shortened(channel.get("Name") or channel.get("Fluor") or "") for channel in channels)
    return names if any(names) else ()


def files(text: str) -> int:
    """Return how many files the planes are in."""
    return len({element.get("FileName") for element in _parsed(text).iterfind(".//{*}TiffData/{*}UUID")})


def _parsed(text: str) -> ET.Element:
    """Return the root; an empty one where it is no XML."""
    try:
        # expat refuses entities that grow, and there is no other danger in the parser.
        return ET.fromstring(text)  # noqa: S314 - see above
    except ET.ParseError:
        return ET.Element("none")


def _shortened(name: str) -> str:
    return " ".join(name[:MOST_CHARACTERS].split())


def _promises(root: ET.Element, page_values: int) -> Iterator[int]:
    for element in root.iter():
        given = element.attrib
        yield from (int(given[name]) for name in COUNTS if name in given)
        if "SizeX" in given:
            yield math.prod(int(given.get(name, 1)) for name in SIZES) // page_values
        if "Start" in given and "End" in given:  # a modulo axis: the number of its labels
            yield math.ceil((float(given["End"]) - float(given["Start"])) / float(given.get("Step", 1))) + 1
