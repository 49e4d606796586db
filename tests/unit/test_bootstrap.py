from __future__ import annotations

import threading
import zipfile
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
import tifffile

from redis_consumer import bootstrap
from redis_consumer.client import Client
from redis_consumer.consumers import CONSUMERS, Consumer, SegmentationConsumer
from redis_consumer.errors import (
    ConsumerError,
    MissingExtra,
    PredictionFailed,
    ServerNotReady,
    SettingsError,
    StorageUnavailable,
)
from redis_consumer.job import ModelId, Status
from redis_consumer.models.tf_serving import TensorFlowServing
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter
from redis_consumer.results import extras
from redis_consumer.settings import Settings
from redis_consumer.testing.models import exam_models
from redis_consumer.wire import serving_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from redis_consumer.arrays import AnyArray
    from redis_consumer.job import Job
    from redis_consumer.models.base import TensorSpec
    from redis_consumer.models.stops import Stop
    from redis_consumer.redis import RedisClient
    from redis_consumer.storage.clients import StorageOptions
    from redis_consumer.storage.object_store import ObjectStorage

    States = Mapping[int, pb.ModelVersionStatus.State]

WAIT = 10.0


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


def settings_of(bucket: Path, **variables: str) -> Settings:
    servers = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": "1", "GRPC_BACKOFF": "0"}
    return Settings.from_environ({"STORAGE_BUCKET": bucket.as_uri(), "HOSTNAME": "pod", **servers, **variables})


class Seen(Consumer):
    """A consumer that remembers its instances, and does nothing."""

    instances: list[Seen]
    warmed: threading.Event

    @staticmethod
    def warm_up() -> None:
        Seen.warmed.set()

    def _consume(self, redis_hash: str) -> str:
        Seen.instances.append(self)
        assert redis_hash
        return self.final_status


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """What `build_worker` builds works on this broker, and `seen` is one more consumer type."""
    broker = MemoryBroker()

    def build_queue(settings: Settings, _redis: RedisClient, lane: str) -> MemoryJobQueue:
        return MemoryJobQueue(broker, queue=settings.queue, pod=lane, lease_seconds=settings.lease_seconds)

    class NoSweep:
        def __init__(self, _redis: RedisClient, *, lease_seconds: float) -> None:
            assert lease_seconds

        def sweep(self) -> int:
            return 0

    Seen.instances, Seen.warmed = [], threading.Event()
    monkeypatch.setattr(bootstrap, "build_queue", build_queue)
    monkeypatch.setattr(bootstrap, "RedisSweeper", NoSweep)
    monkeypatch.setattr(bootstrap, "CONSUMERS", {**CONSUMERS, "seen": Seen})
    return broker


class TestBuildWorker:
    def test_each_lane_has_a_queue_view_and_a_consumer_of_its_own(self, broker: MemoryBroker, bucket: Path) -> None:
        submitter = MemorySubmitter(broker)
        both, stopped = threading.Barrier(2), threading.Event()
        settings = settings_of(bucket, CONCURRENCY="2", QUEUE="q", CONSUMER_TYPE="seen")
        worker = bootstrap.build_worker(settings)
        for lane in worker._lanes:
            lane.handle = meeting(lane.handle, both, stopped)
        keys = [submitter.submit("q", name, {}) for name in ("a.tif", "b.tif")]
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        assert stopped.wait(WAIT)
        worker.stop()
        thread.join(WAIT)
        assert not thread.is_alive()
        assert [submitter.read(key)["status"] for key in keys] == ["done", "done"]
        assert len({submitter.read(key)["updated_by"] for key in keys}) == 2
        one, other = Seen.instances
        assert one is not other
        assert one.tools is not None
        assert other.tools is not None
        assert one.tools.limits is other.tools.limits  # what the server said holds for all lanes
        assert one.tools.retries is not other.tools.retries
        assert (one.name, one.queue) == ("pod", "q")
        assert Seen.warmed.wait(WAIT)

    def test_the_zip_type_takes_the_jobs_of_the_twin_and_submits_to_the_queue(
        self, broker: MemoryBroker, bucket: Path
    ) -> None:
        (bucket / "uploads").mkdir()
        with zipfile.ZipFile(bucket / "uploads" / "a.zip", "w") as archive:
            archive.writestr("a.tif", b"pixels")
        key = MemorySubmitter(broker).submit("q-zip", "a.zip", {"input_file_name": "uploads/a.zip"})
        settings = settings_of(bucket, QUEUE="Q", CONSUMER_TYPE="zip")
        (lane,) = bootstrap.build_worker(settings)._lanes
        job = lane.queue.claim(timeout=0)
        assert job
        assert job.key == key
        assert lane.handle(job) == "waiting"
        (child,) = broker.queues["q"]
        assert child.startswith("q:a.tif:")

    def test_the_segmentation_type_does_a_whole_job(
        self, broker: MemoryBroker, bucket: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bootstrap, "build_model_server", lambda *_: Doubling())
        (bucket / "uploads").mkdir()
        tifffile.imwrite(bucket / "uploads" / "a.tif", np.zeros((8, 8), np.uint16))
        fields = {"input_file_name": "uploads/a.tif", "original_name": "a.tif", "postprocess_function": "none"}
        key = MemorySubmitter(broker).submit("q", "a.tif", fields)
        settings = settings_of(bucket, QUEUE="q", CONSUMER_TYPE="segmentation", NUCLEAR_MODEL="Exam:1")
        worker = bootstrap.build_worker(settings)
        lane = worker._lanes[0]
        job = lane.queue.claim(timeout=0)
        assert job is not None
        assert lane.handle(job) == Status.DONE
        lane.queue.settle(job, Status.DONE, {})
        assert (bucket / broker.jobs[key]["output_file_name"]).is_file()
        assert broker.jobs[key]["predict_retries"] == "1"  # the server was not ready at first

    @pytest.mark.usefixtures("broker")
    def test_an_unknown_type_stops_the_start_and_names_those_that_are(self, bucket: Path) -> None:
        with pytest.raises(SettingsError, match=r"'imagee': allowed are .*image, .*seen, segmentation"):
            bootstrap.build_worker(settings_of(bucket, CONSUMER_TYPE="imagee"))

    def test_a_bucket_that_is_not_there_stops_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"STORAGE_BUCKET is .*absent"):
            bootstrap.build_worker(settings_of(tmp_path / "absent"))

    def test_needs_no_server_to_be_there(self, bucket: Path) -> None:
        bootstrap.build_worker(settings_of(bucket))  # nobody listens on the port of Redis

    def test_only_types_with_something_to_load_warm_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[str] = []
        monkeypatch.setattr("redis_consumer.consumers.segmentation.warm_up", lambda: calls.append("loaded"))
        Consumer.warm_up()
        assert calls == []
        SegmentationConsumer.warm_up()
        assert calls == ["loaded"]


