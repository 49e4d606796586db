"""Both model servers sit the exam: the one in memory, and the client together with our own server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.onnx_models import save_exams

from redis_consumer.models.memory import MemoryModelServer
from redis_consumer.models.tf_serving import TensorFlowServing
from redis_consumer.serving.server import EmbeddedServer
from redis_consumer.testing.models import ModelServerExam, exam_models

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis_consumer.models.base import ModelServer


class TestMemory(ModelServerExam):
    @pytest.fixture
    def server(self) -> ModelServer:
        return MemoryModelServer(exam_models())


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    embedded = EmbeddedServer(save_exams(tmp_path_factory.mktemp("models")))
    port = embedded.start()
    yield f"127.0.0.1:{port}"
    embedded.stop()


class TestTensorFlowServing(ModelServerExam):
    @pytest.fixture
    def server(self, address: str) -> Iterator[ModelServer]:
        client = TensorFlowServing(address, timeout_seconds=20)
        yield client
        client.close()
