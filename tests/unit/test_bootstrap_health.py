"""What `bootstrap` asks for `/live` and `/ready`."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from redis_consumer import bootstrap
from redis_consumer.consumers import Consumer, ImageConsumer
from redis_consumer.errors import (
    AccessDenied,
    ModelNotFound,
    PredictionFailed,
    QueueUnavailable,
    ServerNotReady,
    SettingsError,
    StorageUnavailable,
)
from redis_consumer.health import Health
from redis_consumer.job import Job, ModelId
from redis_consumer.limits import TimeLimit
from redis_consumer.middleware import Heartbeat
from redis_consumer.models.tf_serving import TensorFlowServing
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue
from redis_consumer.redis import RedisClient
from redis_consumer.settings import Settings
from redis_consumer.storage.object_store import open_storage
from redis_consumer.worker import STILL_SECONDS, Lane

if TYPE_CHECKING:
    from pathlib import Path

    from redis_consumer.errors import ConsumerError
    from redis_consumer.wire import serving_pb2 as pb

MODEL = ModelId("Nuclei", 1)


class Scripted(TensorFlowServing):
    """A model server that is asked for its states, and answers as told."""

    def __init__(self, error: ConsumerError | None) -> None:
        super().__init__("127.0.0.1:1")
        self.error = error

    def states(self, model: ModelId) -> dict[int, pb.ModelVersionStatus]:
        assert model == MODEL
        if self.error:
            raise self.error
        return {}


@pytest.mark.parametrize(
    "error", [None, ModelNotFound("no such model"), PredictionFailed("what is that? (UNIMPLEMENTED)")], ids=repr
)
def test_a_model_server_that_answers_is_there_whatever_it_serves(error: ConsumerError | None) -> None:
    bootstrap.check_model_server(Scripted(error), MODEL)


@pytest.mark.parametrize(
    "error", [ServerNotReady("absent"), PredictionFailed("late (DEADLINE_EXCEEDED)"), AccessDenied("who?")], ids=repr
)
def test_a_model_server_that_does_not_or_refuses_us_is_not(error: ConsumerError) -> None:
    with pytest.raises(type(error)):
        bootstrap.check_model_server(Scripted(error), MODEL)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (QueueUnavailable("Redis at 10.0.0.7"), "does not answer"),
        (StorageUnavailable("/mnt/bucket"), "does not answer"),
        (SettingsError("STORAGE_BUCKET is 'file:///mnt/secret'"), "refuses us, or is not as the settings say"),
        (AccessDenied("key AKIA123"), "refuses us, or is not as the settings say"),
    ],
)
def test_strangers_learn_no_names_and_the_log_has_them(
    error: ConsumerError, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    def check() -> None:
        raise error

    assert bootstrap.fault_of("it", check) == sentence
    assert str(error) in caplog.text
    assert bootstrap.fault_of("it", lambda: None) == ""


def test_the_model_server_is_asked_where_the_consumer_needs_it(tmp_path: Path) -> None:
    redis, storage = RedisClient("127.0.0.1", 1), open_storage(str(tmp_path))
    assert list(bootstrap.readiness(redis, storage, None, MODEL)) == ["redis", "storage"]
    assert list(bootstrap.readiness(redis, storage, Scripted(None), MODEL)) == ["redis", "storage", "model-server"]
    assert ImageConsumer.needs_model_server
    assert not Consumer.needs_model_server


def test_redis_is_asked_once() -> None:
    with pytest.raises(QueueUnavailable):
        bootstrap.ping(RedisClient("127.0.0.1", 1, backoff=600))  # a repetition would wait


def test_a_lane_stands_still_by_its_last_turn_unless_it_works_or_the_worker_stops() -> None:
    stopping = threading.Event()
    lane = Lane(MemoryJobQueue(MemoryBroker(), queue="q"), lambda _: "done")
    heartbeat, limit = Heartbeat(30), TimeLimit(0, lambda _: None)
    live = bootstrap.liveness([lane], heartbeat, limit, stopping, drain_seconds=25)

    def faults() -> list[str]:
        return [name for name, fault in live.items() if fault()]

    assert faults() == []
    lane.turned_at -= STILL_SECONDS + 1
    assert faults() == ["lane-0"]
    lane.job = Job("k", "q")
    assert faults() == []
    lane.job = None
    stopping.set()
    assert faults() == []
    heartbeat._turned_at -= STILL_SECONDS + 6
    assert faults() == ["heartbeat"]


@pytest.mark.parametrize("port", ["0", "8080"])
def test_probes_are_answered_where_a_port_is_given(tmp_path: Path, port: str) -> None:
    worker = bootstrap.build_worker(
        Settings.from_environ({"STORAGE_BUCKET": str(tmp_path), "REDIS_HOST": "127.0.0.1", "HEALTH_PORT": port})
    )
    assert [isinstance(companion, Health) for companion in worker._companions].count(True) == (port != "0")


def test_a_worker_without_a_port_loads_none_of_it(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom redis_consumer.bootstrap import build_worker\nfrom redis_consumer.settings import Settings\n"
        f"build_worker(Settings.from_environ({{'STORAGE_BUCKET': {str(tmp_path)!r}}}))\n"
        "print({'prometheus_client', 'http.server', 'redis_consumer.health'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "set()\n"


def test_a_service_called_health_is_not_our_port() -> None:
    assert Settings.from_environ({"HEALTH_PORT": "tcp://10.0.0.1:80"}).health_port == 0
