"""`dead`: the jobs that failed, why, and what to do about them."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
from typing import TYPE_CHECKING

from redis_consumer.cli.operate import add_json, each, opened, who
from redis_consumer.cli.options import FAILED, OK, add_settings_options, new_command, say
from redis_consumer.cli.tables import one_line, show
from redis_consumer.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_consumer.cli.options import Commands
    from redis_consumer.queues.admin import DeadLetter, JobAdmin

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_dead(commands: Commands) -> None:
    """Add `dead list`, `show`, `replay` and `purge`."""
    dead = commands.add_parser(
        "dead",
        help="list, show, replay or purge the jobs that failed",
        description="The jobs that failed: why, and what to do about them.  `dead COMMAND --help` has examples.",
    )
    inner: Commands = dead.add_subparsers(required=True, metavar="COMMAND")
    add_list(inner)
    add_show(inner)
    add_replay(inner)
    add_purge(inner)


def add_list(commands: Commands) -> None:
    """Add `dead list`."""
    command = new_command(
        commands,
        "list",
        "list the jobs that failed, the last ones last",
        """
        examples:
          redis-consumer dead list --since 2h --error StorageUnavailable
          redis-consumer dead list --queue segmentation --text "out of memory" --json
        """,
        list_dead,
    )
    add_filters(command)
    add_json(command)


def list_dead(arguments: argparse.Namespace) -> int:
    """Print dead letters."""
    _, admin = opened(arguments)
    rows = [letter.as_json() | {"job": letter.key, "died": letter.died_at[:19]} for letter in chosen(arguments, admin)]
    show(rows, ("died", "error", "job", "reason"), as_json=arguments.json)
    return OK


def add_show(commands: Commands) -> None:
    """Add `dead show`."""
    command = new_command(
        commands,
        "show",
        "tell the whole story of jobs that failed",
        """
        Why, every delivery (when, by whom, by which version, how it ended), the fields, and the traceback if there is
        one.  Exits with 1 if there is no such dead letter.

        examples:
          redis-consumer dead show segmentation:cells.tif:5f0c2b9e-...
        """,
        show_dead,
    )
    command.add_argument("jobs", nargs="+", metavar="JOB", help="job names, as `dead list` prints them")
    command.set_defaults(several="jobs")
    add_json(command)


def show_dead(arguments: argparse.Namespace) -> int:
    """Print dead letters, whole."""
    _, admin = opened(arguments)
    letters = {job: admin.dead_letter(job) for job in arguments.jobs}
    if arguments.json:
        say(json.dumps([letter.as_json() for letter in letters.values() if letter], indent=2))
    else:
        for job, letter in letters.items():
            say(story(letter) if letter else f"{one_line(job)}\tno such dead letter")
    return OK if all(letters.values()) else FAILED


def story(letter: DeadLetter) -> str:
    """Return a dead letter as a person reads it."""
    lines = [
        letter.key,
        f"  failed     {letter.died_at}",
        f"  error      {letter.error}",
        f"  reason     {letter.reason}",
    ]
    lines += [
        f"  delivery   {one.at} by {one.by}, {one.version}: {one.how or 'no word'} {one.ended_at}".rstrip()
        for one in letter.deliveries
    ]
    lines += [f"  field      {name} = {value!r}" for name, value in sorted(letter.fields.items())]
    lines += [f"  {line}" for line in letter.traceback.splitlines()]
    return "\n".join(map(one_line, lines))


def add_replay(commands: Commands) -> None:
    """Add `dead replay`."""
    command = new_command(
        commands,
        "replay",
        "put jobs that failed back into their queues, under their names",
        """
        Each is as new, also where its hash has expired.  Exits with 1 if one is not among the dead letters.

        examples:
          redis-consumer dead replay segmentation:cells.tif:5f0c2b9e-...
          redis-consumer dead replay --error StorageUnavailable --since 1d
        """,
        replay,
    )
    add_choice(command)


def replay(arguments: argparse.Namespace) -> int:
    """Replay dead letters."""
    settings, admin = opened(arguments)
    return each(names(arguments, admin), lambda job: admin.replay(job, by=who(settings)), good="replayed")


def add_purge(commands: Commands) -> None:
    """Add `dead purge`."""
    command = new_command(
        commands,
        "purge",
        "forget jobs that failed",
        """
        Their hashes stay as they are.  Exits with 1 if one is not among the dead letters.

        examples:
          redis-consumer dead purge --queue segmentation --before 30d
          redis-consumer dead purge --all
        """,
        purge,
    )
    add_choice(command)


def purge(arguments: argparse.Namespace) -> int:
    """Purge dead letters."""
    _, admin = opened(arguments)
    jobs = names(arguments, admin)
    return each(jobs, lambda job: "purged" if admin.purge([job]) else "unknown", good="purged")


# Which ones.


def add_choice(command: argparse.ArgumentParser) -> None:
    """Add the ways to say which dead letters are meant."""
    command.add_argument("jobs", nargs="*", metavar="JOB", help="job names, as `dead list` prints them")
    command.set_defaults(several="jobs")
    command.add_argument("--all", action="store_true", help="every one")
    add_filters(command)
    add_settings_options(command)


def add_filters(command: argparse.ArgumentParser) -> None:
    """Add filters, all of which must hold."""
    command.add_argument("--queue", help="of this queue")
    command.add_argument("--error", metavar="CLASS", help="with this error class, as `dead list` prints it")
    command.add_argument("--since", metavar="WHEN", type=moment, help="that failed after: 30m, 12h, 7d, or a time")
    command.add_argument("--before", metavar="WHEN", type=moment, help="that failed before: 30m, 12h, 7d, or a time")
    command.add_argument("--text", help="with this text in the name or the reason")


def moment(text: str) -> str:
    """Return a time span before now, or a time (ISO 8601), as it is written in dead letters; UTC without an offset."""
    try:
        if found := re.fullmatch(r"(\d{1,9})([smhd])", text):
            when = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=int(found[1]) * UNITS[found[2]])
        else:
            when = dt.datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=dt.UTC)).astimezone(dt.UTC).isoformat()
    except (ValueError, OverflowError):  # before the year 1, or after 9999
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are 90s, 30m, 12h, 7d, or 2026-01-31T12:00") from None


def names(arguments: argparse.Namespace, admin: JobAdmin) -> list[str]:
    """Return the jobs that are named, or chosen by filters."""
    filters = [arguments.queue, arguments.error, arguments.since, arguments.before, arguments.text]
    if arguments.jobs and (arguments.all or any(filters)):
        raise SettingsError("JOB is given and a filter too: allowed is one way to say which jobs are meant")
    if arguments.jobs:
        return list(arguments.jobs)
    if not (arguments.all or any(filters)):
        raise SettingsError("no JOB is given: expected is one, a filter, or --all")
    return [letter.key for letter in chosen(arguments, admin)]


def chosen(arguments: argparse.Namespace, admin: JobAdmin) -> list[DeadLetter]:
    """Return the dead letters that pass the filters, the oldest first."""
    conditions: dict[str, Callable[[DeadLetter], bool]] = {
        "queue": lambda letter: letter.queue == arguments.queue,
        "error": lambda letter: letter.error == arguments.error,
        "since": lambda letter: letter.died_at >= arguments.since,
        "before": lambda letter: letter.died_at < arguments.before,
        "text": lambda letter: arguments.text in letter.key or arguments.text in letter.reason,
    }
    wanted = [condition for name, condition in conditions.items() if getattr(arguments, name)]
    found = [letter for letter in admin.dead_letters() if all(condition(letter) for condition in wanted)]
    return sorted(found, key=lambda letter: letter.died_at)
