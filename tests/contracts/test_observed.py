"""What stands around a port to count is a port itself: it sits the same exam."""

from __future__ import annotations

from typing import TYPE_CHECKING

import obstore
import pytest
from tests.contracts.test_queues import MemoryStage

from redis_consumer.metrics import MeasuredStorage, Metrics
from redis_consumer.storage.object_store import ObjectStorage, open_storage
from redis_consumer.testing.queues import JobQueueExam, Stage
from redis_consumer.testing.storage import StorageExam

if TYPE_CHECKING:
    from redis_consumer.queues.base import JobQueue
    from redis_consumer.storage.base import Storage


def new_metrics() -> Metrics:
    return Metrics(queue="q", consumer_type="image", stages={"download_time": "started"})


class MeasuredStage(MemoryStage):
    def lane(self, *, pod: str = "pod-1", max_deliveries: int = 5) -> JobQueue:
        return new_metrics().lane(super().lane(pod=pod, max_deliveries=max_deliveries))[0]


class TestMeasuredQueue(JobQueueExam):
    @pytest.fixture
    def stage(self) -> Stage:
        return MeasuredStage()


class TestMeasuredStorage(StorageExam):
    @pytest.fixture
    def storage(self) -> Storage:
        return new_metrics().storage(open_storage("memory://"))

    def place(self, storage: Storage, key: str, content: bytes) -> None:
        obstore.put(self.inner(storage)._writer, key, content)

    def stored(self, storage: Storage, key: str) -> bytes:
        return bytes(obstore.get(self.inner(storage)._reader, key).bytes())

    def inner(self, storage: Storage) -> ObjectStorage:
        assert isinstance(storage, MeasuredStorage)
        assert isinstance(storage._storage, ObjectStorage)
        return storage._storage
