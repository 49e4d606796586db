"""Names of the demonstration's results: no result overwrites another one, or an input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis_consumer.demo.kinds.base import Outputs, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def named(paths: Sequence[Path], folder: Path) -> list[Sample[Any]]:
    """Return files that were given, with names of their own."""
    taken = {_same(path) for path in paths}
    samples: list[Sample[Any]] = []
    for path in paths:
        name = free_name(path.stem, folder, taken)
        taken |= {_same(file) for file in Outputs.of(folder, name).all()}
        samples.append(Sample(path, name))
    return samples


def free_name(stem: str, folder: Path, taken: set[str]) -> str:
    """Return `stem`, or with a number behind it where one of its files is taken."""
    name, number = stem, 1
    while any(_same(file) in taken for file in Outputs.of(folder, name).all()):
        number += 1
        name = f"{stem}-{number}"
    return name


def _same(path: Path) -> str:
    """Return what two names of one file have in common; some disks do not tell capitals."""
    return str(path.resolve()).casefold()
