"""One way to try again: exponential waits with jitter, a number of attempts and a time limit.

Knows nothing of what is tried.  Never retries for ever; waiting for a cold model server is not its business.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import stamina

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def call_with_retries(
    function: Callable[[], T],
    *,
    on: type[Exception] | tuple[type[Exception], ...],
    seconds: float,
    attempts: int = 8,
    longest_wait: float = 10.0,
) -> T:
    """Return `function()`, called again when it raises one of `on`; the last error leaves as it is.

    Waits grow from 0.1 s by doubling up to `longest_wait`, each with up to as much jitter again (at most 1 s), so
    that hundreds of workers do not come back in step.  No new attempt starts later than `seconds` after the
    first, by more than one wait.
    """
    # Nearly always the first call succeeds, and costs less without what counts the others.
    began = time.monotonic()
    try:
        return function()
    except on as error:
        left = seconds - (time.monotonic() - began)
        if left <= 0:
            raise
        failed: Exception | None = error

    def again() -> T:
        nonlocal failed
        if not failed:
            return function()
        first, failed = failed, None
        try:
            raise first
        finally:
            del first  # it holds this frame, and all that hangs on it

    caller = stamina.RetryingCaller(
        attempts=attempts, timeout=left, wait_max=longest_wait, wait_jitter=min(1.0, longest_wait)
    )
    return caller(on, again)
