"""How large the first frame of a GIF is: Pillow paints a whole frame while it opens the file, before we can ask.

Read as Pillow does, block by block: https://www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis_consumer.images.source import BinaryFile

COMMENT, APPLICATION = 254, 255


def frame_pixels(file: BinaryFile) -> int:
    """Return the pixels of the first frame of a GIF that `file` stands at the start of; 0 if there is none."""
    screen = file.read(13)
    if len(screen) == 13 and screen[10] & 0x80:  # noqa: PLR2004 - the length of the head; its flag "has a palette"
        file.read(3 << (screen[10] & 7) + 1)
    while (introducer := file.read(1)) not in (b"", b";"):
        if introducer == b"!":
            _skip_extension(file)
        elif introducer == b",":
            frame = file.read(9)
            columns, rows = struct.unpack_from("<HH", frame.ljust(9, b"\0"), 4)
            return int(columns * rows)
    return 0


def _skip_extension(file: BinaryFile) -> None:
    label = file.read(1)
    block = _block(file)
    if label == bytes([COMMENT]):
        while block:
            block = _block(file)
        return
    if label == bytes([APPLICATION]) and block.startswith(b"NETSCAPE2.0"):
        _block(file)
    while _block(file):
        pass


def _block(file: BinaryFile) -> bytes:
    """Return a sub-block; empty at the end of a row of them."""
    size = file.read(1)
    return file.read(size[0]) if size else b""
