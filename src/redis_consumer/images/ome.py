"""What OME-XML may promise before somebody believes it: tifffile makes a list entry for every plane that is declared.

https://docs.openmicroscopy.org/ome-model/latest/ome-tiff/specification.html
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNTS = ("IFD", "PlaneCount", "NumPlanes", "FirstZ", "FirstC", "FirstT")
SIZES = ("SizeX", "SizeY", "SizeZ", "SizeC", "SizeT")


def promised_planes(text: str, page_values: int) -> int:
    """Return the largest number of planes that any part of the OME-XML declares; 0 where it is no XML.

    `page_values` are the values of one page: sizes are planes in so far as they exceed it.
    """
    try:
        # expat refuses entities that grow, and there is no other danger in the parser.
        root = ET.fromstring(text)  # noqa: S314 - see above
    except ET.ParseError:
        return 0
    return max(_promises(root, max(page_values, 1)), default=0)


def _promises(root: ET.Element, page_values: int) -> Iterator[int]:
    for element in root.iter():
        given = element.attrib
        yield from (int(given[name]) for name in COUNTS if name in given)
        if "SizeX" in given:
            yield math.prod(int(given.get(name, 1)) for name in SIZES) // page_values
        if "Start" in given and "End" in given:  # a modulo axis: the number of its labels
            yield math.ceil((float(given["End"]) - float(given["Start"])) / float(given.get("Step", 1))) + 1
