"""Every error of this program, sorted by what the worker does next.

::

    ConsumerError
    ├── JobRejected            the input is at fault: the job fails at once, the message is for the scientist
    │   ├── ObjectNotFound       no such object in the bucket
    │   ├── AccessDenied         the bucket or the model server refuses us
    │   ├── ModelNotFound        no such model or version on the model server
    │   │   └── ModelNotLoaded     it has the model, and could not load it
    │   └── InvalidModelInput    the model server refuses the tensor
    │       └── BatchTooLarge      too many entries in one request: send fewer at a time
    ├── RetryJob               the world is at fault: the job is given back and counts as a delivery
    │   ├── StorageUnavailable   the object storage does not answer, or not sensibly
    │   └── PredictionFailed     the model server broke down over this request
    ├── ServerNotReady         the model server is cold or saturated: wait in place, nothing is counted
    │   └── ServerBusy           it answers, and refuses for now: its queue is full
    │       └── OutOfMemory        its device has no room for this request: send fewer entries, or wait
    ├── LeaseLost              somebody else has the job now: drop it, write nothing
    ├── QueueUnavailable       Redis does not answer: back off, ask again
    ├── SettingsError          the start stops: names the variable, the value and what is allowed
    └── MissingExtra           the start or the command stops: names the extra to install

Anything else that leaves a handler is a bug: the job fails, its `reason` is one line (`reason_of`), and the
traceback goes to the log and the dead letter.  Errors of other libraries are translated where they enter, in the
adapters; only what the machine itself refuses (`is_machines`) may come up anywhere, and is a case for `RetryJob`.
"""

from __future__ import annotations

import errno
import re
import traceback
from dataclasses import dataclass


class ConsumerError(Exception):
    """The root.  The text is one line, ends without a full stop, and carries no path of the worker's disk."""


class JobRejected(ConsumerError):
    """The job can never succeed as it stands.  The text names the field, its value and what is allowed."""


class ObjectNotFound(JobRejected):
    """There is no object of this key in the bucket."""


class AccessDenied(JobRejected):
    """The other side knows us and refuses; asking again changes nothing."""


class ModelNotFound(JobRejected):
    """The model server has no such model or version, and is not loading it either."""


class ModelNotLoaded(ModelNotFound):
    """The model server has tried to load the model, and given up."""


class InvalidModelInput(JobRejected):
    """The model server, or the model's signature, refuses the tensor: wrong name, dtype, rank or size."""


class BatchTooLarge(InvalidModelInput):
    """One request may not carry so many entries along its first axis; `limit` of them it may."""

    def __init__(self, text: str, limit: int) -> None:
        super().__init__(text)
        self.limit = limit


class RetryJob(ConsumerError):
    """The job may succeed later, or elsewhere.  It goes to the back of its queue and counts as a delivery."""


class StorageUnavailable(RetryJob):
    """The object storage did not answer within its time limit, or answered with a server error."""


class PredictionFailed(RetryJob):
    """The model server failed in a way that is neither the input's fault nor a refusal for now."""


class ServerNotReady(ConsumerError):
    """The model server is not there yet: nobody listens, or the model is still loading."""


class ServerBusy(ServerNotReady):
    """The model server refuses work for now (queue full, out of threads or memory)."""


class OutOfMemory(ServerBusy):
    """The model server's device had no memory for this request: fewer entries at a time may fit, or the same later."""


class LeaseLost(ConsumerError):
    """The job is no longer ours: final, gone, or claimed by another lane.  Stop, and write nothing."""


class QueueUnavailable(ConsumerError):
    """Redis did not answer.  The job, if there is one, stays where it is until the lease is swept."""


class SettingsError(ConsumerError):
    """A setting is wrong.  The text names the variable, its value and what is allowed."""


class MissingExtra(ConsumerError):
    """A package of an extra is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}: pip install 'kiosk-redis-consumer[{extra}]'")


REASON_CHARACTERS = 1000
"""A value of ten megabytes is told by its ends."""


def reason_of(error: BaseException) -> str:
    """Return the one line that a user sees for `error`: printable, not too long, never empty, without a traceback.

    Our own errors speak for themselves; any other is a bug and is prefixed with its type.
    """
    text = _shortened("".join(map(_printable, " ".join(without_secrets(str(error)).split()))))
    if isinstance(error, ConsumerError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def kind_of(error: BaseException) -> str:
    """Return the type of a library's error, to stand in brackets behind a sentence: `` (BadZipFile)``.

    Empty for ``error``: struct and zlib call theirs so, which says nothing where the module is not told.
    """
    name = type(error).__name__
    return "" if name.lower() == "error" else f" ({name})"


def _printable(letter: str) -> str:
    """Escape what would move a terminal's cursor, turn the writing round or break a protocol."""
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")


def _shortened(text: str) -> str:
    half = (REASON_CHARACTERS - 5) // 2
    return text if len(text) <= REASON_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


_MACHINE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN}
)
"""Disk full or broken, no memory, no more files or threads: another worker, or this one later, may do the job."""


def is_machines(error: BaseException) -> bool:
    """Return whether the machine that the worker runs on is at fault, and not the job."""
    if isinstance(error, RuntimeError):
        return str(error) == "can't start new thread"  # Python has no class for it
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _MACHINE)


_ADDRESS_LOGINS = re.compile(r"://[^\s/@]*@"), re.compile(r"""://[^\s?#'"]*@""")
_ADDRESS_QUERY = re.compile(r"(://[^\s?#]*)[?#]\S*")
"""They rather take a letter too many: a password may hold any."""


def without_secrets(text: str) -> str:
    """Return the text with the logins and queries (signatures) of its addresses left out."""
    if "://" not in text:
        return text
    for login in _ADDRESS_LOGINS:
        text = login.sub("://", text)
    return _ADDRESS_QUERY.sub(r"\1", text)


TRACEBACK_CHARACTERS = 8000
"""Its end says most."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What ended a delivery badly, for whoever has to find out why."""

    error: str
    """The class of the error."""
    reason: str
    """The one line for the user."""
    traceback: str = ""
    """For the operator: the end of it, addresses without logins and queries."""


def failure_of(error: BaseException) -> Failure:
    """Return the failure that `error` is."""
    text = without_secrets("".join(traceback.format_exception(error)))
    return Failure(type(error).__name__, reason_of(error), text[-TRACEBACK_CHARACTERS:])
