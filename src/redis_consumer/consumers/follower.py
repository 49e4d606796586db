"""A second thread that works on rows while the first one still makes the next.  Knows no images."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    Wait = Callable[[int], None]
    """Returns once the rows before this one are there."""
    Step = Callable[[int, Wait], object]

LOOK_SECONDS = 1.0
"""How long one who waits for the follower does nothing else."""


class Follower:
    """Does `step(0, wait)` to `step(count - 1, wait)` in a thread of its own, behind the one that it is a context of.

    That one says how far it has come, and is told of errors.  When the context ends, the other thread has ended too: if
    not all is done, at its next `wait`.
    """

    def __init__(self, step: Step, count: int) -> None:
        self._step = step
        self._count = count
        self._changed = threading.Condition()
        self._there = 0, 0
        self._done = 0
        self._given_up = False
        self._error: BaseException | None = None
        # A daemon, as lanes are: where the process ends, a step under way is no reason to wait.
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._given_up = True
            self._changed.notify_all()
        self._thread.join()
        self._error = None  # its traceback holds what the step had in hand

    def reached(self, step: int, row: int) -> None:
        """Say that all rows of earlier steps are there, and of this one those before `row`; raise as `check`."""
        with self._changed:
            self._there = step, row
            self._changed.notify_all()
        self.check()

    def check(self) -> None:
        """Raise what a step raised, if one did: no further step is done."""
        if self._error is not None:
            raise self._error

    def finish(self, count: int, meanwhile: Callable[[], object]) -> None:
        """Wait until so many steps are done; raise as `check`.

        `meanwhile` is called whenever a step goes on to other rows, and once a second; it may raise, too.
        """
        while not self._is_done(count):
            meanwhile()

    def _is_done(self, count: int) -> bool:
        """Look now; where it is not done, after a moment."""
        with self._changed:
            if self._done < count and self._error is None:
                self._changed.wait(LOOK_SECONDS)
            self.check()
            return self._done >= count

    def _run(self) -> None:
        try:
            for step in range(self._count):
                self._step(step, partial(self._wait, step))
                with self._changed:
                    self._done += 1
                    self._changed.notify_all()
        except _GivenUp:
            pass
        except BaseException as error:  # noqa: BLE001 - raised in the other thread, whatever it is
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _wait(self, step: int, row: int) -> None:
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._given_up or self._there >= (step, row))
            if self._given_up:
                raise _GivenUp


class _GivenUp(Exception):
    """Nobody waits for the rest."""
