"""`queues`, `workers`, `jobs`, `cancel`, `requeue`, `sweep`: what an operator looks at and does."""

from __future__ import annotations

import argparse
import getpass
import re
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from redis_consumer.cli.options import FAILED, OK, add_settings_options, new_command, say, settings_of
from redis_consumer.cli.tables import duration, one_line, show
from redis_consumer.queues.depth import age_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis_consumer.cli.options import Commands
    from redis_consumer.queues.admin import JobAdmin, JobState
    from redis_consumer.settings import Settings

PLACES = ("running", "parked", "waiting", "failed")
MOST_JOBS = 100


def add_queues(commands: Commands) -> None:
    """Add `queues`: how much stands where."""
    command = new_command(
        commands,
        "queues",
        "show the queues: what waits, runs, stands aside, failed",
        """
        PARKED are delayed retries, and parents that wait for their children.  DEAD are the dead letters.

        examples:
          redis-consumer queues
          redis-consumer queues --json
        """,
        queues,
    )
    add_json(command)


def queues(arguments: argparse.Namespace) -> int:
    """Print the queues."""
    _, admin = opened(arguments)
    rows = [asdict(state) | {"oldest": duration(state.oldest_seconds)} for state in admin.queues()]
    show(rows, ("queue", "waiting", "running", "parked", "dead", "oldest"), as_json=arguments.json)
    return OK


def add_workers(commands: Commands) -> None:
    """Add `workers`: what each lane does."""
    command = new_command(
        commands,
        "workers",
        "show every lane: its job, the stage that is in and since when",
        """
        A lane is shown while it gives signs of life or holds a job.  SEEN is its last sign of life.

        examples:
          redis-consumer workers
          redis-consumer workers --json
        """,
        workers,
    )
    add_json(command)


def workers(arguments: argparse.Namespace) -> int:
    """Print the lanes."""
    _, admin = opened(arguments)
    now = time.time()
    rows = [
        asdict(lane)
        | {
            "host": lane.pod,
            "status": lane.status or "idle",
            "since": duration(now - lane.since) if lane.since else "",
            "seen": duration(now - lane.seen_at) if lane.seen_at else "",
        }
        for lane in admin.lanes()
    ]
    show(rows, ("queue", "host", "lane", "status", "since", "seen", "deliveries", "job"), as_json=arguments.json)
    return OK


def add_jobs(commands: Commands) -> None:
    """Add `jobs`: which jobs stand where."""
    command = new_command(
        commands,
        "jobs",
        "show the jobs of the queues, by where they stand",
        """
        Of those that wait, the ones that are next; of those that failed, the last ones.

        examples:
          redis-consumer jobs
          redis-consumer jobs --queue segmentation --place running --json
        """,
        jobs,
    )
    command.add_argument("--queue", help="only this one")
    command.add_argument("--place", choices=PLACES, help="only these")
    command.add_argument(
        "--limit",
        metavar="N",
        type=count,
        default=MOST_JOBS,
        help="at most so many for each queue and place (default: %(default)s)",
    )
    add_json(command)


def jobs(arguments: argparse.Namespace) -> int:
    """Print the jobs."""
    _, admin = opened(arguments)
    names = [arguments.queue] if arguments.queue else [state.queue for state in admin.queues()]
    places = [arguments.place] if arguments.place else PLACES
    found = [job for place in places for job in admin.find(names, place, limit=arguments.limit)]
    found.sort(key=lambda job: job.queue)
    show([row(job) for job in found], ("place", "status", "age", "job", "reason"), as_json=arguments.json)
    return OK


