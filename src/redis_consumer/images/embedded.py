"""Pictures inside a TIFF: JPEG, JPEG 2000, PNG and WebP segments declare a size of their own, whatever the TIFF says.

Decoders allocate what the picture declares, so it is read here first, from the place where the format has it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG's markers that carry a size (ITU T.81, table B.1); the three others of this range are tables."""
WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
JPEG_2000_START = b"\xff\x4f\xff\x51"
"""SOC, and SIZ right behind it (ISO 15444-1, A.3)."""


def jpeg_pixels(data: bytes) -> int:
    """Return rows x columns of the first frame; 0 rows mean that the TIFF's are used."""
    at = 2
    while at + 9 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:  # noqa: PLR2004 - the byte before each marker
            at += 1
        elif marker in START_OF_FRAME:
            rows, columns = struct.unpack_from(">HH", data, at + 5)
            return int(rows * columns)
        else:
            at += 2 if marker in WITHOUT_LENGTH else 2 + int.from_bytes(data[at + 2 : at + 4])
    raise ValueError("no frame in the JPEG")


def jpeg_2000_pixels(data: bytes) -> int:
    """Return rows x columns of the reference grid of a codestream, bare or in the first box that holds one."""
    at = 0 if data.startswith(JPEG_2000_START) else _codestream(data)
    if data[at : at + 4] != JPEG_2000_START:
        raise ValueError("no codestream in the JPEG 2000")
    columns, rows = struct.unpack_from(">II", data, at + 8)
    return int(rows * columns)


def _codestream(data: bytes) -> int:
    """Return where the content of the box `jp2c` begins (ISO 15444-1, I.4)."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16]), 16
        if kind == b"jp2c":
            return at + head
        if size < head:
            break
        at += size
    raise ValueError("no codestream in the JPEG 2000")


def png_pixels(data: bytes) -> int:
    """Return rows x columns; the header is the first chunk."""
    if data[12:16] != b"IHDR":
        raise ValueError("no header in the PNG")
    columns, rows = struct.unpack_from(">II", data, 16)
    return int(rows * columns)


def webp_pixels(data: bytes) -> int:
    """Return rows x columns of the canvas (VP8X), or of the one image (VP8L, VP8)."""
    if data[12:16] == b"VP8X":
        return (1 + int.from_bytes(data[24:27], "little")) * (1 + int.from_bytes(data[27:30], "little"))
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (1 + (bits & 0x3FFF)) * (1 + (bits >> 14 & 0x3FFF))
    return (int.from_bytes(data[26:28], "little") & 0x3FFF) * (int.from_bytes(data[28:30], "little") & 0x3FFF)


DECLARED_PIXELS: Mapping[int, Callable[[bytes], int]] = {
    **dict.fromkeys((6, 7, 33007, 34892), jpeg_pixels),
    **dict.fromkeys((33003, 33004, 33005, 34712), jpeg_2000_pixels),
    34933: png_pixels,
    **dict.fromkeys((34927, 50001), webp_pixels),
}
"""By the TIFF's number of the compression: how to read the size.  ValueError and struct.error for what is damaged."""
