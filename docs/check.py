"""What `make check` asks of the prose: tables that are true, links and paths that exist, commands that are there.

``--write`` rewrites the tables of settings first.  Prints what is wrong, a line each, and exits with 1.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from redis_consumer.cli import parser
from redis_consumer.settings import Settings
from redis_consumer.settings.declare import declarations
from redis_consumer.settings.old import RETIRED
from redis_consumer.settings.render import settings_table, short_table

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- settings:begin -->", "<!-- settings:end -->"
PROSE = {".md"}
TEXT = {".md", ".py", ".sh", ".toml", ".lua", ".proto", ".yaml", ".yml", ".json", ""}
PAGE = """# Settings

Written by `python docs/check.py --write` from the declarations in `src/redis_consumer/settings/schema.py`.

The environment is read once, at the start. `--set NAME=VALUE` wins over it, and it over `--env-file FILE`; a blank
value means "not set". The start stops at wrong values and names them all. `redis-consumer settings` prints what holds
and where each value came from, with secrets masked.

Numbers may look as Helm prints them (`1e+06`, `32.0`). `REDIS_PORT` and `TF_PORT` may be the links that Kubernetes
makes of Services (`tcp://10.0.0.1:6379`): they count where nothing else says host or port. Older names of a variable
stand below it; the newer one wins. Names in brackets are the consumer types that read a setting.
"""
RETIRED_HEAD = """## Without effect

Accepted, since the Kiosk's files and old deployments set them, and not read by any built-in consumer. A consumer of
your own that reads `settings.NAME` still gets its value.

| Variable | Instead |
|---|---|
"""


def main(arguments: list[str] | None = None) -> int:
    """Check, or write and check."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", action="store_true", help="rewrite the tables of settings")
    if options.parse_args(arguments).write:
        for path, text in settings_texts(ROOT).items():
            path.write_text(text, encoding="utf-8")
    problems = [*stale_tables(ROOT), *lost_references(ROOT), *unknown_commands(ROOT), *machine_paths(ROOT)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def settings_page() -> str:
    """Return the page of all settings."""
    declared = declarations(Settings).items()
    groups = groupby(declared, key=lambda pair: pair[1].group)
    sections = [f"## {group}\n\n{settings_table(members)}\n" for group, members in groups]
    retired = "".join(f"| `{name}` | {variable.reason} |\n" for name, variable in RETIRED.items())
    return "\n".join([PAGE, *sections, RETIRED_HEAD + retired])


def with_common_settings(readme: str) -> str:
    """Return the README with the table of the most used settings between its marks, made where they are missing."""
    common = [(name, declared) for name, declared in declarations(Settings).items() if declared.common]
    block = f"{BEGIN}\n{short_table(common)}\n{END}"
    if BEGIN not in readme or END not in readme:
        return f"{readme.rstrip()}\n\n## Settings\n\n{block}\n"
    before, _, rest = readme.partition(BEGIN)
    return before + block + rest.partition(END)[2]


def settings_texts(root: Path) -> dict[Path, str]:
    """Return the files that hold tables of settings, as they should be."""
    readme = root / "README.md"
    return {
        root / "docs/settings.md": settings_page(),
        readme: with_common_settings(readme.read_text(encoding="utf-8")),
    }


def stale_tables(root: Path) -> Iterator[str]:
    """Yield the files whose tables are not what the declarations say."""
    for path, text in settings_texts(root).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield f"{path.relative_to(root)}: the settings are out of date: python docs/check.py --write"


def lost_references(root: Path) -> Iterator[str]:
    """Yield relative links, and paths in backticks that begin with a folder of this project, that lead nowhere."""
    for path, text in texts(root, PROSE):
        prose = re.sub(r"^( *)(```|~~~).*?^\1\2", "", text, flags=re.DOTALL | re.MULTILINE)
        without_code = re.sub(r"`[^`\n]*`", "", prose)
        for target in re.findall(r"\]\(<?([^)>\s]+)", without_code):
            if not re.match(r"[a-z][a-z+.-]*:|#", target) and not (path.parent / target.split("#")[0]).exists():
                yield f"{path.relative_to(root)}: the link {target!r} leads nowhere"
        for quoted in re.findall(r"`([\w.-]+(?:/[\w.*-]+)+/?)`", prose):
            if is_lost(quoted, root):
                yield f"{path.relative_to(root)}: there is no {quoted!r}"


def is_lost(quoted: str, root: Path) -> bool:
    """Return whether `quoted` reads like a path of the project, from its root or its package, and is none."""
    first, _, _ = quoted.partition("/")
    homes = [home for home in (root, root / "src/redis_consumer") if (home / first).is_dir()]
    return bool(homes) and not any(any(home.glob(quoted.rstrip("/"))) for home in homes)


def unknown_commands(root: Path) -> Iterator[str]:
    """Yield what the prose calls a command and the program does not."""
    known = {name for action in parser()._actions for name in action.choices or ()}  # noqa: SLF001 - no public list
    for path, text in texts(root, PROSE):
        for command in re.findall(r"redis-consumer[ \t]+([a-z][a-z-]*)\b(?=[`\s])", code_of(text)):
            if command not in known:
                yield f"{path.relative_to(root)}: `redis-consumer {command}` is no command"


def machine_paths(root: Path) -> Iterator[str]:
    """Yield lines that hold a path of the machine that they were written on."""
    places = {f"{root}/", f"{root.parent}/", f"{Path.home()}/"} - {"//"}
    here = re.compile(rf"(?<![\w.])(?:{'|'.join(map(re.escape, sorted(places)))}|/home/\w|/Users/\w)")
    for path, text in texts(root, TEXT):
        for number, line in enumerate(text.splitlines(), start=1):
            if here.search(line) and path != Path(__file__):
                yield f"{path.relative_to(root)}:{number}: a path of one machine"


def code_of(text: str) -> str:
    """Return what stands in code: fenced blocks and backticks."""
    fenced = re.findall(r"^ *```.*?\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    return "\n".join([*fenced, *re.findall(r"`[^`\n]+`", text)])


def texts(root: Path, suffixes: set[str]) -> Iterator[tuple[Path, str]]:
    """Yield the files that belong to the project, tracked or about to be, and their text."""
    command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    for name in listed.stdout.splitlines():
        path = root / name
        if path.suffix in suffixes and path.is_file():
            yield path, path.read_text(encoding="utf-8", errors="replace")


if __name__ == "__main__":
    sys.exit(main())
