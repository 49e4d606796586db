"""The commands.  Thin: read the environment and the arguments, call one function, turn errors into exit codes.

What a command needs is imported inside it, so that `--help` and the worker's start stay quick.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from redis_consumer import __version__
from redis_consumer.cli import dead, health, jobs, local, operate, worker
from redis_consumer.cli.options import FAILED, INTERRUPTED, WRONG_USE
from redis_consumer.errors import ConsumerError, MissingExtra, SettingsError, reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 a job failed, 2 wrong arguments or settings."""
    arguments = parsed(argv)
    try:
        code: int = arguments.command(arguments)
    except (SettingsError, MissingExtra) as error:
        complain(str(error))
        return WRONG_USE
    except (ConsumerError, OSError) as error:
        complain(reason_of(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except refused_by_redis() as error:
        complain(reason_of(error))
        return FAILED
    return code


def refused_by_redis() -> type[Exception]:
    """Return what redis-py raises where Redis refuses a command: a key is of another kind, a script failed."""
    from redis import RedisError

    return RedisError


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; files and fields may stand before, between and behind options.

    argparse takes them where they stand together first, and leaves the others over.
    """
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    if rest and (not arguments.several or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        getattr(arguments, arguments.several).extend(rest)
    return arguments


def complain(text: str) -> None:
    """Say what is wrong, each line as the program's."""
    for line in text.splitlines():
        sys.stderr.write(f"redis-consumer: {line}\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="redis-consumer", description="Image-analysis jobs from Redis: predict, post-process, upload."
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    worker.add_run(commands)
    health.add_health(commands)
    jobs.add_submit(commands)
    jobs.add_status(commands)
    operate.add_queues(commands)
    operate.add_workers(commands)
    operate.add_jobs(commands)
    operate.add_cancel(commands)
    operate.add_requeue(commands)
    dead.add_dead(commands)
    operate.add_sweep(commands)
    local.add_demo(commands)
    local.add_serve_models(commands)
    local.add_settings(commands)
    return top
