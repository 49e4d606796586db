"""What obstore's errors mean to a job.

Its texts carry addresses and request ids: they are for the log (the cause of ours), not for the scientist.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

from redis_consumer.errors import AccessDenied, ConsumerError, ObjectNotFound, RetryJob, StorageUnavailable

if TYPE_CHECKING:
    from redis_consumer.storage.keys import Bucket


class AclRefused(AccessDenied):
    """The bucket has no permissions of single objects (GCS: uniform access)."""


NO_BUCKET = re.compile("<Code>(NoSuchBucket|ContainerNotFound)</Code>")
NO_ACL = re.compile("uniform bucket-level access", re.IGNORECASE)
NOT_REMOVED = re.compile(r"DeleteObjects request failed .*\(code: AccessDenied\)")
"""S3 answers 200 to a request to remove many objects, and says of each how it went."""
PASSING = re.compile(
    "<Code>(RequestTimeout|RequestTimeTooSkewed|ExpiredToken|TokenRefreshRequired|OperationAborted|SlowDown|InternalError"
    "|ServerBusy|OperationTimedOut)</Code>"
)
"""What passes by itself, whatever the status: a slow line, a clock, a token that is renewed, too much at a time."""
BEYOND = re.compile("status code: 416|[Ii]nvalid range|range was invalid")
NO_CREDENTIALS = re.compile(r"//169\.254\.169\.254/|//metadata\.google\.internal/|token request")
HTTP_CLIENT_ERROR = 4
LATER = frozenset({407, 408, 409, 425, 429})
"""The 4xx answers that may pass."""


class WrongRegion(AccessDenied):
    """S3 answers with a redirection to nowhere: it knows the bucket, in another region."""


def is_missing_bucket(error: Exception) -> bool:
    """Return whether the store says that it has no such bucket; a PUT is never answered "no such object"."""
    text = str(error)
    return bool(NO_BUCKET.search(text)) or (isinstance(error, FileNotFoundError) and "performing PUT" in text)


def translated(error: Exception, key: str, bucket: Bucket) -> ConsumerError:
    """Return our error for one of obstore's, raised over `key`."""
    if is_missing_bucket(error):
        return StorageUnavailable(f"The bucket {str(bucket)!r} does not exist")
    if isinstance(error, FileNotFoundError):
        return ObjectNotFound(f"Object {key!r} is not in the bucket")
    if isinstance(error, PreconditionError):
        return changed(key)
    if refusal := _refusal(error, key):
        return refusal
    if NO_CREDENTIALS.search(str(error)):
        return StorageUnavailable("No credentials for the storage: the cloud's metadata service does not answer")
    status = _status(error)
    return StorageUnavailable(f"The storage does not answer: {f'HTTP {status}' if status else 'no connection'}")


def changed(key: str) -> RetryJob:
    """Return what is raised where an object is no longer the one that a reader has begun with."""
    return RetryJob(f"Object {key!r} was changed while it was read")


def is_beyond_the_end(error: Exception) -> bool:
    """Return whether the store says that an object ends before the range that was asked for."""
    return bool(BEYOND.search(str(error)))


def _refusal(error: Exception, key: str) -> AccessDenied | None:
    """Return our error where asking again changes nothing."""
    text, status = str(error), _status(error)
    if NO_ACL.search(text):
        return AclRefused("The bucket takes no permissions of single objects")
    if PASSING.search(text):
        return None
    if "without LOCATION" in text:
        return WrongRegion("The bucket is in another region than AWS_REGION says")
    is_final = status // 100 == HTTP_CLIENT_ERROR and status not in LATER and not NO_CREDENTIALS.search(text)
    if NOT_REMOVED.search(text):
        return AccessDenied("The storage does not let us remove objects")
    if is_final or isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return AccessDenied(f"The storage refuses access to {key!r} (HTTP {status})")
    return None


def _status(error: Exception) -> int:
    match = re.search(r"status code: (\d{3})", str(error))
    return int(match[1]) if match else 0
