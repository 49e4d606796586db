"""`Consumer` and `TensorFlowServingConsumer`: the contract that people's own consumers are written against.

The names are those that consumers have always used.  Override `_consume(redis_hash)` and return a status; or
take a rung with more done for you: `redis_consumer.consumers.image`.
"""

from __future__ import annotations

import datetime as dt
import logging
import socket
import tempfile
import uuid
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from redis_consumer.archives import archive_limits, zip_files
from redis_consumer.consumers.children import Children
from redis_consumer.consumers.later import batched, dimension_order, resized, valid_input
from redis_consumer.consumers.predict import Predictor
from redis_consumer.errors import JobRejected
from redis_consumer.grpc_clients import PredictClient
from redis_consumer.images import read_image_seed
from redis_consumer.job import Job, ModelId, Status
from redis_consumer.models.batching import BatchLimits
from redis_consumer.processing import POST_PROCESSES, PRE_PROCESSES, chain
from redis_consumer.results import entry_stem, save_channels
from redis_consumer.wire.tensors import data_type_of, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray
    from redis_consumer.models.base import ModelServer, TensorSpec
    from redis_consumer.queues.base import FieldValue, JobQueue
    from redis_consumer.redis import RedisClient
    from redis_consumer.settings import Settings
    from redis_consumer.storage.base import Storage, Upload


@dataclass(frozen=True)
class Tools:
    """What one lane's consumer works with, besides Redis and the storage."""

    jobs: JobQueue
    models: ModelServer
    settings: Settings
    limits: BatchLimits = field(default_factory=BatchLimits)
    """Batch sizes that the model server refused; shared by all lanes."""
    retries: deque[str] = field(default_factory=deque)
    """Why predictions of the job in hand were tried again."""
    served_version: Callable[[ModelId], int | None] = lambda model: model.version
    """Which version answers now where a model is asked for; None where the server does not tell."""


class Consumer:
    """Does the jobs of one queue, one at a time; each lane has an instance of its own.

    The constructor's parameters are those of old consumers that override it.  `equip` follows it.
    """

    def __init__(
        self,
        redis_client: RedisClient,
        storage_client: Storage,
        queue: str,
        final_status: str = Status.DONE,
        failed_status: str = Status.FAILED,
        name: str | None = None,
    ) -> None:
        self.redis = redis_client
        self.storage = storage_client
        self.queue = queue.lower()
        self.name = name or socket.gethostname()
        self.hostname = self.name
        self.final_status = final_status
        self.failed_status = failed_status
        self.finished_statuses = {final_status, failed_status}
        self.logger = logging.getLogger(type(self).__name__)
        self.tools: Tools | None = None
        self.job = Job("", self.queue)
        self._redis_hash = ""
        self._redis_values: dict[str, str] = {}

    needs_model_server: ClassVar[bool] = False
    """Whether a worker is ready only when the model server answers."""

    @staticmethod
    def source_of(queue: str) -> str:
        """Return the queue whose jobs this type does, for what the setting `QUEUE` says: the same, by default."""
        return queue

    @staticmethod
    def warm_up() -> None:
        """Load what the first job would wait for: called once, in a thread beside the lanes.  Nothing, by default."""

    def equip(self, tools: Tools) -> None:
        """Give the consumer its tools; called once, before the first job."""
        self.tools = tools

    def handle(self, job: Job) -> str:
        """Do the job and return its status: the seam between the worker and a consumer."""
        self.job, self._redis_hash, self._redis_values = job, job.key, dict(job.fields)
        if self.tools:
            self.tools.retries.clear()
        if not self.is_valid_hash(job.key):
            # Of an address only the end: it may have a login in it.
            name = job.get("input_file_name")
            shown = name.rpartition("/")[2].partition("?")[0] if "://" in name else name
            raise JobRejected(f'Invalid filetype for "{self.queue}" job: {shown!r}')
        return self._consume(job.key)

    def _consume(self, redis_hash: str) -> str:
        """Do the job and return its status.  Whatever is raised makes it `failed`: see `redis_consumer.errors`."""
        raise NotImplementedError(f"{type(self).__name__} does not override _consume (job {redis_hash})")

    def is_valid_hash(self, redis_hash: str | None) -> bool:
        """Return whether the job is of a kind that this consumer does at all."""
        return redis_hash is not None

    def update_key(self, redis_hash: str, data: Mapping[str, FieldValue] | None = None) -> None:
        """Write `data`, `updated_at` and `updated_by` into a job's hash.

        Into the job in hand only while it is ours (LeaseLost otherwise); a final status is written when the
        handler has returned, in one step with what belongs to it.  Any other hash is written as it is.
        """
        if not isinstance(data, dict | None):
            # ValueError, not TypeError: it is the one that old consumers know.
            raise ValueError(f"update_key takes a dictionary of fields, not {type(data).__name__}")  # noqa: TRY004
        fields = dict(data or {})
        if redis_hash == self.job.key and self.tools:
            self.tools.jobs.update(self.job, fields)
            return
        stamp = {"updated_at": self.get_current_timestamp(), "updated_by": self.name}
        self.redis.hset(redis_hash, mapping={**fields, **stamp})

    def children(self) -> Children:
        """Return what fans the job in hand out into children, and gathers their results."""
        tools = self._tools()
        return Children(self.job, tools.jobs, self.storage, self.redis, archive_limits(tools.settings))

    def get_current_timestamp(self) -> str:
        """Return the time as readers of a job's hash expect it: ISO 8601 with the UTC offset."""
        return dt.datetime.now(dt.UTC).isoformat()

    def _tools(self) -> Tools:
        if self.tools is None:
            raise RuntimeError(f"{type(self).__name__} was not equipped: call equip(Tools(...)) first")
        return self.tools


