"""What the reader of each format hands over: a header that was read, and pixels that were not yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from redis_consumer.arrays import AnyArray

UNKNOWN = "Q"
"""The letter of an axis that the file does not explain."""


@dataclass(frozen=True, slots=True)
class Source:
    """An image as its header declares it."""

    shape: tuple[int, ...]
    axes: str
    """One letter for each axis of `shape`: T, Z, C, Y, X, S (colour samples), I (pages), Q or any other: unknown."""
    dtype: np.dtype[np.generic]
    is_rgb: bool
    """Whether the file calls its samples red, green and blue."""
    decode: Callable[[], AnyArray]
    """Decode the pixels: an array of `shape`."""
    channel_names: tuple[str, ...] = ()
    """One for each channel, where the file names them."""
    foreign_colors: str = ""
    """What the file calls its samples, where they are colours other than red, green and blue."""
    others: int = 0
    """Further images of the file, which are not read."""