def count(text: str) -> int:
    """Return a whole number from 1."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number from 1")
    return int(text)


def row(job: JobState) -> dict[str, object]:
    """Return what is shown of a job."""
    return {
        "job": job.key,
        "queue": job.queue,
        "place": job.place,
        "status": job.fields.get("status") or "missing",
        "age": duration(age_seconds(job.fields.get("created_at", ""))),
        "reason": job.fields.get("reason", "") if job.place == "failed" else "",
        "fields": job.fields,
    }


def add_cancel(commands: Commands) -> None:
    """Add `cancel`: end jobs that nobody wants any more."""
    command = new_command(
        commands,
        "cancel",
        "make jobs failed, at once and with their children",
        """
        Prints each job that was open, children included.  Whoever works on one drops it at the next heartbeat.
        Exits with 1 if a job was final already, or is not there.

        examples:
          redis-consumer cancel segmentation:cells.tif:5f0c2b9e-...
        """,
        cancel,
    )
    add_job_names(command)


def cancel(arguments: argparse.Namespace) -> int:
    """Cancel jobs."""
    settings, admin = opened(arguments)
    answers = []
    for job in arguments.jobs:
        cancelled = admin.cancel(job, by=who(settings))
        for key in cancelled or [job]:
            say(f"{one_line(key)}\t{'cancelled' if cancelled else 'not open'}")
        answers.append(bool(cancelled))
    return OK if all(answers) else FAILED


def add_requeue(commands: Commands) -> None:
    """Add `requeue`: take jobs away from whoever has them."""
    command = new_command(
        commands,
        "requeue",
        "put open jobs to the front of their queue, wherever they stand",
        """
        Whoever works on one loses it, and its deliveries are forgotten.  For failed jobs there is `dead replay`.
        Exits with 1 if a job is final, or not there.

        examples:
          redis-consumer requeue segmentation:cells.tif:5f0c2b9e-...
        """,
        requeue,
    )
    add_job_names(command)


def requeue(arguments: argparse.Namespace) -> int:
    """Requeue jobs."""
    settings, admin = opened(arguments)
    return each(arguments.jobs, lambda job: admin.requeue(job, by=who(settings)), good="requeued")


def add_sweep(commands: Commands) -> None:
    """Add `sweep`: what every worker does by itself."""
    command = new_command(
        commands,
        "sweep",
        "bring back the jobs of workers that died, once",
        """
        Every worker does so by itself, all the time; this is for when none runs.  LEASE_SECONDS must be that of the
        workers.  If Redis has just started, it waits until living workers had time to speak.  Prints how many jobs went
        back.

        examples:
          redis-consumer sweep
        """,
        sweep,
    )
    add_settings_options(command)


def sweep(arguments: argparse.Namespace) -> int:
    """Sweep once."""
    from redis_consumer.bootstrap import build_sweeper

    say(str(build_sweeper(settings_of(arguments)).sweep_now()))
    return OK


def opened(arguments: argparse.Namespace) -> tuple[Settings, JobAdmin]:
    """Return the settings, and what operates the queues of their Redis."""
    from redis_consumer.bootstrap import build_admin

    settings = settings_of(arguments)
    return settings, build_admin(settings)


def add_json(command: argparse.ArgumentParser) -> None:
    """Add `--json` and the ways to give settings."""
    command.add_argument("--json", action="store_true", help="print a list of objects")
    add_settings_options(command)


def add_job_names(command: argparse.ArgumentParser) -> None:
    """Add the names of jobs and the ways to give settings."""
    command.add_argument("jobs", nargs="+", metavar="JOB", help="job names, as `submit` and `jobs` print them")
    command.set_defaults(several="jobs")
    add_settings_options(command)


def each(jobs: Sequence[str], act: Callable[[str], str], *, good: str) -> int:
    """Do something to each job and print what came of it, before the next; OK if all went well."""
    answers = []
    for job in jobs:
        answers.append(answer := act(job))
        say(f"{one_line(job)}\t{answer}")
    return OK if all(answer == good for answer in answers) else FAILED


def who(settings: Settings) -> str:
    """Return who we are, as others will read it."""
    try:
        return f"{getpass.getuser()} on {settings.hostname}"
    except (KeyError, OSError):  # a container's user without a name
        return settings.hostname
