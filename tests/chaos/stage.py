"""One act of chaos: a site, workers and load, hurt round after round; then everything is collected for the checker."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.chaos import aof, uploads
from tests.chaos.blows import Hurt, NotInjected
from tests.chaos.checker import Evidence, Key, Rule, Violation
from tests.chaos.fleet import LANES, LEASE_SECONDS, Fleet
from tests.chaos.history import events
from tests.chaos.ledger import QUEUE, Ledger
from tests.chaos.load import Frontend, OurSubmitter, Pace, Poller
from tests.chaos.results import wrong_results

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.bench import Programs
    from tests.chaos.blows import Blow
    from tests.chaos.faults import Fault
    from tests.chaos.models import Models
    from tests.chaos.plan import Round, Strike
    from tests.chaos.proxy import Loop
    from tests.chaos.servers import Site

BACKLOG = 2 * sum(LANES)
"""Jobs that are open at most: there is always work, and nobody waits long for his turn."""
PER_SECOND = 5.0
JOBS_A_ROUND = 30
"""That come as fast as they can when a round begins, so that every lane has work; beside those that come anyway."""
WARM_JOBS = 10
WARM_SECONDS = 60.0
QUIET_SECONDS = 30.0
"""Without any end in sight for so long, what is open is lost."""


class Struck(NamedTuple):
    """A fault that was injected."""

    fault: Fault
    blow: Blow


@dataclass
class Outcome:
    """What an act left behind."""

    name: str
    asserted: bool
    evidence: Evidence
    struck: list[Struck]
    unclean: list[Violation]
    skipped: list[str] = field(default_factory=list)
    """Faults that found no occasion, and why."""


@dataclass(frozen=True)
class Tools:
    """What all acts share."""

    programs: Programs
    loop: Loop
    models: Models
    s3_log: Any
    say: Callable[[str], None]


class Act:
    """A site under load, from its start to the evidence."""

    def __init__(
        self, name: str, site: Site, tools: Tools, seed: str, *, first_job: int, asserted: bool = True
    ) -> None:
        self.name = name
        self.ledger = Ledger()
        self._asserted = asserted
        self._site = site
        self._tools = tools
        self._fleet = Fleet(name, tools.programs, tools.loop, site, tools.models)
        self._poller = Poller(site, self.ledger)
        rng, store = Random(f"{seed}/{name}/load"), tools.programs.s3
        self.pace = Pace(self.ledger, per_second=PER_SECOND, backlog=BACKLOG, first=first_job)
        self._loads = [kind(site, self.pace, store, self.ledger, rng) for kind in (Frontend, OurSubmitter)]
        self._struck: list[Struck] = []
        self._skipped: list[str] = []
        self._unclean: list[Violation] = []

    def start(self) -> None:
        """Start workers and load, and wait until jobs end."""
        for lanes in LANES:
            self._fleet.start(lanes)
        self._poller.start()
        for load in self._loads:
            load.start()
        deadline = time.monotonic() + WARM_SECONDS
        while len(self.ledger.sights) < WARM_JOBS:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {WARM_JOBS} jobs ended within {WARM_SECONDS:g} s")
            time.sleep(0.05)

    def play(self, strikes: Round, calm_seconds: float) -> None:
        """Inject one round of faults under load; then wait for what was open to end, or for `calm_seconds`."""
        self.pace.grant(JOBS_A_ROUND)
        time.sleep(0.1)
        with ThreadPoolExecutor(len(strikes)) as pool:
            results = list(pool.map(self._strike, strikes))
        blows = [struck for struck in results if struck]
        over = max((struck.blow.over for struck in blows), default=0.0)
        self._struck += [Struck(one.fault, replace(one.blow, over=over)) for one in blows]
        for pod in self._fleet.replace_dead():
            self._unclean.append(Violation(Rule.UNCLEAN, pod, "it ended by itself"))
        self._calm(calm_seconds)
        names = " + ".join(strike.fault.name for strike in strikes)
        ended, still = len(self.ledger.sights), len(self.ledger.open_jobs())
        self._tools.say(f"{self.name}: {names}; {ended} jobs ended, {still} open")

    def end(self) -> Outcome:
        """Stop the load, let everything end, stop the workers in order, and collect."""
        for load in self._loads:
            load.stop()
        while self.ledger.hopeful() and time.monotonic() < self.ledger.moved_at + QUIET_SECONDS:
            time.sleep(0.05)
        for pod in self._fleet.pods():
            self._fleet.drain(pod)
        self._poller.stop()
        self._poller.look(set(self.ledger.entries))
        final, keys = snapshot(self._site.connect())
        self._site.stop()
        histories = [events(aof.read(folder), QUEUE) for folder in self._site.logs()]
        evidence = Evidence(
            entries=dict(self.ledger.entries),
            sights=dict(self.ledger.sights),
            histories=histories,
            final=final,
            uploads=frozenset(uploads.read(self._tools.s3_log)),
            wrong_results=dict(wrong_results(self._tools.programs.s3, final)),
            keys=keys,
            lease_seconds=LEASE_SECONDS,
        )
        unclean = [*self._unclean, *(Violation(Rule.UNCLEAN, "", text) for text in self._fleet.unclean)]
        return Outcome(self.name, self._asserted, evidence, self._struck, unclean, self._skipped)

    def _strike(self, strike: Strike) -> Struck | None:
        hurt = Hurt(self._site, self._fleet, self._tools.models)
        try:
            return Struck(strike.fault, strike.fault.strike(hurt, Random(strike.seed)))
        except NotInjected as error:
            self._skipped.append(f"{strike.fault.name}: {error}")
            return None

    def _calm(self, seconds: float) -> None:
        deadline, before = time.monotonic() + seconds, self.ledger.hopeful()
        while before & self.ledger.hopeful() and time.monotonic() < deadline:
            time.sleep(0.05)


def snapshot(redis: Any) -> tuple[dict[str, dict[str, str]], dict[str, Key]]:
    """Return every job hash, and every other key."""
    names = sorted(redis.scan_iter("*", count=1000))
    jobs = [name for name in names if name.startswith(f"{QUEUE}:")]
    others = [name for name in names if not name.startswith(f"{QUEUE}:")]
    with redis.pipeline(transaction=False) as pipe:
        for name in jobs:
            pipe.hgetall(name)
        final = dict(zip(jobs, pipe.execute(), strict=True))
        for name in others:
            pipe.type(name)
            pipe.memory_usage(name)
            pipe.ttl(name)
        values = pipe.execute()
    kinds = zip(others, values[::3], values[1::3], values[2::3], strict=True)
    return final, {name: Key(kind, length(redis, name, kind), size or 0, ttl) for name, kind, size, ttl in kinds}


def length(redis: Any, name: str, kind: str) -> int:
    """Return how many members a list or a sorted set has."""
    commands = {"list": redis.llen, "zset": redis.zcard}
    return int(commands[kind](name)) if kind in commands else 0
