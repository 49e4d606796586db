"""A consumer written to the original's documented contract runs unchanged."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.onnx_models import save_nuclei
from tests.unit.consumers.lab import Lab

from redis_consumer import settings, utils
from redis_consumer.consumers import TensorFlowServingConsumer
from redis_consumer.errors import LeaseLost
from redis_consumer.serving.server import EmbeddedServer
from redis_consumer.worker import work_off

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from redis_consumer.arrays import AnyArray
    from redis_consumer.job import Job
    from redis_consumer.queues.memory import MemoryBroker

MODEL = {"model_name": "Doubling", "model_version": "3"}


class MyConsumer(TensorFlowServingConsumer):
    """Word for word as people have written them."""

    def _consume(self, redis_hash: str) -> str:
        hvals = self.redis.hgetall(redis_hash)
        self.logger.debug("Found %s", hvals)
        if hvals.get("status") in self.finished_statuses:
            return str(hvals.get("status"))
        self.update_key(redis_hash, {"status": "started", "identity_started": self.name})
        with utils.get_tempdir() as tempdir:
            fname = self.storage.download(hvals.get("input_file_name"), tempdir)
            image = utils.get_image(fname)
            results: Any = self.grpc_image(image, hvals.get("model_name"), hvals.get("model_version"))
            outpaths = utils.save_numpy_array(results, name="result", subdir="", output_dir=tempdir)
            zip_file = utils.zip_files(outpaths, tempdir)
            dest, output_url = self.storage.upload(zip_file)
            self.update_key(
                redis_hash,
                {"status": self.final_status, "output_url": output_url, "output_file_name": dest},
            )
        return self.final_status


class Hashes:
    """What `self.redis` is asked by old consumers, answered by the broker in memory."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._jobs = broker.jobs

    def hgetall(self, name: str) -> dict[str, str]:
        return dict(self._jobs.get(name, {}))

    def hget(self, name: str, key: str) -> str | None:
        return self.hgetall(name).get(key)

    def hmset(self, name: str, mapping: Mapping[str, object]) -> bool:
        self.hset(name, mapping=mapping)
        return True

    def hset(self, name: str, key: str | None = None, value: object = None, mapping: Mapping[str, object] | None = None) -> None:  # fmt: skip  # noqa: E501 - redis-py's
        given = {**(mapping or {}), **({key: value} if key else {})}
        self._jobs.setdefault(name, {}).update({field: str(text) for field, text in given.items()})


@pytest.fixture
def image() -> AnyArray:
    return np.arange(30 * 40, dtype=np.uint16).reshape(30, 40)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path)
    made.models.add("Doubling:3", lambda given: given * 2)
    made.models.add("Two:1", lambda given: {"b_last": given + 2, "a_first": given + 1})
    made.models.add("Mixed:1", lambda given: {"features": given, "prediction_1": given + 1, "prediction": given + 2})
    return made


def consume(
    lab: Lab, consumer_type: type[TensorFlowServingConsumer], image: AnyArray, **fields: str
) -> tuple[Job, dict[str, str]]:
    """Return the job as it was claimed, and what became of it."""
    job = lab.claim(**{"input_file_name": lab.put(image, "cells.tif"), **MODEL, **fields})
    work_off(lab.queue, lab.equipped(consumer_type, Hashes(lab.broker)).handle, job)
    return job, lab.broker.jobs[job.key]


def test_the_documented_consumer_runs_unchanged(lab: Lab, image: AnyArray) -> None:
    job, fields = consume(lab, MyConsumer, image)
    assert fields["status"] == "done", fields
    assert lab.files(fields).keys() == {"result_feature_0.tif"}
    np.testing.assert_array_equal(np.squeeze(lab.files(fields)["result_feature_0.tif"]), image * 2)
    assert fields["output_url"].endswith(fields["output_file_name"])
    assert fields["identity_started"] == fields["updated_by"] == "pod"
    # The old contract forgets what the Kiosk's client waits for; the worker adds it.
    assert dt.datetime.fromisoformat(fields["finished_at"]).tzinfo is not None
    assert float(fields["total_time"]) >= 0
    assert fields["total_jobs"] == "1"
    assert job.key not in lab.broker.dead


