"""What no image may be, told by its header: values that are no intensities, axes that fit nothing, sizes over a limit.

Each check raises JobRejected, in one line with the file's name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis_consumer.errors import JobRejected
from redis_consumer.images.axes import CHANNELS, FRAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis_consumer.images.source import Source

CEILING = 2**31
"""Values (frames x rows x columns x channels) that no file may declare, whatever the limits."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest image that is taken; the names of the settings are those of the Kiosk."""

    height: int = 2048
    width: int = 2048
    frames: int = 60
    pixels: int = 2**29
    """Values in all: frames x rows x columns x channels."""
    sides: str = "MAX_IMAGE_HEIGHT, MAX_IMAGE_WIDTH"
    """The settings that `height` and `width` come from."""


def check_values_of(name: str, source: Source) -> None:
    """Reject values that are no intensities."""
    check_type(name, source)
    if source.foreign_colors:
        raise JobRejected(
            f"The image {name!r} has colours of the kind {source.foreign_colors}: allowed are grey values and RGB"
        )


def check_type(name: str, source: Source) -> None:
    """Reject values that are no real numbers."""
    if source.dtype.kind not in "buif":
        raise JobRejected(f"The image {name!r} has values of type {source.dtype}: allowed are real numbers")


def check_layout(name: str, layout: str, sizes: Sequence[int]) -> None:
    """Reject two axes of frames, or channels of colours."""
    if not set("YX") <= set(layout):
        raise JobRejected(f"The image {name!r} cannot be read: it is damaged, nothing says how large it is")
    kinds = (set(layout) & set(FRAMES), set(layout) & set(CHANNELS))
    if any(len(kind) > 1 for kind in kinds) or len(set(layout)) != len(layout):
        times = " x ".join(map(str, sizes))
        raise JobRejected(
            f"The image {name!r} has the axes {layout} ({times}): allowed are Y and X, one of T, Z, B and one of C, S"
        )


def check_sizes(name: str, layout: str, sizes: Sequence[int], limits: ImageLimits | None, remark: str) -> None:
    """Reject what the header declares, where it is too large; `layout` names `sizes`."""
    if limits:
        axes = dict(zip(layout, sizes, strict=True))
        height, width = axes["Y"], axes["X"]
        if height > limits.height or width > limits.width:
            raise JobRejected(
                f"The image {name!r} has {height} x {width} pixels: "
                f"allowed are {limits.height} x {limits.width} ({limits.sides}){remark}"
            )
        frames = math.prod(size for axis, size in axes.items() if axis in FRAMES)
        if frames > limits.frames:
            allowed = f"allowed are {limits.frames} (MAX_IMAGE_FRAMES){remark}"
            raise JobRejected(f"The image {name!r} has {frames} frames: {allowed}")
    most, setting = (limits.pixels, " (MAX_IMAGE_PIXELS)") if limits else (CEILING, "")
    check_values(name, sizes, most, setting)


def check_values(name: str, sizes: Sequence[int], allowed: int, setting: str = "") -> None:
    """Reject an image without pixels, and one of too many values; `setting` says where the limit comes from."""
    values = math.prod(sizes)
    if min(sizes, default=1) < 1:
        raise JobRejected(f"The image {name!r} cannot be read: it declares no pixels, shape {tuple(sizes)}")
    if values > allowed:
        times = " x ".join(map(str, sizes))
        raise JobRejected(f"The image {name!r} has {values} values ({times}): allowed are {allowed}{setting}")
