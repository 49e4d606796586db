from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from redis_consumer.errors import JobRejected
from redis_consumer.job import FINAL, Job, ModelId, Status


def test_statuses_are_the_words_that_readers_compare() -> None:
    assert [str(status) for status in Status] == [
        "new",
        "started",
        "waiting",
        "pre-processing",
        "predicting",
        "post-processing",
        "saving-results",
        "done",
        "failed",
    ]
    assert {"done", "failed"} == FINAL


def test_a_field_that_is_missing_or_blank_is_its_default() -> None:
    job = Job("q:a:1", "q", {"scale": "  ", "label": " 1 "})
    assert job.get("scale", "1") == "1"
    assert job.get("cuts", "0") == "0"
    assert job.get("label") == "1"


def test_a_required_field_that_is_blank_is_named() -> None:
    with pytest.raises(JobRejected, match="'input_file_name' is missing or blank"):
        Job("q:a:1", "q", {"input_file_name": " "}).require("input_file_name")


@given(
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True), version=st.none() | st.integers(0, 10**9)
)
def test_a_model_is_read_as_it_is_written(name: str, version: int | None) -> None:
    model = ModelId(name, version)
    assert ModelId.parse(str(model)) == model


@pytest.mark.parametrize("text", ["", ":", ":3", "Name:x", "Name:-1", "Name:1.5", "a b:1", "../x:1", "Name:²"])
def test_a_model_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"model (name|version)"):
        ModelId.parse(text)


def test_a_blank_version_is_the_latest() -> None:
    assert ModelId.of("Nuclei", " ") == ModelId("Nuclei", None)
