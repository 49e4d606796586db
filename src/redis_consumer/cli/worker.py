"""`run`: the worker as a command."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

from redis_consumer.cli.options import (
    OK,
    add_settings_options,
    given_variables,
    new_command,
    settings_of,
    start_logging,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from redis_consumer.cli.options import Commands
    from redis_consumer.worker import Worker

log = logging.getLogger(__name__)


def add_run(commands: Commands) -> None:
    """Add `run`: the worker."""
    command = new_command(
        commands,
        "run",
        "take jobs from a queue until told to stop",
        """
        The worker.  Configured by the environment, as in a container; SIGTERM or Ctrl-C lets running jobs
        end within DRAIN_SECONDS and hands the others back, a second one hands them back at once.

        examples:
          QUEUE=segmentation CONSUMER_TYPE=segmentation STORAGE_BUCKET=s3://images redis-consumer run
          redis-consumer run --env-file worker.env --set CONCURRENCY=4
        """,
        run,
    )
    add_settings_options(command)


def run(arguments: argparse.Namespace) -> int:
    """Work until a signal."""
    settings = settings_of(arguments)
    from redis_consumer.bootstrap import at_source, build_worker  # a wrong setting is told without its libraries
    from redis_consumer.limits import tune_malloc
    from redis_consumer.processing import kernels
    from redis_consumer.scratch import own_folder

    export(*given_variables(arguments))
    start_logging(settings.log_level)
    tune_malloc()
    worker = build_worker(settings)
    stop_on_signals(worker)
    queue = at_source(settings).queue
    log.info("Takes %s jobs from the queue %r as %r", settings.consumer_type, queue, settings.hostname)
    if not kernels.COMPILED:
        log.warning("The array functions are not compiled, and slower: install the package where there is a C compiler")
    with own_folder():
        worker.run()
    log.info("Stopped")
    return OK


def export(overrides: Mapping[str, str], env_file: Mapping[str, str]) -> None:
    """Put `--set` and the `--env-file` into the environment, for consumers that read variables of their own there.

    As with the settings, `--set` wins over the environment, and that over the file; blank means "not set".
    """
    unset = {name: value for name, value in env_file.items() if not os.environ.get(name, "").strip()}
    os.environ.update(unset | {name: value for name, value in overrides.items() if value.strip()})


def stop_on_signals(worker: Worker) -> None:
    """Drain at the first SIGTERM or SIGINT, hand back at once at the second."""
    seen: list[int] = []

    def stop(number: int, _frame: object) -> None:
        seen.append(number)
        worker.stop(at_once=len(seen) > 1)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
