from __future__ import annotations

import binascii
import inspect
import struct
import zlib

import pytest

from redis_consumer import errors
from redis_consumer.errors import ConsumerError, JobRejected, MissingExtra, kind_of, reason_of


def test_every_error_stands_in_the_tree_of_the_docstring() -> None:
    tree = errors.__doc__ or ""
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ConsumerError)]
    assert [cls.__name__ for cls in classes if cls.__name__ not in tree] == []


def test_our_own_errors_speak_for_themselves() -> None:
    assert reason_of(JobRejected("The field 'scale' is 'x'")) == "The field 'scale' is 'x'"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("a"), "KeyError: 'a'"),
        (ValueError("first\nsecond\n"), "ValueError: first second"),
        (RuntimeError(), "RuntimeError"),
        (JobRejected(), "JobRejected"),
    ],
)
def test_a_reason_is_one_line_and_never_empty(error: Exception, line: str) -> None:
    assert reason_of(error) == line


@pytest.mark.parametrize(
    ("error", "kind"), [(KeyError(), " (KeyError)"), (struct.error(), ""), (zlib.error(), ""), (binascii.Error(), "")]
)
def test_a_type_that_says_nothing_is_not_told(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_a_missing_extra_says_how_to_install_it() -> None:
    assert "pip install 'kiosk-redis-consumer[demo]'" in str(MissingExtra("serve-models", "demo"))
