"""The public API as its users' type checkers see it.  Checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, assert_type

import numpy as np
import numpy.typing as npt

from redis_consumer import settings, utils
from redis_consumer.arrays import AnyArray, Labels, as_image
from redis_consumer.bootstrap import build_client, build_worker
from redis_consumer.client import Client
from redis_consumer.consumers import (
    CONSUMERS,
    Consumer,
    ImageConsumer,
    Predict,
    TensorFlowServingConsumer,
    Tools,
    consumer,
)
from redis_consumer.errors import JobRejected, reason_of
from redis_consumer.job import Job, ModelId, Status
from redis_consumer.models.memory import MemoryModel, MemoryModelServer
from redis_consumer.processing import deep_watershed, histogram_normalization, normalize
from redis_consumer.queues.memory import MemoryBroker, MemoryJobQueue, MemorySubmitter
from redis_consumer.settings import Settings
from redis_consumer.storage.base import Upload
from redis_consumer.storage.object_store import open_storage
from redis_consumer.worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from redis_consumer.arrays import Image
    from redis_consumer.models.base import ModelServer, TensorSpec
    from redis_consumer.queues.base import JobQueue, Submitter
    from redis_consumer.redis import RedisClient
    from redis_consumer.storage.base import Storage

# The first rung: a function.


@consumer("nuclei", model="NuclearSegmentation:6")
def find_nuclei(image: Image, job: Job, predict: Predict) -> Labels | AnyArray:
    heads = predict(histogram_normalization(image))
    assert_type(heads, list[AnyArray])
    assert_type(job.get("scale", "1"), str)
    if image.shape[-1] != 1:
        raise JobRejected("one channel is expected")
    return Labels(deep_watershed(heads, small_objects_threshold=15))


assert_type(find_nuclei, type[ImageConsumer])

# The second rung: a class.


class Membranes(ImageConsumer):
    model = "Membranes:3"

    def analyze(self, image: Image, job: Job) -> Labels | AnyArray:
        again = self.predict(image, ModelId("Other", 2)) + self.predict(image, "Other:2")
        assert_type(again, list[AnyArray])
        assert_type(job.require("input_file_name"), str)
        return Labels(deep_watershed(self.predict(normalize(image))))


# The third rung: everything.


class MyConsumer(TensorFlowServingConsumer):
    def _consume(self, redis_hash: str) -> str:
        hvals: dict[str, str] = self.redis.hgetall(redis_hash)
        assert_type(self.get_current_timestamp(), str)
        with utils.get_tempdir() as tempdir:
            assert_type(tempdir, str)
            fname = self.storage.download(hvals["input_file_name"], tempdir)
            image = utils.get_image(fname)
            results = self.grpc_image(image, hvals["model_name"], hvals["model_version"])
            assert_type(results, AnyArray | list[AnyArray])
            if isinstance(results, list):
                results = results[0]
            outpaths = utils.save_numpy_array(results, name="result", subdir="", output_dir=tempdir)
            zip_file = utils.zip_files(outpaths, tempdir)
            dest, output_url = self.storage.upload(zip_file)
            assert_type(dest, str)
            assert_type(output_url, str)
            self.update_key(redis_hash, {"status": self.final_status, "output_url": output_url, "progress": 100})
        return self.final_status


def old_names(mine: MyConsumer) -> None:
    assert_type(mine.finished_statuses, set[str])
    assert_type(mine.hostname, str)
    assert_type(mine.get_model_metadata("Model", "1"), list[dict[str, Any]])
    assert_type(mine._get_predict_client("Model", 1).predict([{"in_tensor_name": "x", "data": 1}]), dict[str, AnyArray])
    assert_type(settings._strip("/a/"), str)
    _: Any = settings.NUCLEAR_MODEL


# New types are subtypes of the old values.


def old_values(job: Job, upload: Upload, labels: Labels) -> None:
    text: str = Status.DONE
    pair: tuple[str, str] = upload
    assert_type(upload.key, str)
    assert_type(labels.array, npt.NDArray[np.integer])
    assert_type(job.fields, Mapping[str, str])
    assert_type(ModelId.parse("Model:1"), ModelId)
    assert_type(reason_of(ValueError(text, pair)), str)


# The ports, and who implements them.


def ports(folder: Path, specs: list[TensorSpec], redis: RedisClient) -> Consumer:
    broker = MemoryBroker()
    jobs: JobQueue = MemoryJobQueue(broker, queue="q")
    submitter: Submitter = MemorySubmitter(broker)
    models: ModelServer = MemoryModelServer({ModelId("Model", 1): MemoryModel(specs, lambda inputs: inputs)})
    storage: Storage = open_storage("memory://")
    assert_type(storage.upload(folder / "result.zip"), Upload)
    assert_type(submitter.submit("q", "cells.tif", {"scale": 1.5}), str)
    made = CONSUMERS["image"](redis, storage, "q", name="pod")
    made.equip(Tools(jobs, models, Settings.from_environ({})))
    assert_type(made.handle(Job("key", "q")), str)
    return made


def programs(environ: Mapping[str, str], pixels: AnyArray) -> Image:
    given = Settings.from_environ(environ, overrides={"QUEUE": "q"})
    assert_type(given.nuclear_model, ModelId)
    assert_type(build_worker(given), Worker)
    assert_type(build_client(given), Client)
    return as_image(pixels, "CYX")