class Watchful(MyConsumer):
    """Looks at what each step gives."""

    def _consume(self, redis_hash: str) -> str:
        before = Path.cwd()
        hvals = self.redis.hgetall(redis_hash)
        assert hvals["status"] == "started"
        with utils.get_tempdir() as tempdir:
            assert Path(tempdir).is_absolute()
            assert Path.cwd() == before
            fname = self.storage.download(hvals["input_file_name"], tempdir)
            assert Path(fname) == Path(tempdir, "cells.tif")
            image = utils.get_image(fname)
            assert image.shape == (30, 40, 1)
            assert image.dtype == np.float32
            results: Any = self.grpc_image(image, hvals["model_name"], hvals["model_version"])
            assert results.shape == (1, 30, 40, 1)
            outpaths = utils.save_numpy_array(results, name="result", subdir="", output_dir=tempdir)
            assert outpaths == [str(Path(tempdir, "result_feature_0.tif"))]
            zip_file = utils.zip_files(outpaths, tempdir)
            assert Path(zip_file).parent == Path(tempdir)
            upload = self.storage.upload(zip_file)
            dest, output_url = upload
            assert dest == f"output/{Path(zip_file).name}"
            assert self.storage.url(dest) == output_url
            self.update_key(redis_hash, {"status": self.final_status, "output_url": output_url})
            assert self.redis.hget(redis_hash, "status") == "started", "no reader may see half a result"
            assert self.redis.hget(redis_hash, "output_url") is None
            self.update_key(redis_hash, {"status": self.final_status, "output_file_name": dest})
        assert not Path(tempdir).exists()
        return self.final_status


def test_each_step_gives_what_it_always_gave(lab: Lab, image: AnyArray) -> None:
    _, fields = consume(lab, Watchful, image)
    assert fields["status"] == "done", fields
    assert fields["output_url"].endswith(fields["output_file_name"])


@pytest.mark.parametrize(
    ("model", "added"),
    [("Doubling:3", None), ("Two:1", [1, 2]), ("Mixed:1", [2, 1])],
    ids=["one", "several, by name", "predictions alone"],
)
def test_one_output_is_an_array_and_several_are_a_list(lab: Lab, model: str, added: list[int] | None) -> None:
    consumer = lab.equipped(MyConsumer)
    assert isinstance(consumer, MyConsumer)
    image = np.ones((5, 6, 1), np.float32)
    name, _, version = model.partition(":")
    outputs = consumer.grpc_image(image, name, version)
    if added is None:
        assert isinstance(outputs, np.ndarray)
        np.testing.assert_array_equal(outputs, image[np.newaxis] * 2)
    else:
        assert isinstance(outputs, list)
        assert [float(output.flat[0]) - 1 for output in outputs] == added


class Seasoned(TensorFlowServingConsumer):
    """What consumers on people's side branches use besides."""

    def __init__(
        self, redis_client: Any, storage_client: Any, queue: str, final_status: str = "done", **kwargs: Any
    ) -> None:
        super().__init__(redis_client, storage_client, queue, final_status, **kwargs)
        self.own = "kept"

    def _consume(self, redis_hash: str) -> str:
        assert self.own == "kept"
        assert self._redis_hash == redis_hash
        assert self._redis_values["model_name"] == self.redis.hget(redis_hash, "model_name") == "Doubling"
        assert self.finished_statuses == {"done", "failed"}
        assert (self.final_status, self.failed_status) == ("done", "failed")
        assert (self.queue, self.name, self.hostname) == ("q", "pod", "pod")
        assert self.logger.name == "Seasoned"
        assert dt.datetime.fromisoformat(self.get_current_timestamp()).utcoffset() == dt.timedelta(0)
        assert settings.NUCLEAR_MODEL == "NuclearSegmentation:6"
        assert settings._strip("/a/b/") == "a/b"
        self.redis.hmset("other", {"label": 1})
        self.update_key("other", {"status": "new"})
        assert self.redis.hgetall("other").keys() == {"label", "status", "updated_at", "updated_by"}
        self.update_key(redis_hash, {"status": "predicting", "progress": 50, "share": 0.5})
        assert self.redis.hget(redis_hash, "progress") == "50"
        self.update_key(redis_hash)
        return self.final_status


