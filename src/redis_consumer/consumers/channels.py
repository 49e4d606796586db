"""Which channels of an image a job means: named by index or by name, or told by the image where the job is silent.

Knows images and what jobs write into the field `channels`, no models and no Redis.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis_consumer.errors import JobRejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis_consumer.images import ImageHeader
    from redis_consumer.images.axes import Origin

MOST_CHANNELS = 64
"""A channel may be named more than once, but not until the memory is full."""
NUCLEAR_STAINS = re.compile(r"dapi|hoechst|draq[57]|sytox|to-?pro|\bdna|\bh2b|histone|nucle(us|i|ar)\b", re.IGNORECASE)
"""Names of channels that show nuclei."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The channels that are analysed."""

    positions: tuple[int | None, ...]
    """Index of the channel at each position of the field `channels`, None where it is blank."""
    origin: Origin
    """Who chose: the job, the file (its names, or that there is nothing to choose), or the rule."""

    @property
    def indexes(self) -> list[int]:
        """Return the channels in the order of their positions."""
        return [index for index in self.positions if index is not None]

    def fields(self, names: Sequence[str]) -> dict[str, str]:
        """Return what is written into the job: a value of `channels` that means the same, who chose, and names.

        Of an image with more than `MOST_CHANNELS`, the first of these.
        """
        shown = self.positions[:MOST_CHANNELS]
        fields = {
            "image_channels": ",".join("" if index is None else str(index) for index in shown),
            "image_channels_from": self.origin,
        }
        if names:
            fields["image_channel_names"] = ",".join(names[i].replace(",", " ") for i in shown if i is not None)
        return fields


def default_channels(picture: ImageHeader) -> Choice:
    """Return the channels of an image for which the job names none: all, or the one of a grey picture in colours.

    JobRejected for a colour picture: its channels are no stains.
    """
    if picture.is_rgb and not picture.is_color:
        return Choice((0,), "metadata")
    if picture.is_rgb:
        stack = ", or say 'BXY' in 'dimension_order' if its planes are frames" if picture.axes.startswith("S") else ""
        raise JobRejected(
            f"The image {picture.name!r} is a colour picture: a fluorescence image is expected; "
            f"name one channel in the field 'channels' (0 red, 1 green, 2 blue) to use it all the same{stack}"
        )
    return Choice(tuple(range(picture.sizes[-1])), "metadata")


def nuclear_channel(picture: ImageHeader) -> Choice:
    """Return the channel of the nuclei: the first with the name of a nuclear stain, else the first of all."""
    stained = [index for index, name in enumerate(picture.channel_names) if NUCLEAR_STAINS.search(name)]
    return Choice((stained[0],), "metadata") if stained else Choice((0,), "rule")


def named_channels(parts: Sequence[str], picture: ImageHeader) -> Choice:
    """Return the channels that the parts of a field `channels` name, blank ones left out but counted."""
    wanted = [part for part in parts if part]
    available = picture.sizes[-1]
    if len(wanted) > max(available, MOST_CHANNELS):
        raise JobRejected(f"The field 'channels' names {len(wanted)} channels: allowed are {available}")
    names = picture.channel_names
    return Choice(tuple(channel_index(part, available, names) if part else None for part in parts), "job")


def channel_index(part: str, available: int, names: Sequence[str] = ()) -> int:
    """Return the index that `part` names: a whole number below `available`, else one of the file's `names`.

    Names are compared without regard to case where none is the same letter for letter.
    """
    if re.fullmatch(r"[0-9]{1,9}", part) and int(part) < available:
        return int(part)
    same = [index for index, name in enumerate(names) if name == part]
    alike = same or [index for index, name in enumerate(names) if name.casefold() == part.casefold()]
    if len(alike) == 1:
        return alike[0]
    known = f" and {', '.join(name for name in names[:MOST_CHANNELS] if name)}" if any(names) else ""
    twice = f", which {len(alike)} channels are called" if alike else ""
    raise JobRejected(f"The field 'channels' names {part!r}{twice}: allowed are 0 to {available - 1}{known}")
