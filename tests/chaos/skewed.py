"""Runs a worker whose clock is wrong: ``python -m tests.chaos.skewed SECONDS SCRIPT``.

`time.time` and `datetime` are shifted for the whole process, before anything of the program is loaded.  Not for gRPC:
it computes deadlines in Python and watches them in C, where the clock is still right.
"""

from __future__ import annotations

import datetime as dt
import runpy
import sys
import time
from types import SimpleNamespace

import grpc._channel


def shift(seconds: float) -> None:
    """Make this process believe that it is so much later, or earlier."""
    true_time = time.time
    vars(grpc._channel)["time"] = SimpleNamespace(**{**vars(time), "time": true_time})
    time.time = lambda: true_time() + seconds
    true_datetime = dt.datetime

    class Shifted(true_datetime):  # type: ignore[valid-type,misc] # a class is a value here
        """A `datetime` whose now is another."""

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            """Return the wrong time."""
            return true_datetime.now(tz) + dt.timedelta(seconds=seconds)

        @classmethod
        def utcnow(cls) -> dt.datetime:
            """Return the wrong time in UTC, without saying so."""
            return cls.now(dt.UTC).replace(tzinfo=None)

    dt.datetime = Shifted  # type: ignore[misc] # on purpose


if __name__ == "__main__":
    shift(float(sys.argv[1]))
    runpy.run_path(sys.argv[2], run_name="__main__")
