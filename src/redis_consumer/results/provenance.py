"""Where a result comes from: everything that is needed to make it once more, as JSON.

Knows neither how the analysis ran nor where the file goes.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from redis_consumer import __version__
from redis_consumer.errors import without_secrets
from redis_consumer.settings.declare import Group, declarations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from redis_consumer.job import Job
    from redis_consumer.settings import Settings

FORMAT = "kiosk-redis-consumer/provenance/1"
"""Stands in the file; the number changes when a name in it changes its meaning."""
LIBRARIES = ("numpy", "scipy", "scikit-image", "tifffile", "imagecodecs", "pillow")
"""Those that numbers go through, by their names on PyPI."""
DECIDING = frozenset({Group.IMAGES, Group.MODELS, Group.TRACKING, Group.SPOTS})
"""The settings that results depend on: not where servers are, nor how often they are asked."""


@dataclass(frozen=True, slots=True)
class Input:
    """The image as it came."""

    key: str
    """In the bucket."""
    name: str
    """The user's own."""
    sha256: str
    """Of the file as downloaded; empty, and no `bytes`, for an OME-Zarr image, which is no file."""
    bytes: int
    shape: tuple[int, ...]
    """In the file."""
    dtype: str
    """In the file."""
    axes: str
    """One letter each, as in `redis_consumer.images`."""
    axes_from: str
    """Who named them: the file's `metadata`, the `job`, or the `rule`."""
    pixel_size_um: tuple[float, float] | None
    """Height and width, where the file says so."""


@dataclass(frozen=True, slots=True)
class ModelUse:
    """A model that was asked."""

    name: str
    asked_version: int | None
    """None for the latest one."""
    served_versions: tuple[int, ...]
    """What answered: more than one where the server changed it meanwhile, none where the server does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The whole account.  Its fields are the keys of the file."""

    format: str = FORMAT
    consumer: str
    """The class that did the job, with its module."""
    worker: str
    queue: str
    job: str
    fields: Mapping[str, str]
    """The job's hash as the worker took it, blank fields left out."""
    input: Input
    models: Sequence[ModelUse]
    parameters: Mapping[str, object]
    """What the analysis used, defaults filled in."""
    settings: Mapping[str, str]
    """The settings that results depend on, as one writes them in the environment."""
    objects: int | None
    """How many were found; None where the result is no label image."""
    software: Mapping[str, str]
    seconds: Mapping[str, float]
    """By stage, until this was written."""
    started_at: str
    """ISO 8601 with the UTC offset."""
    written_at: str

    def to_json(self) -> str:
        """Return the file's text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fields_of(job: Job) -> dict[str, str]:
    """Return the fields of a job that say anything, addresses without logins and signatures."""
    return {name: without_secrets(text) for name, text in job.fields.items() if text.strip()}


def deciding_settings(settings: Settings) -> dict[str, str]:
    """Return the settings that results of this consumer type depend on, by variable.

    Nobody knows what a consumer of one's own reads: there it is all of them.
    """
    declared = declarations(type(settings))
    known = any(settings.consumer_type in one.used_by for one in declared.values())
    return {
        name.upper(): one.kind.show(getattr(settings, name))
        for name, one in declared.items()
        if one.group in DECIDING and (not known or not one.used_by or settings.consumer_type in one.used_by)
    }


def software(consumer: type) -> dict[str, str]:
    """Return the versions of what took part: Python, this program, the libraries, the package of the consumer."""
    own = consumer.__module__.partition(".")[0]
    versions = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "kiosk-redis-consumer": __version__,
    }
    versions |= {name: metadata.version(name) for name in LIBRARIES}
    theirs = getattr(sys.modules.get(own), "__version__", None)
    return versions if own == "redis_consumer" or theirs is None else {**versions, own: str(theirs)}
