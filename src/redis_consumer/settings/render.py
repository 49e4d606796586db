"""Settings as people and programs read them: aligned text, JSON, tables in Markdown."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from redis_consumer.settings.reading import MASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from redis_consumer.settings.declare import Declared


class Row(NamedTuple):
    """One setting of one run; `_asdict` is its form in JSON."""

    name: str
    """The variable."""
    value: str
    """As one would write it; a secret is masked."""
    source: str
    """`default`, `environment`, `env file`, `--set` or `service link`, with the older name if one was used."""
    default: str
    meaning: str
    group: str


def row_of(settings: object, name: str, declared: Declared[Any], origins: Mapping[str, str]) -> Row:
    """Return the row of one setting."""
    shown = declared.kind.show(getattr(settings, name))
    value = MASK if declared.secret and shown else shown
    source = origins.get(name, "default")
    return Row(name.upper(), value, source, declared.default, declared.meaning, declared.group)


def render_text(rows: Iterable[Row]) -> str:
    """Return a line for each setting, under the names of the groups: variable, value, source, meaning."""
    rows = list(rows)
    widths = [max((len(cell) for cell in column), default=0) for column in zip(*map(_cells, rows), strict=True)]
    blocks = []
    for group, members in groupby(rows, key=lambda row: row.group):
        lines = ["  ".join(map(str.ljust, _cells(row), widths)) + f"  {row.meaning}" for row in members]
        blocks.append("\n".join([group, *(f"  {line}" for line in lines)]))
    return "\n\n".join(blocks)


def _cells(row: Row) -> tuple[str, str, str]:
    return row.name, row.value or "-", row.source


def render_json(rows: Iterable[Row]) -> str:
    """Return a list of objects with the fields of `Row`."""
    return json.dumps([row._asdict() for row in rows], indent=2)


def settings_table(declared: Iterable[tuple[str, Declared[Any]]]) -> str:
    """Return a table in Markdown of all there is to know about settings, given by attribute."""
    head = ["| Variable | Default | Allowed | Meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *(_table_row(name.upper(), setting) for name, setting in declared)])


def short_table(declared: Iterable[tuple[str, Declared[Any]]]) -> str:
    """Return a table in Markdown of variables, defaults and meanings."""
    rows = (f"| `{name.upper()}` | {_code(setting.default)} | {setting.meaning} |" for name, setting in declared)
    return "\n".join(["| Variable | Default | Meaning |", "|---|---|---|", *rows])


def _table_row(variable: str, setting: Declared[Any]) -> str:
    names = "<br>or ".join(f"`{name}`" for name in (variable, *setting.aliases))
    users = f" ({', '.join(setting.used_by)})" if setting.used_by else ""
    return f"| {names} | {_code(setting.default)} | {setting.kind.allowed} | {setting.meaning}{users} |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
