"""The entry to the demonstration: what is refused before the start, and what happens at the end."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING

from redis_consumer.errors import MissingExtra, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def run_demo(images: Sequence[Path], output: Path, *, kind: str, keep: bool) -> int:
    """Run jobs of a kind on `images`, or on simulated ones; return 0 if every job is done, 1 if one failed.

    A job of an archive counts as failed where an image of it did, though the others are delivered.  Leaves a zip and
    a picture for each in `output`, and for most kinds a label image.  SettingsError for a file that cannot be taken,
    MissingExtra where the extra `demo` is not installed, ConsumerError if a process died; then the end of its log
    stands on stderr.  Nothing that was started lives when this returns or raises; with `keep` it returns at Ctrl-C.
    """
    check_extra()
    from redis_consumer.demo.kinds import find_kind

    shown = find_kind(kind)
    check_images(images, archives=shown.archives)
    if output.exists() and not output.is_dir():
        raise SettingsError(f"--output is {str(output)!r}: allowed is a folder, or a name for a new one")
    from redis_consumer.demo import flow
    from redis_consumer.demo.display import open_console
    from redis_consumer.demo.signals import Signals
    from redis_consumer.demo.stack import ProcessDied, Stack

    console = open_console()
    output.mkdir(parents=True, exist_ok=True)
    logs = output / "logs" if keep else None
    try:
        with Signals() as signals, Stack(signals, shown.workers, shown.settings, shown.queue, logs=logs) as stack:
            rows = flow.run_jobs(shown, stack, images, output, console)
            flow.report(shown, rows, output, console)
            if keep:
                flow.wait_for_end(stack, rows, console)
    except ProcessDied as error:
        for line in error.log:
            sys.stderr.write(f"    {line}\n")
        raise
    return 0 if all(row.whole for row in rows) else 1


def check_extra() -> None:
    """Refuse to start without the packages of the extra; a server for Redis is looked for where it is started."""
    for package in ("rich", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("The demo", "demo")


def check_images(images: Sequence[Path], *, archives: bool) -> None:
    """Refuse what is no file of the right sort, before anything is started."""
    for image in images:
        if not (image.is_file() and os.access(image, os.R_OK)):
            raise SettingsError(f"IMAGE is {str(image)!r}: allowed is a file that exists and can be read")
        if (image.suffix.lower() == ".zip") != archives:
            wanted = "a .zip of images" if archives else "an image, archives are for `--type zip`"
            raise SettingsError(f"IMAGE is {str(image)!r}: allowed is {wanted}")