def test_the_names_that_consumers_use_are_there(lab: Lab, image: AnyArray) -> None:
    _, fields = consume(lab, Seasoned, image)
    assert fields["status"] == "done", fields
    assert fields["share"] == "0.5"


class Broken(TensorFlowServingConsumer):
    def _consume(self, redis_hash: str) -> str:
        raise KeyError(redis_hash)


def test_whatever_is_raised_fails_the_job_in_one_line(lab: Lab, image: AnyArray) -> None:
    job, fields = consume(lab, Broken, image)
    assert (fields["status"], fields["reason"]) == ("failed", f"KeyError: '{job.key}'")


class Undecided(TensorFlowServingConsumer):
    def _consume(self, redis_hash: str) -> str:
        self.update_key(redis_hash, {"status": "waiting"})
        return "waiting"


def test_a_status_that_is_not_final_brings_the_job_again_as_it_is(lab: Lab, image: AnyArray) -> None:
    job, fields = consume(lab, Undecided, image)
    assert fields["status"] == "waiting"
    record = lab.broker.records[job.key]
    assert record.due is not None
    assert record.deliveries == 0


@pytest.mark.parametrize("data", [["status", "done"], "status", 1])
def test_update_key_takes_dictionaries_alone(lab: Lab, data: Any) -> None:
    consumer = lab.equipped(MyConsumer, Hashes(lab.broker))
    with pytest.raises(ValueError, match="dictionary"):
        consumer.update_key("any", data)


def test_a_consumer_that_lost_its_job_writes_nothing_more(lab: Lab, image: AnyArray) -> None:
    job = lab.claim(input_file_name=lab.put(image, "cells.tif"))
    consumer = lab.equipped(MyConsumer, Hashes(lab.broker))
    consumer.job = job
    lab.broker.jobs[job.key]["status"] = "done"  # by somebody else
    before = dict(lab.broker.jobs[job.key])
    with pytest.raises(LeaseLost):
        consumer.update_key(job.key, {"status": "predicting"})
    assert lab.broker.jobs[job.key] == before


def test_an_archive_belongs_to_another_queue(lab: Lab, image: AnyArray) -> None:
    _, fields = consume(lab, MyConsumer, image, input_file_name="uploads/cells.ZIP")
    assert fields["reason"] == "Invalid filetype for \"q\" job: 'uploads/cells.ZIP'"


def test_a_job_without_a_model_says_which_field_is_wrong(lab: Lab, image: AnyArray) -> None:
    job = lab.claim(input_file_name=lab.put(image, "cells.tif"))
    work_off(lab.queue, lab.equipped(MyConsumer, Hashes(lab.broker)).handle, job)
    assert "'model_name'" in lab.broker.jobs[job.key]["reason"]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lab: Lab) -> Iterator[Lab]:
    """A real model server, where the settings say."""
    save_nuclei(tmp_path / "models", "OneHead", 1, heads=["prediction"])
    server = EmbeddedServer(tmp_path / "models")
    lab.environ = {"TF_HOST": "127.0.0.1", "TF_PORT": str(server.start())}
    for name, value in lab.environ.items():
        monkeypatch.setenv(name, value)
    yield lab
    server.stop()


def test_a_predict_client_asks_the_model_server(served: Lab) -> None:
    consumer = served.equipped(MyConsumer)
    assert isinstance(consumer, MyConsumer)
    client = consumer._get_predict_client("OneHead", "1")
    image = np.full((1, 12, 12, 1), 3, np.float32)
    request = [{"in_tensor_name": "image", "in_tensor_dtype": "DT_FLOAT", "data": image}]
    outputs = client.predict(request, settings.GRPC_TIMEOUT)
    assert list(outputs) == ["prediction"]
    assert np.asarray(outputs["prediction"], np.float32) == pytest.approx(image - np.float32(0.3))
