"""What `pip install .` without extras brings, by package."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distribution
from pathlib import Path

import tables
from packaging.requirements import Requirement  # scikit-image needs it, so it is there

GOAL_MB = 450


def needed(name: str, extras: frozenset[str], seen: dict[str, Distribution]) -> dict[str, Distribution]:
    """Collect a distribution and all that it requires with these extras."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    found = seen.setdefault(key, distribution(key))
    for requirement in map(Requirement, found.requires or []):
        is_new = re.sub(r"[-_.]+", "-", requirement.name).lower() not in seen
        if (is_new or requirement.extras) and applies(requirement, extras):
            needed(requirement.name, frozenset(requirement.extras), seen)
    return seen


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Return whether a requirement holds for this interpreter and these extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""})


def megabytes(found: Distribution) -> float:
    """Return the size of a distribution's files, in MB (10^6 bytes), compiled modules included."""
    paths = (Path(str(found.locate_file(file))) for file in found.files or [])
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def main() -> None:
    """Print the table, largest first."""
    found = needed("kiosk-redis-consumer", frozenset(), {})
    found.pop("kiosk-redis-consumer")
    sizes = sorted(((megabytes(item), name) for name, item in found.items()), reverse=True)
    rows: list[tuple[object, ...]] = [(name, found[name].version, size) for size, name in sizes]
    rows.append((f"together (goal: < {GOAL_MB})", "", sum(size for size, _ in sizes)))
    tables.show("Installed size without extras", ("package", "version", "MB"), rows)


if __name__ == "__main__":
    main()