class TensorFlowServingConsumer(Consumer):
    """A consumer that asks a model server for predictions."""

    needs_model_server: ClassVar[bool] = True
    archive_suffixes: ClassVar[tuple[str, ...]] = (".zip",)
    """Inputs of these kinds belong to the `-zip` queue."""

    def is_valid_hash(self, redis_hash: str | None) -> bool:
        """Return whether the input is a single file: archives have a queue of their own."""
        if redis_hash is None:
            return False
        name = self._redis_values.get("input_file_name") or ""
        return not name.lower().endswith(self.archive_suffixes)

    def grpc_image(self, img: AnyArray, model_name: str, model_version: str | int) -> AnyArray | list[AnyArray]:
        """Return the model's prediction for one image of shape (Y, X, C), the batch axis added and kept.

        The outputs whose names start with ``prediction``, or all where there is none, sorted by name: one as an
        array of shape (1, ...), several as a list.  Untiled: the whole image is one request.
        """
        model = self.model_id(model_name, model_version)
        name = self._inputs(model)[0].name
        outputs = self._tools().models.predict(model, {name: np.expand_dims(img, 0)})
        chosen = [v for k, v in outputs.items() if k.startswith("prediction")] or list(outputs.values())
        return chosen[0] if len(chosen) == 1 else chosen

    def _get_predict_client(self, model_name: str, model_version: str | int) -> PredictClient:
        """Return a client for one model, as old consumers use it: ``client.predict([{"in_tensor_name": ...}])``."""
        settings = self._tools().settings
        return PredictClient(f"{settings.tf_host}:{settings.tf_port}", model_name, model_version)

    def get_model_metadata(self, model_name: str, model_version: str | int) -> list[dict[str, Any]]:
        """Return the model's inputs as old consumers read them: name, TensorFlow dtype, shape with -1 for free."""
        return [
            {
                "in_tensor_name": spec.name,
                "in_tensor_dtype": type_name(data_type_of(spec.dtype)),
                "in_tensor_shape": ",".join("-1" if n is None else str(n) for n in spec.shape or ()),
            }
            for spec in self._inputs(self.model_id(model_name, model_version))
        ]

    # What consumers have asked for since 2020.

    def download_image(self, image: str) -> npt.NDArray[np.float32]:
        """Return the image of this key in the bucket, as `redis_consumer.utils.get_image` gives it."""
        with tempfile.TemporaryDirectory(prefix="redis-consumer-") as folder:
            return read_image_seed(self.storage.download(image, folder))

    def preprocess(self, image: AnyArray, keys: Sequence[str]) -> AnyArray:
        """Return an image (Y, X, C) or (B, Y, X, C) after these steps, names of `redis_consumer.processing`."""
        made = chain(",".join(keys), PRE_PROCESSES, "preprocess_function")(batched(image, 4).astype(np.float32))
        return made if image.ndim == made.ndim else made[0]

    def predict(
        self,
        image: AnyArray,
        model_name: str,
        model_version: str | int,
        untile: bool = True,  # noqa: FBT001, FBT002 - the old signature
    ) -> AnyArray | list[AnyArray]:
        """Return the model's outputs for an image (Y, X, C) or (B, Y, X, C), the batch axis added and kept.

        Of the image's size, joined from tiles of the model's; without `untile` the whole image is one tile.  One as
        an array, several as a list, sorted by name.
        """
        tools = self._tools()
        settings = tools.settings
        predictor = Predictor(tools.models, settings.tf_max_batch_size, settings.tf_min_model_size, tools.limits)
        model, batch = self.model_id(model_name, model_version), batched(image, 4).astype(np.float32)
        outputs = predictor.predict(model, batch) if untile else predictor.whole(model, batch)
        return outputs[0] if len(outputs) == 1 else outputs

    def postprocess(self, image: AnyArray | Sequence[AnyArray], keys: Sequence[str]) -> AnyArray:
        """Return what these steps, names of `redis_consumer.processing`, make of the outputs of `predict`."""
        outputs = [image] if isinstance(image, np.ndarray) else image
        return chain(",".join(keys), POST_PROCESSES, "postprocess_function")([batched(one, 4) for one in outputs])

    def save_output(
        self,
        image: AnyArray | Sequence[AnyArray],
        redis_hash: str,
        save_name: str | None = None,
        output_shape: Sequence[int] | float | None = None,
    ) -> Upload:
        """Store each channel of the result in one zip; return its key and address.

        Both old ways: ``(image, redis_hash, save_name, output_shape)``, the last one a shape or the scale to undo,
        and ``(image, save_name)``.
        """
        arrays = [image] if isinstance(image, np.ndarray) else image
        stem = entry_stem(redis_hash if save_name is None else save_name)
        with tempfile.TemporaryDirectory(prefix="redis-consumer-") as folder:
            paths = save_channels([resized(array, output_shape) for array in arrays], stem, folder)
            files = [(path, Path(path).relative_to(folder).as_posix()) for path in paths]
            return self.storage.upload(zip_files(files, Path(folder, f"{uuid.uuid4()}.zip")))

    def validate_model_input(
        self,
        image: AnyArray | Sequence[AnyArray],
        model_name: str,
        model_version: str | int,
        channels: Sequence[int] | None = None,
    ) -> AnyArray | list[AnyArray]:
        """Return the image, or one for each input of the model, channels last; ValueError where it does not fit."""
        settings = self._tools().settings
        most = (settings.max_image_height, settings.max_image_width)
        pairs = self._by_input(image, model_name, model_version)
        valid = [valid_input(one, spec, channels, most) for one, spec in pairs]
        return valid[0] if isinstance(image, np.ndarray) else valid

    def detect_dimension_order(
        self, image: AnyArray | Sequence[AnyArray], model_name: str, model_version: str | int
    ) -> list[str]:
        """Return the axes of the image for each input of the model, e.g. ``["YXC"]``, guessed by its sizes."""
        return [dimension_order(one, spec) for one, spec in self._by_input(image, model_name, model_version)]

    def _by_input(
        self, image: AnyArray | Sequence[AnyArray], model_name: str, model_version: str | int
    ) -> list[tuple[AnyArray, TensorSpec]]:
        images = [image] if isinstance(image, np.ndarray) else list(image)
        specs = self._inputs(self.model_id(model_name, model_version))
        if len(images) != len(specs):
            raise ValueError(f"The model {model_name} has {len(specs)} inputs, given are {len(images)}")
        return list(zip(images, specs, strict=True))

    def model_id(self, name: str | None, version: str | int | None = None) -> ModelId:
        """Return the model of these two fields; JobRejected names the one that is wrong."""
        try:
            return ModelId.of(name or "", version)
        except ValueError as error:
            raise JobRejected(f"The fields 'model_name' and 'model_version' are wrong: {error}") from None

    def _inputs(self, model: ModelId) -> Sequence[TensorSpec]:
        return self._tools().models.describe(model)
