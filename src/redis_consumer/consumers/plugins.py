"""Find a consumer by what `CONSUMER_TYPE` says: a name of the table, a dotted path, or an entry point."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from redis_consumer.consumers.base import Consumer
from redis_consumer.errors import SettingsError, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

GROUP = "redis_consumer.consumers"
"""The entry-point group for consumers of other packages."""


def find_consumer(name: str, table: Mapping[str, type[Consumer]]) -> type[Consumer]:
    """Return the class; SettingsError says what is wrong and what there is.

    A dotted path is ``package.module:Name`` (or ``package.module.Name``); it is imported, and the name must be
    a subclass of `Consumer`.
    """
    known = {key.lower(): cls for key, cls in table.items()}
    if name.lower() in known:
        return known[name.lower()]
    plugins = {point.name.lower(): point for point in entry_points(group=GROUP)}
    if name.lower() in plugins:
        return _checked(name, _loaded(name, plugins[name.lower()].load))
    if ":" in name or "." in name:
        return _checked(name, _loaded(name, lambda: _imported(name)))
    allowed = ", ".join(sorted(known | dict.fromkeys(plugins)))
    raise SettingsError(f"CONSUMER_TYPE is {name!r}: allowed are {allowed}, or a dotted path 'package.module:Class'")


def _imported(path: str) -> object:
    module, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _loaded(name: str, load: Callable[[], object]) -> object:
    try:
        return load()
    except Exception as error:
        # Whatever somebody's module does while it is imported: it is the setting that led there.
        raise SettingsError(f"CONSUMER_TYPE is {name!r}: it cannot be imported ({reason_of(error)})") from error


def _checked(name: str, found: object) -> type[Consumer]:
    if isinstance(found, type) and issubclass(found, Consumer):
        return found
    raise SettingsError(f"CONSUMER_TYPE is {name!r}: {found!r} is not a subclass of redis_consumer.consumers.Consumer")
