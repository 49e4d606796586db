"""`health`: asks the worker of this container how it is, where a probe cannot do so over HTTP."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING

from redis_consumer.cli.options import FAILED, OK, add_settings_options, new_command, say, settings_of
from redis_consumer.errors import SettingsError

if TYPE_CHECKING:
    import argparse

    from redis_consumer.cli.options import Commands

HOST = "127.0.0.1"
ANSWER_SECONDS = 8.0
"""The worker itself waits for others, for less."""


def add_health(commands: Commands) -> None:
    """Add `health`: a probe as a command."""
    command = new_command(
        commands,
        "health",
        "ask the worker on this machine how it is",
        """
        Asks the worker that listens on HEALTH_PORT of this machine, prints what it says, and exits with 0 if
        nothing is wrong, else with 1.  Both questions are asked, or one of them.

        examples:
          HEALTH_PORT=8080 redis-consumer health
          kubectl exec POD -- redis-consumer health --ready
        """,
        health,
    )
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "--live", action="store_const", const=["live"], dest="questions", help="only: do its threads move?"
    )
    which.add_argument(
        "--ready", action="store_const", const=["ready"], dest="questions", help="only: do Redis and the others answer?"
    )
    add_settings_options(command)


def health(arguments: argparse.Namespace) -> int:
    """Ask, and tell by the exit code."""
    port = settings_of(arguments).health_port
    if not port:
        raise SettingsError("HEALTH_PORT is 0: allowed is the port on which the worker answers probes")
    answers = [ask(port, question) for question in arguments.questions or ["live", "ready"]]
    return OK if all(answers) else FAILED


def ask(port: int, question: str) -> bool:
    """Print the answer, a line for each thing that was looked at; return whether all is well."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", f"/{question}")
        response = connection.getresponse()
        looked_at = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        say(f"{question}\tno answer on port {port}: {type(error).__name__}")
        return False
    finally:
        connection.close()
    for name, state in looked_at.items():
        say(f"{question}\t{name}\t{state}")
    return response.status == http.client.OK
