"""What jobs write into their fields, read and checked.  JobRejected names the field, the value and what is allowed."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, TypeVar

from redis_consumer.errors import JobRejected
from redis_consumer.processing import chain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from redis_consumer.job import Job
    from redis_consumer.settings import Settings

LABELS = ("nuclei", "phase", "cytoplasm")
"""What the numbers of the field `label` stand for, from 0: as they were while consumers read it.

The Kiosk's last release counts phase and cytoplasm the other way round, in tables that nothing uses.
"""

Given = TypeVar("Given")
Made = TypeVar("Made")


def steps(
    job: Job,
    field: str,
    default: str,
    table: Mapping[str, Callable[[Given], Made]],
    size: tuple[int, int] | None = None,
) -> Callable[[Given], Made]:
    """Return the chain of steps that a field of the job names; `size` are the rows and columns of the image."""
    try:
        return chain(job.get(field, default), table, field, size)
    except ValueError as error:
        raise JobRejected(str(error)) from None


def understood(step: Callable[[Given], Made], given: Given) -> Made:
    """Return `step(given)`; what the step refuses is the input's fault."""
    try:
        return step(given)
    except ValueError as error:
        raise JobRejected(f"The image cannot be processed: {error}") from error


def job_scale(job: Job, settings: Settings) -> float:
    """Return the job's zoom (image pixel size / model pixel size); 1 where it is blank."""
    text = job.get("scale", "1")
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not settings.min_scale <= scale <= settings.max_scale:
        raise JobRejected(
            f"The field 'scale' is {text!r}: allowed is a number from {settings.min_scale:g} to {settings.max_scale:g}"
        )
    return scale


def checked_label(text: str, given: str) -> int:
    """Return `text` as an index into `LABELS`; JobRejected begins with `given` where it is none."""
    allowed = {str(number): number for number in range(len(LABELS))}
    if text not in allowed:
        raise JobRejected(f"{given}: allowed are " + ", ".join(f"{i} ({what})" for i, what in enumerate(LABELS)))
    return allowed[text]


def whole_number(job: Job, field: str, default: int) -> int:
    """Return a field that counts; JobRejected names it where it does not."""
    text = job.get(field, str(default))
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise JobRejected(f"The field {field!r} is {text!r}: allowed is a whole number from 0")
    return int(text)


def check_zoom(values: int, scale: float, allowed: int) -> None:
    """JobRejected where an image of so many values, zoomed, has more than an image may have."""
    if values * scale**2 > allowed:
        raise JobRejected(
            f"The field 'scale' is {scale:g}: the image would grow to {values * scale**2:.0f} values, "
            f"allowed are {allowed} (MAX_IMAGE_PIXELS)"
        )


def check_zoomed_sides(size: tuple[int, int], scale: float, allowed: int) -> None:
    """JobRejected where an image of such rows and columns, zoomed, has a longer side than allowed."""
    if max(size) * scale > allowed:
        height, width = (int(side * scale) for side in size)
        raise JobRejected(
            f"The field 'scale' is {scale:g}: the image would grow to {height} x {width} pixels, "
            f"allowed are {allowed} x {allowed} (MAX_LARGE_SIDE)"
        )
