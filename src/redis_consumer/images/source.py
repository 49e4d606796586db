"""What the reader of each format is given, and what it hands over: a header that was read, and pixels that were not."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis_consumer.errors import ConsumerError, JobRejected, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from redis_consumer.arrays import AnyArray
    from redis_consumer.images.blocks import Block, Plane

BinaryFile = io.RawIOBase | io.BufferedIOBase
UNKNOWN = "Q"
"""The letter of an axis that the file does not explain."""


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of an image file, wherever they are."""

    file: BinaryFile
    """Open for reading, at any place; may be slow to go from one place to another."""
    name: str
    """What the user calls it: errors do so too."""
    size: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Source:
    """An image as its header declares it; valid as long as its file is open."""

    shape: tuple[int, ...]
    axes: str
    """One letter for each axis of `shape`: T, Z, C, Y, X, S (colour samples), I (pages), Q or any other: unknown."""
    dtype: np.dtype[np.generic]
    is_rgb: bool
    """Whether the file calls its samples red, green and blue."""
    decode: Callable[[], AnyArray]
    """Decode the pixels: an array of `shape`."""
    check: Callable[[], None] = lambda: None
    """Refuse a file that does not hold the pixels it declares, as far as that can be told without reading them.

    To be called before `decode` and `blocks`.
    """
    blocks: Callable[[Plane], Iterator[Block] | None] = lambda _: None
    """Decode one plane block by block, in the order of `redis_consumer.images.blocks`; None where only the whole is
    to be had."""
    channel_names: tuple[str, ...] = ()
    """One for each channel, where the file names them."""
    foreign_colors: str = ""
    """What the file calls its samples, where they are colours other than red, green and blue."""
    others: int = 0
    """Further images of the file, which are not read."""


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Make one clear line of whatever a decoder throws at a damaged file; a file that is not there is a bug."""
    try:
        yield
    except (ConsumerError, MemoryError, FileNotFoundError):
        raise
    except Exception as error:
        fault = f"it is damaged or no image{kind_of(error)}"
        raise JobRejected(f"The image {name!r} cannot be read: {fault}") from error
