from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.unit.consumers.lab import NOBODY, checkers

from redis_consumer.consumers import Consumer, TensorFlowServingConsumer
from redis_consumer.errors import JobRejected, LeaseLost
from redis_consumer.queues.base import Place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.unit.consumers.lab import Lab

    from redis_consumer.storage.base import Storage


class FakeRedis:
    """Remembers what was written."""

    def __init__(self) -> None:
        self.writes: list[tuple[str, dict[str, Any]]] = []

    def hset(self, name: str, mapping: Mapping[str, Any]) -> None:
        self.writes.append((name, dict(mapping)))


class Doing(TensorFlowServingConsumer):
    """Does what a test says."""

    def _consume(self, redis_hash: str) -> str:
        self.update_key(redis_hash, {"status": "predicting", "note": 1.5})
        return self.final_status


class TestUpdateKey:
    def test_the_job_in_hand_is_written_while_it_is_ours(self, lab: Lab) -> None:
        redis, job = FakeRedis(), lab.claim()
        consumer = lab.equipped(Doing, redis)
        assert consumer.handle(job) == "done"
        assert lab.broker.jobs[job.key]["note"] == "1.5"
        assert redis.writes == []
        lab.queue.release(job, Place.BACK)
        with pytest.raises(LeaseLost):
            consumer.update_key(job.key, {"note": "again"})

    def test_another_hash_is_written_as_it_is(self, lab: Lab) -> None:
        redis = FakeRedis()
        consumer = lab.equipped(Doing, redis)
        consumer.handle(lab.claim())
        consumer.update_key("q:other:1", {"children": "a,b"})
        ((key, fields),) = redis.writes
        assert (key, fields["children"], fields["updated_by"]) == ("q:other:1", "a,b", "pod")
        assert dt.datetime.fromisoformat(fields["updated_at"]).tzinfo is not None

    @pytest.mark.parametrize("data", ["status", [("status", "x")], 7])
    def test_what_is_no_dictionary_is_a_value_error(self, lab: Lab, data: Any) -> None:
        with pytest.raises(ValueError, match="takes a dictionary"):
            lab.equipped(Doing).update_key("q:a:1", data)


class TestHandle:
    def test_old_names_are_there(self, lab: Lab) -> None:
        job = lab.claim(model_name="Nuclei")
        consumer = lab.equipped(Doing)
        consumer.handle(job)
        assert (consumer.queue, consumer.name, consumer.hostname) == ("q", "pod", "pod")
        assert consumer.finished_statuses == {"done", "failed"}
        assert consumer._redis_hash == job.key
        assert consumer._redis_values == job.fields
        assert consumer.logger.name == "Doing"

    @pytest.mark.parametrize("name", ["uploads/a.zip", "uploads/A.ZIP"])
    def test_an_archive_is_refused(self, lab: Lab, name: str) -> None:
        with pytest.raises(JobRejected, match='Invalid filetype for "q" job'):
            lab.equipped(Doing).handle(lab.claim(input_file_name=name))

    def test_retries_of_the_job_before_do_not_count(self, lab: Lab) -> None:
        consumer = lab.equipped(Doing)
        assert consumer.tools is not None
        consumer.tools.retries.append("busy")
        consumer.handle(lab.claim())
        assert not consumer.tools.retries

    def test_a_consumer_that_does_nothing_says_so(self, lab: Lab) -> None:
        with pytest.raises(NotImplementedError, match="Consumer does not override _consume"):
            lab.equipped(Consumer).handle(lab.claim())

    def test_an_old_constructor_still_fits(self, lab: Lab) -> None:
        class Old(Doing):
            def __init__(self, redis_client: Any, storage_client: Storage, queue: str, **kwargs: Any) -> None:
                super().__init__(redis_client, storage_client, queue, **kwargs)
                self.extra = "mine"

        old = lab.equipped(Old)
        assert isinstance(old, Old)
        assert (old.extra, old.handle(lab.claim())) == ("mine", "done")


class TestModels:
    @pytest.fixture
    def lab(self, lab: Lab) -> Lab:
        lab.models.add("One:1", lambda image: image)
        lab.models.add(
            "Several:2", lambda image: {"prediction_1": image, "prediction_0": image, "aux": image}, (None, 8, 9, 2)
        )
        lab.models.add("Other:1", lambda image: {"b": image, "a": image})
        return lab

    def consumer(self, lab: Lab) -> TensorFlowServingConsumer:
        consumer = lab.equipped(Doing)
        assert isinstance(consumer, TensorFlowServingConsumer)
        return consumer

    @pytest.mark.parametrize("version", ["1", 1, ""])
    def test_the_batch_axis_is_added_and_kept(self, lab: Lab, version: str | int) -> None:
        made = self.consumer(lab).grpc_image(checkers((8, 9, 1)), "One", version)
        assert isinstance(made, np.ndarray)
        np.testing.assert_array_equal(made, checkers((1, 8, 9, 1)))

    def test_predictions_are_preferred_and_sorted(self, lab: Lab) -> None:
        made = self.consumer(lab).grpc_image(checkers((8, 9, 2)), "Several", "2")
        assert isinstance(made, list)
        assert len(made) == 2

    def test_without_predictions_all_outputs_come(self, lab: Lab) -> None:
        assert len(self.consumer(lab).grpc_image(checkers((8, 9, 1)), "Other", 1)) == 2

    def test_metadata_reads_as_it_always_did(self, lab: Lab) -> None:
        assert self.consumer(lab).get_model_metadata("Several", "2") == [
            {"in_tensor_name": "image", "in_tensor_dtype": "DT_FLOAT", "in_tensor_shape": "-1,8,9,2"}
        ]

    def test_without_tools_it_says_what_is_missing(self, lab: Lab) -> None:
        with pytest.raises(RuntimeError, match="was not equipped"):
            Doing(NOBODY, lab.storage, "q").grpc_image(checkers((8, 9, 1)), "One", 1)
