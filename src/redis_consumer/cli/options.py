"""What the commands share: exit codes, how a command is declared, and where its settings come from."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis_consumer.errors import SettingsError, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_consumer.settings import Settings

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - its type has no public name

OK, FAILED, WRONG_USE = 0, 1, 2
INTERRUPTED = 130


def new_command(
    commands: Commands, name: str, summary: str, text: str, function: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """Add a command; `text` is its help, examples included, laid out as written."""
    command = commands.add_parser(
        name,
        help=summary,
        description=textwrap.dedent(text).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=function, several="")
    return command


def add_settings_options(command: argparse.ArgumentParser) -> None:
    """Add the ways to give settings besides the environment."""
    command.add_argument(
        "--env-file", type=Path, metavar="FILE", help="settings as NAME=VALUE lines; the environment wins"
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides", help="one setting; wins over all"
    )


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return the settings of the environment, an `--env-file` and `--set`."""
    from redis_consumer.settings import Settings

    overrides, env_file = given_variables(arguments)
    return Settings.from_environ(os.environ, overrides=overrides, env_file=env_file)


def given_variables(arguments: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables of `--set` and those of the `--env-file`."""
    from redis_consumer.settings import read_env_file

    overrides = {}
    for text in arguments.overrides:
        name, sign, value = text.partition("=")
        if not sign:
            raise SettingsError(f"--set is {text!r}: allowed is NAME=VALUE")
        overrides[name] = value
    return overrides, read_env_file(arguments.env_file) if arguments.env_file else {}


class OneLine(logging.Formatter):
    """Keeps each message on its line: names come from users, and a line break in one could forge a message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line, what is not printable escaped."""
        line = without_secrets(super().formatMessage(record))
        if line.isprintable():
            return line
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Return the traceback without the secrets of addresses."""
        return without_secrets(super().formatException(ei))


def start_logging(level: str) -> None:
    """Log to stdout, as containers expect: when, how bad, who, what."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(OneLine("%(asctime)s [%(levelname)s]:[%(name)s]: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def say(text: str) -> None:
    """Print a line of the command's output, at once: a script may read it through a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
