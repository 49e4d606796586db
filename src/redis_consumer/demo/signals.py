"""Ctrl-C and its like, as one exception at a moment when nothing is half done.  Knows no processes."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Inside its `with` block the first SIGINT, SIGTERM or SIGHUP raises; later ones are ignored.

    SIGINT raises KeyboardInterrupt, the others SystemExit with the shell's exit code for them.  Use it in the
    main thread.  A shell starts background jobs with SIGINT ignored: here it counts all the same.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._holding = False
        self._first: int | None = None
        self._raised = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._arrived) for number in CAUGHT}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal wait until the block is left: in it, something is started or ended as a whole."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            self._raise_once()

    def _arrived(self, number: int, _frame: object) -> None:
        self._first = self._first or number
        if not self._holding:
            self._raise_once()

    def _raise_once(self) -> None:
        if self._first is None or self._raised:
            return
        self._raised = True
        if self._first == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._first)
