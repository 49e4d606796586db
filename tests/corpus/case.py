"""One hostile or broken input: what it is called, how it is made, and how it must end."""

from __future__ import annotations

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


def unreadable(why: str) -> str:
    """Return the pattern of a reason about an image."""
    return rf"^The image '[^']*' cannot be read: .*({why})"
