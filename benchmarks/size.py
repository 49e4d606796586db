"""What `pip install .` without extras brings, by package."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distribution

import tables


def needed(name: str, seen: dict[str, Distribution]) -> dict[str, Distribution]:
    """Collect a distribution and all that it requires, extras left out."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return seen
    seen[key] = distribution(key)
    for requirement in seen[key].requires or []:
        if "extra ==" not in requirement and applies(requirement):
            needed(re.split(r"[\s;\[<>=!~(]", requirement, maxsplit=1)[0], seen)
            if "redis[hiredis]" in requirement:
                needed("hiredis", seen)
    return seen


def applies(requirement: str) -> bool:
    """Return whether a requirement's marker, if it has one, fits this interpreter."""
    from packaging.requirements import Requirement

    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate({"extra": ""})


def megabytes(found: Distribution) -> float:
    """Return the size of a distribution's files on disk, in MB (10^6 bytes)."""
    paths = [found.locate_file(file) for file in found.files or []]
    sizes = [path.stat().st_size for path in map(_real, paths) if path.is_file()]  # type: ignore[attr-defined]
    return sum(sizes) / 1e6


def _real(path: object) -> object:
    from pathlib import Path

    return Path(str(path))


def main() -> None:
    """Print the table, largest first."""
    found = needed("kiosk-redis-consumer", {})
    found.pop("kiosk-redis-consumer")
    sizes = sorted(((megabytes(item), name) for name, item in found.items()), reverse=True)
    rows: list[tuple[object, ...]] = [(name, found[name].version, size) for size, name in sizes]
    rows.append(("together", "", sum(size for size, _ in sizes)))
    tables.show("Installed size without extras", ("package", "version", "MB"), rows)


if __name__ == "__main__":
    main()
