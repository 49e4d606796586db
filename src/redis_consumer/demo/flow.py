"""The demonstration's flow, once the processes run: submit, watch, unpack, show."""

from __future__ import annotations

import shlex
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from redis_consumer.bootstrap import build_client
from redis_consumer.demo.display import Board, Row, failure_lines, results_table
from redis_consumer.demo.kinds.base import Outputs
from redis_consumer.demo.outputs import named
from redis_consumer.errors import ConsumerError
from redis_consumer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from redis_consumer.client import Client
    from redis_consumer.demo.kinds.base import Kind, Sample
    from redis_consumer.demo.stack import Stack

SILENCE_SECONDS = 180.0
"""Longer than one request to the model server may take: who says nothing for so long hangs."""
ALIVE_SECONDS = 0.5
"""How often `--keep` looks whether everything lives."""
TO_CONNECT = ("REDIS_HOST", "REDIS_PORT", "TF_HOST", "TF_PORT", "STORAGE_BUCKET", "QUEUE")


def run_jobs(kind: Kind[Any], stack: Stack, images: Sequence[Path], output: Path, console: Console) -> list[Row]:
    """Have the workers do every image; return what became of each, in order."""
    workers = "a worker" if len(kind.workers) == 1 else f"{len(kind.workers)} workers"
    console.print(f"Redis, a model server and {workers} are running, each a process of its own.")
    samples = samples_of(kind, images, output, console)
    client = build_client(Settings.from_environ(stack.environ))
    try:
        jobs = {client.submit(sample.path, kind.queue, kind.fields): sample for sample in samples}
        board = Board(console, {key: sample.name for key, sample in jobs.items()})
        with board.shown():
            ended = client.wait(jobs, on_look=Watch(stack, board).look)
    except ConsumerError:
        stack.check()  # a process that died explains it better
        raise
    return [unpacked(kind, client, sample, ended[key], output, stack.folder) for key, sample in jobs.items()]


def samples_of(kind: Kind[Any], images: Sequence[Path], output: Path, console: Console) -> list[Sample[Any]]:
    """Return the images that were given, or draw some."""
    if images:
        return named(images, output)
    console.print(f"No image is given: drawing simulated ones into {output / 'input'}")
    return kind.draw(output / "input")


class Watch:
    """Looks on while jobs run: shows news, and does not wait for ever."""

    def __init__(self, stack: Stack, board: Board) -> None:
        self._stack = stack
        self._board = board
        self._news_at = time.monotonic()

    def look(self, key: str, fields: Mapping[str, str]) -> None:
        """Take a look at one job; ConsumerError if a process died, or if no job has had news for too long."""
        self._stack.check()
        now = time.monotonic()
        if self._board.look(key, fields):
            self._news_at = now
        elif now - self._news_at > SILENCE_SECONDS:
            raise ConsumerError(f"No news of any job for {SILENCE_SECONDS:g} s, the last is {fields.get('status')!r}")


def unpacked(
    kind: Kind[Any], client: Client, sample: Sample[Any], fields: Mapping[str, str], output: Path, scratch: Path
) -> Row:
    """Fetch the result of one job, if there is one, and show it under the sample's own name."""
    row = Row(sample.name, sample.path, fields)
    if not row.done:
        return row
    outputs = Outputs.of(output, sample.name)
    # By way of a folder of ours: an older result of the same name is replaced, not numbered.
    shutil.move(client.fetch(fields, scratch / "results"), outputs.zip)
    return replace(row, found=kind.show(outputs, sample), result=outputs.zip)


def report(kind: Kind[Any], rows: Sequence[Row], output: Path, console: Console) -> None:
    """Print the table, what is missing in archives, and where to look."""
    console.print()
    console.print(results_table(rows, kind.objects))
    for line in chain.from_iterable(map(failure_lines, rows)):
        console.print(line)
    console.print(f"Beside each zip in {output}: {kind.beside}")


def wait_for_end(stack: Stack, rows: Sequence[Row], console: Console) -> None:
    """Print how to connect, and return at Ctrl-C."""
    console.print("\nEverything is left running.  To connect from another terminal:")
    for name in TO_CONNECT:
        console.print(f"  export {name}={shlex.quote(stack.environ[name])}", soft_wrap=True)
    example = shlex.join(["redis-consumer", "submit", str(rows[0].image), "--output", "results"])
    console.print(f"  {example}", soft_wrap=True)
    console.print(f"Logs are in {stack.logs}.  Ctrl-C ends everything.", soft_wrap=True)
    with suppress(KeyboardInterrupt):
        while True:
            stack.check()
            time.sleep(ALIVE_SECONDS)
