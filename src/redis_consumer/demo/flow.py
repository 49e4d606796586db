"""The demonstration's flow, once the processes run: submit, watch, unpack, show."""

from __future__ import annotations

import shlex
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from redis_consumer.bootstrap import build_client
from redis_consumer.demo.display import Board, Row, results_table
from redis_consumer.demo.outputs import Outputs, Picture, count, drawn, named, unpack
from redis_consumer.demo.score import score
from redis_consumer.demo.simulation.nuclei import builtin_fields
from redis_consumer.demo.stack import QUEUE
from redis_consumer.errors import ConsumerError
from redis_consumer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from redis_consumer.client import Client
    from redis_consumer.demo.stack import Stack

SILENCE_SECONDS = 180.0
"""Longer than one request to the model server may take: who says nothing for so long hangs."""
ALIVE_SECONDS = 0.5
"""How often `--keep` looks whether everything lives."""
TO_CONNECT = ("REDIS_HOST", "REDIS_PORT", "TF_HOST", "TF_PORT", "STORAGE_BUCKET", "QUEUE")


def find_nuclei(stack: Stack, images: Sequence[Path], output: Path, console: Console) -> list[Row]:
    """Have the worker do every image; return what became of each, in order."""
    console.print("Redis, a model server and a worker are running, each a process of its own.")
    pictures = pictures_of(images, output, console)
    client = build_client(Settings.from_environ(stack.environ))
    try:
        jobs = {client.submit(picture.path, QUEUE): picture for picture in pictures}
        board = Board(console, {key: picture.name for key, picture in jobs.items()})
        with board.shown():
            ended = client.wait(jobs, on_look=Watch(stack, board).look)
    except ConsumerError:
        stack.check()  # a process that died explains it better
        raise
    return [unpacked(client, picture, ended[key], output, stack.folder) for key, picture in jobs.items()]


def pictures_of(images: Sequence[Path], output: Path, console: Console) -> list[Picture]:
    """Return the images that were given, or draw some."""
    if images:
        return named(images, output)
    console.print(f"No image is given: drawing simulated fields of view into {output / 'input'}")
    return drawn(builtin_fields(), output / "input")


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


def unpacked(client: Client, picture: Picture, fields: Mapping[str, str], output: Path, scratch: Path) -> Row:
    """Fetch the result of one job, if there is one, and unpack it under the image's own name."""
    row = Row(picture.name, picture.path, fields)
    if not row.done:
        return row
    outputs = Outputs.of(output, picture.name)
    # By way of a folder of ours: an older result of the same name is replaced, not numbered.
    shutil.move(client.fetch(fields, scratch / "results"), outputs.zip)
    labels = unpack(outputs, picture.path)
    found = None if picture.truth is None else score(labels[0], picture.truth)
    size = " x ".join(map(str, labels.shape if len(labels) > 1 else labels.shape[1:]))
    return Row(picture.name, picture.path, fields, size, count(labels), found, outputs.zip)


def report(rows: Sequence[Row], output: Path, console: Console) -> None:
    """Print the table, and where to look."""
    console.print()
    console.print(results_table(rows))
    console.print(f"Beside each zip in {output}: the outlines as *_overlay.png, the label image as *_labels.tif")


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
