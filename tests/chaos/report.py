"""What came out: a row for each fault, totals, and the story of each job that a rule was broken for."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.checker import Rule, Violation, violations
from tests.chaos.history import Kind, by_job
from tests.chaos.recovery import hit, holds, lives, recovery

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tests.chaos.history import Event
    from tests.chaos.stage import Outcome, Struck

SLOW_SECONDS = 20.0
"""Whose job takes longer, with faults of a few seconds, is told: nothing is broken, but somebody waited."""
AFTERMATH_SECONDS = 10.0
"""A job that lived so soon after a fault may have suffered from it."""
COUNTS = {"lost": Rule.LOST, "written_twice": Rule.TWICE, "ghosts": Rule.GHOST, "failed_wrongly": Rule.WRONG}
HEADS = ("fault", "times", "jobs", "lost", "twice", "ghosts", "wrong", "median s", "worst s")


@dataclass
class Row:
    """All injections of one fault on one site."""

    site: str
    fault: str
    asserted: bool
    times: int = 0
    jobs: int = 0
    """That the fault hit."""
    lost: int = 0
    written_twice: int = 0
    ghosts: int = 0
    failed_wrongly: int = 0
    recoveries_s: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float | None:
        """Return the recovery time in the middle; None if the fault hit no job."""
        return round(statistics.median(self.recoveries_s), 3) if self.recoveries_s else None

    @property
    def worst_s(self) -> float | None:
        """Return the longest recovery time; infinite if a job never came back."""
        return round(max(self.recoveries_s), 3) if self.recoveries_s else None


@dataclass
class Verdict:
    """One act, judged."""

    outcome: Outcome
    rows: list[Row]
    broken: list[Violation]
    stories: Mapping[str, Sequence[Event]]

    @property
    def jobs(self) -> int:
        """Return how many jobs were submitted and acknowledged."""
        return sum(entry.acknowledged for entry in self.outcome.evidence.entries.values())


def slowest(verdict: Verdict) -> tuple[float, str]:
    """Return the longest time from a job's submit to its end, and whose it was; 0 without any."""
    spans = {job: span for job, span in lives(verdict.stories).items() if span[1] < float("inf")}
    return max(((round(end - begin, 3), job) for job, (begin, end) in spans.items()), default=(0.0, ""))


def judge(outcome: Outcome) -> Verdict:
    """Check everything, and tell which fault each broken rule may be due to."""
    stories = merged(outcome.evidence.histories)
    # A push that nobody acknowledged may be undone by a failover: nobody waits for that job.
    relied_on = {job for job, entry in outcome.evidence.entries.items() if entry.acknowledged}
    relied_on |= outcome.evidence.final.keys()
    every = [hold for hold in holds(stories) if hold.job in relied_on]
    hits = [hit(struck.blow, every) for struck in outcome.struck]
    broken = [
        *violations(outcome.evidence),
        *counted(stories, outcome.struck, hits),
        *outcome.unclean,
    ]
    rows: dict[str, Row] = {}
    submitted = {job: (entry.at, entry.at) for job, entry in outcome.evidence.entries.items()}
    spans = submitted | lives(stories)
    for struck, jobs in zip(outcome.struck, hits, strict=True):
        row = rows.setdefault(struck.fault.name, Row(outcome.name, struck.fault.name, outcome.asserted))
        row.times += 1
        row.jobs += len(jobs)
        seconds = recovery(struck.blow, jobs, stories)
        if seconds is not None:
            row.recoveries_s.append(seconds)
    for violation in broken:
        for name in suspects(violation.job, outcome.struck, hits, spans):
            add(rows[name], violation.rule)
    return Verdict(outcome, list(rows.values()), broken, stories)


def merged(histories: Iterable[Sequence[Event]]) -> dict[str, list[Event]]:
    """Return each job's story over all histories, by time: what replicas repeat stands there twice."""
    stories = by_job(event for history in histories for event in history if event.kind is not Kind.LOADED)
    return {job: sorted(story, key=lambda event: event.at) for job, story in stories.items()}


def counted(
    stories: Mapping[str, Sequence[Event]], struck: Sequence[Struck], hits: Sequence[set[str]]
) -> Iterator[Violation]:
    """Yield jobs that were only ever hit by orderly ends of workers, and for which more than one delivery counts."""
    drained = {job for one, jobs in zip(struck, hits, strict=True) if one.fault.drains for job in jobs}
    others = {job for one, jobs in zip(struck, hits, strict=True) if not one.fault.drains for job in jobs}
    for job in sorted(drained - others):
        claims = [event for event in stories[job] if event.kind is Kind.CLAIMED]
        if claims and int(claims[-1].fields["deliveries"]) > 1:
            yield Violation(Rule.COUNTED, job, f"{claims[-1].fields['deliveries']} deliveries, and only drains")


