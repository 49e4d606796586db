"""How large a pixel is, where the file says so: OME-XML and ImageJ.

Resolutions of plain TIFFs and PNGs are not believed: most are what a program prints pictures with (72 dpi).
tifffile is imported with the first TIFF.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from pathlib import Path

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MICROMETRES = {
    "nm": 1e-3,
    "um": 1.0,
    "\N{MICRO SIGN}m": 1.0,
    "\N{GREEK SMALL LETTER MU}m": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "inch": 25400.0,
    "m": 1e6,
}
"""Of units as OME-XML and ImageJ write them; anything else is no length (ImageJ's `pixel`)."""


def pixel_size_um(path: Path) -> tuple[float, float] | None:
    """Return the height and width of a pixel of an image file in micrometres; None where it does not say.

    `path` is a file that `redis_consumer.images.read_image` took.
    """
    with path.open("rb") as file:
        if not file.read(4).startswith(TIFF_STARTS):
            return None
    import tifffile

    with tifffile.TiffFile(path) as file:
        if file.ome_metadata:
            return _by_ome(file.ome_metadata)
        return _by_imagej(file) if file.is_imagej else None


def _by_ome(text: str) -> tuple[float, float] | None:
    try:
        # expat refuses entities that grow, and there is no other danger in the parser.
        pixels = ET.fromstring(text).find(".//{*}Pixels")  # noqa: S314 - see above
    except ET.ParseError:  # its pixels were found all the same
        return None
    given: dict[str, str] = {} if pixels is None else pixels.attrib
    sizes = [_length(given.get(f"PhysicalSize{a}", ""), given.get(f"PhysicalSize{a}Unit", "um")) for a in "YX"]
    return _both(*sizes)


def _by_imagej(file: Any) -> tuple[float, float] | None:
    unit = str((file.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "\N{MICRO SIGN}")
    tags = file.pages.first.tags
    sizes = []
    for name in ("YResolution", "XResolution"):
        pixels, units = tags[name].value if name in tags else (0, 1)  # pixels in so many units
        sizes.append(_length(str(units / pixels) if pixels else "", unit))
    return _both(*sizes)


def _length(number: str, unit: str) -> float:
    """Return a length in micrometres; not a number where it is none."""
    try:
        return float(number) * MICROMETRES.get(unit.strip(), math.nan)
    except ValueError:
        return math.nan


def _both(height: float, width: float) -> tuple[float, float] | None:
    return (height, width) if all(math.isfinite(size) and size > 0 for size in (height, width)) else None
