"""What a consumer of one's own sees of children, beside what tests/compat/test_howto_children.py runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from tests.unit.consumers.batch import Expiries

from redis_consumer.consumers import ChildResult, Consumer
from redis_consumer.consumers.children import MOST_FAILURES, failures_field
from redis_consumer.errors import JobRejected, QueueUnavailable

if TYPE_CHECKING:
    from tests.unit.consumers.lab import Lab


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": "done"}, ""),
        ({"status": "failed", "reason": "Traceback ...\n  File\nValueError: last line \n"}, "ValueError: last line"),
        ({"status": "failed"}, "The job gave no reason"),
        ({}, "The job is gone from Redis"),
    ],
)
def test_the_reason_is_the_last_line_that_readers_show(fields: dict[str, str], reason: str) -> None:
    assert ChildResult("q:a.tif:1", fields).reason == reason


def test_a_child_that_vanished_is_final_and_still_has_a_name() -> None:
    child = ChildResult("q:plate 1/a:b.tif:0f", {})
    assert child.is_final
    assert not child.is_done
    assert child.name == "plate 1/a:b.tif"


def test_failures_can_be_taken_apart_again_and_are_bounded() -> None:
    reasons = {f"q:ü & {n}.tif:{n}": "=&?+%\udcff" + "x" * 1000 for n in range(MOST_FAILURES + 5)}
    parts = parse_qs(failures_field(reasons), strict_parsing=True)
    assert len(parts) == MOST_FAILURES + 1
    assert parts["5 more"] == ["failed too"]
    assert parts["q:ü & 7.tif:7"] == ["=&?+%?" + "x" * 194]
    assert failures_field({}) == ""


def test_a_consumer_without_tools_says_so() -> None:
    redis: Any = None
    with pytest.raises(RuntimeError, match="not equipped"):
        Consumer(redis, redis, "q").children()


def test_a_job_without_parts_does_not_wait(lab: Lab) -> None:
    consumer = lab.equipped(Consumer, Expiries())
    consumer.job = lab.claim()
    with pytest.raises(JobRejected, match="no parts"):
        consumer.children().submit([])


def test_an_expiry_is_repeated_while_redis_does_not_answer(lab: Lab) -> None:
    class Shaky(Expiries):
        failures = 2

        def execute(self) -> None:
            if self.failures:
                self.failures -= 1
                raise QueueUnavailable("Redis does not answer")

    redis = Shaky()
    consumer = lab.equipped(Consumer, redis)
    consumer.job = lab.claim()
    children = [ChildResult(f"q:a.tif:{number}", {}) for number in range(1200)]
    consumer.children().clear_away(children, seconds=7)
    assert redis.seconds == {child.key: 7 for child in children}
    assert redis.failures == 0


def test_the_children_of_a_replayed_job_are_submitted_again(lab: Lab) -> None:
    job = lab.claim(input_file_name="uploads/a.tif", children="q:old:1,q:old:2")
    consumer = lab.equipped(Consumer, Expiries())
    consumer.job = job
    assert not consumer.children().submitted
    children = consumer.children()
    assert children.submit([lambda: children.child("c", "x.tif", {})], my_word="x") == "waiting"
    fields = lab.broker.jobs[job.key]
    assert fields["my_word"] == "x"
    assert fields["children"].startswith("c:x.tif:")
    assert fields["status"] == "started"
