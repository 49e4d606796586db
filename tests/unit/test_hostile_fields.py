"""Values of fields that are too long, not printable or not sensible: what becomes of them, and what a user reads."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest

from redis_consumer.cli.options import OneLine
from redis_consumer.consumers.channels import named_channels
from redis_consumer.consumers.fields import whole_number
from redis_consumer.errors import REASON_CHARACTERS, JobRejected, reason_of
from redis_consumer.images import ImageFile
from redis_consumer.job import LAST_VERSION, Job, ModelId
from redis_consumer.processing import PRE_PROCESSES, chain
from redis_consumer.results import safe_name
from redis_consumer.storage.keys import Addresses, Bucket


def test_a_reason_keeps_both_ends_of_what_is_long() -> None:
    reason = reason_of(JobRejected(f"The field 'scale' is '{'9' * 10**6}': allowed is a number"))
    assert len(reason) <= REASON_CHARACTERS
    assert reason.startswith("The field 'scale' is '999")
    assert reason.endswith("9': allowed is a number")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\x1b[2Jb", r"a\x1b[2Jb"), ("a\u202eb", r"a\u202eb"), ("\udcff", r"\udcff"), ("\0", r"\x00"), ("核", "核")],
)
def test_a_reason_is_printable(text: str, shown: str) -> None:
    assert reason_of(JobRejected(text)) == shown
    assert reason_of(JobRejected(text)).isprintable()


def test_no_message_of_the_log_goes_over_its_line() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(OneLine("%(levelname)s: %(message)s"))
    log = logging.Logger("lines")  # noqa: LOG001 - one of its own
    log.addHandler(handler)
    try:
        int("no number")
    except ValueError:
        log.exception("Job %s\r\nINFO: forged \x1b[2J met a bug", "核")
    first, *rest = out.getvalue().splitlines()
    assert first == r"ERROR: Job 核\r\nINFO: forged \x1b[2J met a bug"
    assert rest[0] == "Traceback (most recent call last):"


@pytest.mark.parametrize("version", [str(LAST_VERSION + 1), "9" * 19, "1" * 5000, "\u0661"])
def test_versions_that_no_model_server_has(version: str) -> None:
    with pytest.raises(ValueError, match=r"model version '.*': allowed is a whole number from 0"):
        ModelId.of("Nuclear", version)
    assert ModelId.of("Nuclear", str(LAST_VERSION)).version == LAST_VERSION


def test_names_that_no_model_has() -> None:
    assert ModelId.of("x" * 255).name == "x" * 255
    with pytest.raises(ValueError, match="allowed are letters"):
        ModelId.of("x" * 256)


@pytest.mark.parametrize("text", ["1" * 19, "1" * 5000])
def test_numbers_that_nobody_counts(text: str) -> None:
    with pytest.raises(JobRejected, match=r"The field 'cuts' is '1+': allowed is a whole number from 0"):
        whole_number(Job("j", "q", {"cuts": text}), "cuts", 0)
    assert whole_number(Job("j", "q", {"cuts": "007"}), "cuts", 0) == 7


def test_a_channel_may_be_named_again_but_not_for_ever() -> None:
    image = ImageFile(
        "YXC", "job", (2, 2, 3), np.dtype(np.uint8), is_rgb=False, stored=np.zeros((1, 2, 2, 3), np.uint8)
    )
    assert named_channels(["0", "", "0"], image).positions == (0, None, 0)
    with pytest.raises(JobRejected, match="names 65 channels: allowed are 3"):
        named_channels(["0"] * 65, image)
    with pytest.raises(JobRejected, match=r"names '1+': allowed are 0 to 2"):
        named_channels(["1" * 5000], image)


def test_a_chain_of_steps_ends() -> None:
    with pytest.raises(ValueError, match="preprocess_function names 21 steps: allowed are 20"):
        chain("none," * 20, PRE_PROCESSES, "preprocess_function")


def test_of_a_very_deep_name_the_last_folders_stay() -> None:
    name = safe_name("deep/" * 500 + "cells.tif")
    assert name.endswith("/deep/deep/cells.tif")
    assert len(name) < 1000
    assert safe_name("x" * 10**7 + ".tif").endswith("x.tif")


def test_a_refused_address_tells_no_folder_of_ours() -> None:
    folder, cloud = Addresses(Bucket.parse("/srv/secret")), Addresses(Bucket.parse("s3://images"))
    for address in ("https://example.org/a.tif", "http://[::1/a.tif", "file:///etc/passwd"):
        with pytest.raises(JobRejected, match=r"is not one of the bucket$"):
            folder.key(address)
        with pytest.raises(JobRejected, match=r"is not one of the bucket 's3://images'$"):
            cloud.key(address)
