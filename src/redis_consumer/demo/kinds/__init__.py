"""What the demonstration can show: one module, and one line here, for each type of job."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis_consumer.demo.kinds.base import Kind

KINDS: Final[Mapping[str, str]] = {
    "segmentation": "redis_consumer.demo.kinds.segmentation",
    "zip": "redis_consumer.demo.kinds.batch",
    "mesmer": "redis_consumer.demo.kinds.tissue",
    "spot": "redis_consumer.demo.kinds.spot",
    "polaris": "redis_consumer.demo.kinds.polaris",
    "tracking": "redis_consumer.demo.kinds.tracking",
}
"""By the name of ``--type``: the module whose ``KIND`` it is, by name, so that the command line does not load it."""


def find_kind(name: str) -> Kind[Any]:
    """Return a kind; KeyError for an unknown name."""
    kind: Kind[Any] = import_module(KINDS[name]).KIND
    return kind
