"""`submit` and `status`: jobs as their submitter sees them."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from redis_consumer.cli.options import (
    FAILED,
    OK,
    add_settings_options,
    new_command,
    say,
    settings_of,
)
from redis_consumer.errors import ConsumerError, SettingsError
from redis_consumer.job import Status

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from redis_consumer.cli.options import Commands

SHOWN = ("status", "progress", "reason", "output_url", "created_at", "finished_at", "total_time")
"""The fields of a job that are worth a look, where they are there."""
STORED = "input_file_name"
"""The field that names what is in the bucket already."""


def add_submit(commands: Commands) -> None:
    """Add `submit`: bring images and push their jobs."""
    command = new_command(
        commands,
        "submit",
        "upload images and push a job for each",
        """
        Prints each job's name.  With --wait it waits for the jobs and exits with 1 if one failed; with --output
        it also downloads the results.

        examples:
          redis-consumer submit cells.tif --queue segmentation
          redis-consumer submit *.tif --queue segmentation --output results scale=0.5
          redis-consumer submit a.png --queue image --wait --json model_name=NuclearSegmentation model_version=6
          redis-consumer submit input_file_name=uploads/slide.zarr --queue mesmer    (is in the bucket already)
        """,
        submit,
    )
    command.add_argument("what", nargs="+", metavar="FILE | field=value", help="images, and fields of their jobs")
    command.set_defaults(several="what")
    command.add_argument("--queue", help="the queue to push to (default: the setting QUEUE)")
    command.add_argument("--wait", action="store_true", help="wait until every job is done or failed")
    command.add_argument("--output", metavar="DIR", type=Path, help="download the results there; waits")
    command.add_argument("--timeout", metavar="SECONDS", type=float, help="wait no longer than this")
    command.add_argument("--json", action="store_true", help="print a list of objects")
    add_settings_options(command)


def submit(arguments: argparse.Namespace) -> int:
    """Push a job for each file, or for what is in the bucket; wait and fetch where asked."""
    from redis_consumer.bootstrap import build_client

    files, fields = files_and_fields(arguments.what)
    settings = settings_of(arguments)
    client, queue = build_client(settings), arguments.queue or settings.queue
    pushes = [partial(client.submit, file, queue, fields) for file in files]
    if not files:
        pushes = [partial(client.submit_stored, fields[STORED], queue, fields)]
    jobs: list[str] = []
    waits = arguments.wait or arguments.output
    try:
        for push in pushes:
            jobs.append(push())  # noqa: PERF401 - it may raise
    finally:
        # Also when a later one cannot be submitted: these are on their way.
        if not waits or len(jobs) < len(pushes):
            print_jobs([{"job": job} for job in jobs], as_json=arguments.json)
    if not waits:
        return OK
    try:
        ended = client.wait(jobs, timeout=arguments.timeout)
    except TimeoutError as error:
        raise ConsumerError(str(error)) from None
    shown = []
    for job in jobs:
        row = {"job": job, **{name: ended[job][name] for name in SHOWN if name in ended[job]}}
        if arguments.output and row["status"] == Status.DONE:
            row["file"] = str(client.fetch(ended[job], arguments.output))
        shown.append(row)
    print_jobs(shown, as_json=arguments.json)
    return OK if all(row["status"] == Status.DONE for row in shown) else FAILED


def files_and_fields(words: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Tell files from ``field=value``: a file that exists is a file, whatever its name."""
    files, fields = [], {}
    for word in words:
        name, sign, value = word.partition("=")
        if Path(word).is_file():
            files.append(Path(word))
        elif sign and re.fullmatch(r"[a-z_]+", name):
            fields[name] = value
        else:
            raise SettingsError(f"{word!r} is neither a file nor field=value")
    if not files and STORED not in fields:
        raise SettingsError(f"no FILE is given: expected is at least one image, or {STORED}=KEY for one in the bucket")
    return files, fields


def add_status(commands: Commands) -> None:
    """Add `status`: what became of jobs."""
    command = new_command(
        commands,
        "status",
        "show what became of jobs",
        """
        Exits with 1 if a job failed or is not there.

        examples:
          redis-consumer status segmentation:cells.tif:5f0c2b9e-...
          redis-consumer status JOB --json
        """,
        status,
    )
    command.add_argument("jobs", nargs="+", metavar="JOB", help="job names, as `submit` prints them")
    command.set_defaults(several="jobs")
    command.add_argument("--json", action="store_true", help="print a list of objects with every field")
    add_settings_options(command)


def status(arguments: argparse.Namespace) -> int:
    """Print jobs."""
    from redis_consumer.bootstrap import build_client

    client = build_client(settings_of(arguments))
    found = {job: client.read(job) for job in arguments.jobs}
    rows = []
    for job, fields in found.items():
        chosen = fields if arguments.json else {name: fields[name] for name in SHOWN if fields.get(name)}
        rows.append({"job": job, **(chosen or {"status": "missing", "reason": "there is no such job"})})
    print_jobs(rows, as_json=arguments.json)
    good = all(fields and fields.get("status") != Status.FAILED for fields in found.values())
    return OK if good else FAILED


def print_jobs(rows: Sequence[Mapping[str, str]], *, as_json: bool) -> None:
    """Print jobs: for people one line each with its result or reason, or as JSON."""
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    for row in rows:
        end = next((row[name] for name in ("file", "reason", "output_url") if row.get(name)), "")
        say("\t".join(part for part in (row["job"], row.get("status", ""), end) if part))
