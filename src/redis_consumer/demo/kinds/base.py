"""The words that all kinds of demonstration share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Truth = TypeVar("Truth")


class Scored(Protocol):
    """How well something was found."""

    @property
    def f1(self) -> float:
        """From 0 to 1."""
        ...


@dataclass(frozen=True)
class Worker:
    """A worker that a kind needs."""

    queue: str
    consumer_type: str


@dataclass(frozen=True, eq=False)
class Sample(Generic[Truth]):
    """One file that is submitted."""

    path: Path
    name: str
    """What its results are called: no other file's are called so."""
    truth: Truth | None = None
    """What is to be found, where it is known."""


@dataclass(frozen=True)
class Outputs:
    """The files that a sample leaves in the folder of results; not every kind has labels."""

    zip: Path
    labels: Path
    picture: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> Outputs:
        """Return the paths for a sample of this name; nothing is written."""
        return cls(folder / f"{name}.zip", folder / f"{name}_labels.tif", folder / f"{name}_overlay.png")

    def all(self) -> tuple[Path, ...]:
        """Return every path."""
        return self.zip, self.labels, self.picture


@dataclass(frozen=True)
class Found:
    """What a result holds."""

    size: str
    """Of the image, in words."""
    count: int
    score: Scored | None = None
    """None where the truth is not known."""


@dataclass(frozen=True, eq=False)
class Kind(Generic[Truth]):
    """How one type of job is demonstrated."""

    queue: str
    """Where jobs are submitted; archives go to its ``-zip`` twin."""
    workers: tuple[Worker, ...]
    settings: Mapping[str, str]
    """Of all workers, by the names of variables."""
    objects: str
    """What is found, in the plural."""
    beside: str
    """What stands beside each zip, for people."""
    draw: Callable[[Path], list[Sample[Truth]]]
    """Write simulated samples into a folder."""
    show: Callable[[Outputs, Sample[Truth]], Found]
    """Read the zip, and write what stands beside it."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of every job."""
    archives: bool = False
    """Whether samples are archives instead of images."""


def extent(shape: tuple[int, ...]) -> str:
    """Return a size in words."""
    return " x ".join(map(str, shape))