def suspects(
    job: str,
    struck: Sequence[Struck],
    hits: Sequence[set[str]],
    spans: Mapping[str, tuple[float, float]],
) -> set[str]:
    """Return the faults that hit a job, or else that came while it lived, or shortly before."""
    direct = {one.fault.name for one, jobs in zip(struck, hits, strict=True) if job in jobs}
    first, last = spans.get(job, (0.0, 0.0))
    near = {s.fault.name for s in struck if s.blow.began <= last and first <= s.blow.over + AFTERMATH_SECONDS}
    return direct or near


def add(row: Row, rule: Rule) -> None:
    """Count a broken rule in a fault's row."""
    for name, counts in COUNTS.items():
        if counts is rule:
            setattr(row, name, getattr(row, name) + 1)


def totals(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Return how often each of the four main rules was broken, each job counted once."""
    broken = {(violation.rule, violation.job) for verdict in verdicts for violation in verdict.broken}
    count = Counter(rule for rule, _ in broken)
    return {name: count[rule] for name, rule in COUNTS.items()}


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the rows as text, columns aligned."""
    lines = [list(HEADS)]
    for verdict in verdicts:
        lines += [cells(row) for row in sorted(verdict.rows, key=lambda row: row.fault)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    return "\n".join(aligned(line, widths) for line in lines)


def cells(row: Row) -> list[str]:
    """Return a row as text."""
    name = f"{row.site}: {row.fault}{'' if row.asserted else ' (reported only)'}"
    numbers = (row.times, row.jobs, row.lost, row.written_twice, row.ghosts, row.failed_wrongly)
    return [name, *map(str, numbers), told(row.median_s), told(row.worst_s)]


def aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    """Return a line of the table: words to the left, numbers to the right."""
    first, *numbers = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
    return "  ".join([first.strip().ljust(widths[0]), *numbers])


def told(seconds: float | None) -> str:
    """Return a recovery time as a cell."""
    return "-" if seconds is None else "never" if seconds == float("inf") else f"{seconds:.1f}"


def stories(verdict: Verdict, most: int = 5) -> str:
    """Return the broken rules of an act, the first ones with all that the servers' logs say about the job.

    So is the story of the job that took longest, if it took long.
    """
    lines: list[str] = []
    shown: set[str] = set()
    for number, violation in enumerate(verdict.broken):
        if number == most and not verdict.outcome.asserted:
            lines.append(f"{verdict.outcome.name}: {len(verdict.broken) - most} more like these, none of them asserted")
            break
        lines.append(f"{verdict.outcome.name}: {violation.rule}: {violation.job}: {violation.text}")
        if len(shown) < most and violation.job not in shown:
            shown.add(violation.job)
            lines += [f"    {event}" for event in verdict.stories.get(violation.job, ())]
    seconds, job = slowest(verdict)
    if seconds > SLOW_SECONDS:
        lines.append(f"{verdict.outcome.name}: the slowest job took {seconds:.1f} s: {job}")
        lines += [f"    {event}" for event in verdict.stories[job] if event.kind is not Kind.RENEWED]
    return "\n".join(lines)


def as_json(verdicts: Sequence[Verdict], **more: object) -> dict[str, object]:
    """Return the result for a file: totals of what is asserted, and every row."""
    asserted = [verdict for verdict in verdicts if verdict.outcome.asserted]
    worst = [row.worst_s for verdict in asserted for row in verdict.rows if row.worst_s is not None]
    return {
        "jobs": sum(verdict.jobs for verdict in verdicts),
        "faults": sum(row.times for verdict in verdicts for row in verdict.rows),
        **totals(asserted),
        "worst_recovery_s": max(worst, default=None),
        "slowest_job_s": max((slowest(verdict)[0] for verdict in asserted), default=None),
        "reported_only": totals(verdict for verdict in verdicts if not verdict.outcome.asserted),
        **more,
        "rows": [
            {**asdict(row), "median_s": row.median_s, "worst_s": row.worst_s}
            for verdict in verdicts
            for row in verdict.rows
        ],
        "broken": [
            {"site": verdict.outcome.name, "rule": str(one.rule), "job": one.job, "text": one.text}
            for verdict in verdicts
            for one in verdict.broken
        ],
        "skipped": [text for verdict in verdicts for text in verdict.outcome.skipped],
    }
