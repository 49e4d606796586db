"""Settings as people read them: aligned text, and tables in Markdown."""

from __future__ import annotations

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
    """Return name, value, source and meaning of each row, aligned, under the names of the groups."""
    rows = list(rows)
    width = max(len(row.name) for row in rows)
    lines = []
    for group, members in groupby(rows, key=lambda row: row.group):
        lines += ["", group, *(_line(row, width) for row in members)]
    return "\n".join(lines[1:])


def _line(row: Row, width: int) -> str:
    source = row.source if row.source == "default" else f"{row.source}; default {row.default or 'none'}"
    return f"  {row.name:<{width}}  {row.value or '(none)'}  [{source}]\n  {'':<{width}}  {row.meaning}"


def settings_table(declared: Iterable[tuple[str, Declared[Any]]]) -> str:
    """Return a table in Markdown: variable and older names, default, what is allowed, what it means and to whom."""
    head = ["| Variable | Default | Allowed | Meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *(_table_row(name.upper(), setting) for name, setting in declared)])


def _table_row(variable: str, setting: Declared[Any]) -> str:
    names = f"`{variable}`" + "".join(f"<br>or `{alias}`" for alias in setting.aliases)
    default = f"`{setting.default}`" if setting.default else ""
    users = f" ({', '.join(setting.used_by)})" if setting.used_by else ""
    return f"| {names} | {default} | {setting.kind.allowed} | {setting.meaning}{users} |"
