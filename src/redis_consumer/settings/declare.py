"""How a setting is declared: once, beside its attribute.  Knows no variable by name."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


class Group(StrEnum):
    """Where a setting stands in tables, in this order."""

    JOBS = "Jobs"
    REDIS = "Redis"
    STORAGE = "Object storage"
    SERVER = "Model server"
    IMAGES = "Images"
    MODELS = "Models"
    TRACKING = "Tracking"
    SPOTS = "Spots"
    LOGS = "Logs"


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What a variable may hold."""

    parse: Callable[[str], T]
    """Text, stripped and not empty, to the value; ValueError for what is not allowed."""
    allowed: str
    """Completes "allowed is ..." in the error, and stands in the tables."""
    show: Callable[[T], str] = str
    """The value as one would write it in the environment."""


@dataclass(frozen=True, slots=True)
class Declared(Generic[T]):
    """Everything about one setting but its name: the variable is the attribute in capitals."""

    kind: Kind[T]
    meaning: str
    """One line, with the unit."""
    group: Group
    aliases: Mapping[str, str]
    """Older names of the variable, and how their text reads under the new one; the new name wins."""
    used_by: tuple[str, ...]
    """The consumer types that read it; empty for all."""
    secret: bool
    """Never shown, in errors neither."""
    common: bool
    """Most people need it: it stands in the README."""
    default: str
    """As one would write it, or in words where it is not a constant."""


def setting(
    kind: Kind[T],
    default: T,
    meaning: str,
    *,
    group: Group,
    aliases: Mapping[str, str] | None = None,
    used_by: tuple[str, ...] = (),
    secret: bool = False,
    common: bool = False,
    factory: Callable[[], T] | None = None,
    default_text: str = "",
) -> T:
    """Declare a field of a dataclass.  Typed as its default, like `dataclasses.field`.

    `factory` makes the default where it is not a constant, and `default_text` says so in the tables.
    """
    shown = default_text or kind.show(default)
    declared = Declared(kind, meaning, group, aliases or {}, used_by, secret, common, shown)
    metadata = {Declared.__name__: declared}
    if factory:
        return field(default_factory=factory, repr=not secret, metadata=metadata)
    return field(default=default, repr=not secret, metadata=metadata)


def declarations(cls: type[Any]) -> dict[str, Declared[Any]]:
    """Return the declared settings of a dataclass by attribute, in the order of the tables."""
    found = {item.name: item.metadata.get(Declared.__name__) for item in fields(cls)}
    declared = [(name, declaration) for name, declaration in found.items() if declaration]
    order = list(Group)
    return dict(sorted(declared, key=lambda pair: order.index(pair[1].group)))