class Doubling:
    """A model server that is cold at its first call."""

    def __init__(self) -> None:
        self.cold = True
        self.model = exam_models()[ModelId("Exam", 1)]

    def stopped_by(self, stop: Stop) -> Doubling:
        assert stop() is None
        return self

    def describe(self, model: ModelId) -> list[TensorSpec]:
        assert model == ModelId("Exam", 1)
        if self.cold:
            self.cold = False
            raise ServerNotReady("cold")
        return list(self.model.inputs)

    def predict(self, model: ModelId, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        assert model == ModelId("Exam", 1)
        return {"semantic_0": inputs["image"]}


def meeting(handle: Callable[[Job], str], both: threading.Barrier, met: threading.Event) -> Callable[[Job], str]:
    def handle_together(job: Job) -> str:
        both.wait(WAIT)
        status = handle(job)
        met.set()
        return status

    return handle_together


class Bucket:
    """A storage of which only `check` matters."""

    def __init__(self, error: Exception | None = None, *, public: bool = False) -> None:
        self.error = error
        self.public_results = public

    def __repr__(self) -> str:
        return "gs://results"

    def check(self) -> None:
        if self.error:
            raise self.error


class TestStorage:
    def test_one_that_does_not_answer_may_come_back(self, caplog: pytest.LogCaptureFixture) -> None:
        bootstrap.check_storage(as_storage(Bucket(StorageUnavailable("nobody answers"))))
        assert "The start goes on without the storage: nobody answers" in caplog.text

    def test_one_that_cannot_work_stops_the_start(self) -> None:
        with pytest.raises(SettingsError, match="no such bucket"):
            bootstrap.check_storage(as_storage(Bucket(SettingsError("no such bucket"))))

    @pytest.mark.parametrize("public", [True, False])
    def test_results_that_everybody_can_read_are_warned_about(
        self, *, public: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        bootstrap.check_storage(as_storage(Bucket(public=public)))
        assert ("OUTPUT_ACL=private ends it" in caplog.text) is public

    @pytest.mark.parametrize(
        ("bucket", "acl", "public"),
        [
            ("gs://results", "public-read", True),
            ("gs://results", "private", False),
            ("s3://results", "public-read", False),
        ],
    )
    def test_only_a_bucket_of_google_is_public(
        self, bucket: str, acl: str, *, public: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")  # else it looks for credentials
        storage = bootstrap.build_storage(Settings.from_environ({"STORAGE_BUCKET": bucket, "OUTPUT_ACL": acl}))
        assert storage.public_results is public

    @pytest.mark.parametrize(
        ("bucket", "endpoint"), [("s3://images", "http://minio:9000"), ("az://images", ""), ("memory://", "")]
    )
    def test_the_endpoint_is_that_of_s3_alone(
        self, bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chosen: list[StorageOptions] = []
        monkeypatch.setattr(bootstrap, "open_storage", lambda _, options: chosen.append(options))
        environ = {"STORAGE_BUCKET": bucket, "AWS_ENDPOINT_URL": "http://minio:9000", "AWS_REGION": "eu-west-3"}
        bootstrap.build_storage(Settings.from_environ(environ))
        assert (chosen[0].endpoint, chosen[0].region) == (endpoint, "eu-west-3")


class TestServers:
    @pytest.mark.parametrize(
        ("host", "target"), [("tf-serving", "tf-serving:8501"), ("10.0.0.1", "10.0.0.1:8501"), ("::1", "[::1]:8501")]
    )
    def test_the_model_server_is_addressed_by_name_or_number(
        self, host: str, target: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built: list[tuple[str, dict[str, object]]] = []
        monkeypatch.setattr(bootstrap, "TensorFlowServing", lambda target, **options: built.append((target, options)))
        bootstrap.build_model_server(Settings.from_environ({"TF_HOST": host, "TF_PORT": "8501", "GRPC_TIMEOUT": "7"}))
        assert built[0][0] == target
        assert built[0][1]["credentials"] is None
        assert built[0][1]["timeout_seconds"] == 7

    def test_tls_trusts_the_authorities_that_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ca.pem").write_bytes(b"an authority")
        roots: list[bytes | None] = []

        def credentials(pem: bytes | None) -> str:
            roots.append(pem)
            return "credentials"

        monkeypatch.setattr(grpc, "ssl_channel_credentials", credentials)
        monkeypatch.setattr(bootstrap, "TensorFlowServing", lambda _, **options: options["credentials"])
        environ = {"TF_TLS": "true", "TF_CA_CERTS": str(tmp_path / "ca.pem")}
        server: object = bootstrap.build_model_server(Settings.from_environ(environ))
        assert server == "credentials"
        bootstrap.build_model_server(Settings.from_environ({"TF_TLS": "true"}))
        assert roots == [b"an authority", None]

    def test_redis_is_reached_as_the_settings_say(self) -> None:
        environ = {"REDIS_HOST": "r", "REDIS_PORT": "7000", "REDIS_TIMEOUT": "9", "REDIS_PASSWORD": "p"}
        redis = bootstrap.build_redis(Settings.from_environ(environ))
        assert (redis.host, redis.port, redis.backoff) == ("r", 7000, 9)
        assert redis._options["password"] == "p"  # noqa: S105 - made up
        assert not redis._options.get("ssl")

    def test_a_client_submits_where_the_worker_takes_jobs(self, bucket: Path) -> None:
        client = bootstrap.build_client(settings_of(bucket))
        assert isinstance(client, Client)


def as_storage(bucket: Bucket) -> ObjectStorage:
    """Say that it is one: `check_storage` wants no more of it."""
    return bucket  # type: ignore[return-value]  # see above


class Knowing(TensorFlowServing):
    """A model server that knows these versions."""

    def __init__(self, states: States | ConsumerError) -> None:
        super().__init__("127.0.0.1:1")
        self._states = states

    def states(self, model: ModelId) -> dict[int, pb.ModelVersionStatus]:
        assert model == ModelId("Nuclei")
        if isinstance(self._states, ConsumerError):
            raise self._states
        return {v: pb.ModelVersionStatus(version=v, state=state) for v, state in self._states.items()}


class TestServedVersion:
    def test_the_latest_is_the_highest_that_is_available(self) -> None:
        kind = pb.ModelVersionStatus
        server = Knowing({5: kind.AVAILABLE, 6: kind.AVAILABLE, 7: kind.LOADING, 8: kind.END})
        assert bootstrap.served_version(server, ModelId("Nuclei")) == 6

    def test_a_version_that_is_named_is_not_asked_for(self) -> None:
        assert bootstrap.served_version(Knowing(ServerNotReady("asked")), ModelId("Nuclei", 0)) == 0

    @pytest.mark.parametrize("known", [{}, PredictionFailed("what is that? (UNIMPLEMENTED)")], ids=repr)
    def test_a_server_that_does_not_tell_leaves_it_open(self, known: States | ConsumerError) -> None:
        assert bootstrap.served_version(Knowing(known), ModelId("Nuclei")) is None

    @pytest.mark.parametrize("error", [PredictionFailed("late (DEADLINE_EXCEEDED)"), ServerNotReady("absent")])
    def test_one_that_does_not_answer_is_an_error(self, error: ConsumerError) -> None:
        with pytest.raises(type(error)):
            bootstrap.served_version(Knowing(error), ModelId("Nuclei"))


def test_a_missing_package_stops_the_start(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="EXTRA_OUTPUTS with 'table-parquet' needs the extra 'outputs'"):
        bootstrap.build_worker(settings_of(bucket, EXTRA_OUTPUTS="geojson,table-parquet"))
