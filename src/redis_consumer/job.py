"""The nouns of a job: what everybody else talks about.  Knows neither Redis nor images."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from redis_consumer.errors import JobRejected

if TYPE_CHECKING:
    from collections.abc import Mapping


class Status(StrEnum):
    """The `status` field of a job.  Readers know `done` and `failed`; any other word means "in progress"."""

    NEW = "new"
    """Submitted, or handed back by a worker that stopped; nobody works on it."""
    STARTED = "started"
    """Claimed by a lane."""
    WAITING = "waiting"
    """A parent whose children run."""
    PRE_PROCESSING = "pre-processing"
    """The image is there and is being prepared for the model."""
    PREDICTING = "predicting"
    """Tensors are at the model server, or wait for it."""
    POST_PROCESSING = "post-processing"
    """Predictions are being turned into labels, tracks or spots."""
    SAVING_RESULTS = "saving-results"
    """The archive is written and uploaded."""
    DONE = "done"
    """Final: the result stands at `output_url`."""
    FAILED = "failed"
    """Final: `reason` says why."""


FINAL: frozenset[str] = frozenset({Status.DONE, Status.FAILED})
"""The statuses after which nobody writes to a job any more."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job as a lane holds it: its hash as read at the claim, and the proof that we may write to it."""

    key: str
    """Name of the job's hash, e.g. ``segmentation:cells.tif:5f0c...``."""
    queue: str
    """The queue it was claimed from."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """The hash at the time of the claim."""
    token: str = ""
    """Random, unique to this claim: the fence against ghosts."""
    deliveries: int = 1
    """How many claims this one makes, faults included; drained and parked ones taken back."""

    def get(self, name: str, default: str = "") -> str:
        """Return the field, stripped; `default` where it is missing or blank."""
        return self.fields.get(name, "").strip() or default

    def require(self, name: str) -> str:
        """Return the field, stripped; JobRejected where it is missing or blank."""
        value = self.get(name)
        if not value:
            raise JobRejected(f"The field {name!r} is missing or blank")
        return value


LAST_VERSION = 2**63 - 1
"""What goes into an int64 of the model server's protocol."""


@dataclass(frozen=True, slots=True)
class ModelId:
    """A model on the model server.  Written ``Name:version``; without a version it is the latest one."""

    name: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``Name`` or ``Name:version``; ValueError says what is wrong."""
        name, _, version = text.strip().rpartition(":") if ":" in text else (text.strip(), "", "")
        return cls.of(name, version)

    @classmethod
    def of(cls, name: str, version: str | int | None = None) -> Self:
        """Build from the two fields of a job; a blank version is the latest; ValueError says what is wrong."""
        if not re.fullmatch(r"[A-Za-z0-9][\w.\-/]{0,254}", name.strip()):
            raise ValueError(f"model name {name!r}: allowed are letters, digits, '_', '-', '.' and '/', up to 255")
        text = "" if version is None else str(version).strip()
        if text and not (re.fullmatch(r"[0-9]{1,19}", text) and int(text) <= LAST_VERSION):
            raise ValueError(f"model version {text!r}: allowed is a whole number from 0, or nothing for the latest")
        return cls(name.strip(), int(text) if text else None)

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"
