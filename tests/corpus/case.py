"""One hostile or broken input: what it is called, how it is made, and how it must end."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DONE = ""
"""The end of an input that is odd but legal."""


@dataclass(frozen=True)
class Case:
    """An input, made only when it is needed, the same at every run."""

    name: str
    end: str
    """A regular expression that the one-line reason matches; `DONE` where the job succeeds."""
    make: Callable[[], bytes]
    fields: dict[str, str | bytes] = field(default_factory=dict)
    """Of the job, where the input is more than its file."""


def zeros_deflated(size: int) -> bytes:
    """Return a zlib stream of `size` zeros, a multiple of 16 MB, without compressing all of them."""
    piece = bytes(2**24)
    stream = zlib.compressobj(9)
    first, later = (stream.compress(piece) + stream.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    last_block = stream.flush()[:-4]
    adler = (size % 65521) << 16 | 1
    return first + later * (size // len(piece) - 1) + last_block + adler.to_bytes(4)


def unreadable(why: str) -> str:
    """Return the pattern of a reason about an image."""
    return rf"^The image '[^']*' cannot be read: .*({why})"
