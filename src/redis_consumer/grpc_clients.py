"""Old names for the model server, each a line or two around `redis_consumer.models`.

For consumers written for the original; new ones ask `self.predict` or take a `predict` argument.  A client opens a
connection for each call, as the original did, and waits for a cold server as the settings say.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from redis_consumer import settings
from redis_consumer.job import ModelId
from redis_consumer.models.patience import PatientModelServer
from redis_consumer.models.tf_serving import TensorFlowServing
from redis_consumer.wire.messages import SIGNATURE_DEF, SIGNATURE_DEF_URL
from redis_consumer.wire.tensors import data_type_of, type_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from redis_consumer.arrays import AnyArray
    from redis_consumer.models.base import ModelServer, TensorSpec


class GrpcClient:
    """A model server at ``host``, written ``host:port``."""

    def __init__(self, host: str) -> None:
        self.host = host

    @contextmanager
    def connect(self, timeout_seconds: float) -> Iterator[ModelServer]:
        """Give a connection, and close it."""
        server = TensorFlowServing(self.host, timeout_seconds=timeout_seconds)
        max_retry = settings.MAX_RETRY if settings.MAX_RETRY > 0 else sys.maxsize
        try:
            yield PatientModelServer(server, wait_seconds=settings.MODEL_WAIT, max_retry=max_retry, divides=False)
        finally:
            server.close()


class PredictClient(GrpcClient):
    """One model on a model server."""

    def __init__(self, host: str, model_name: str, model_version: str | int) -> None:
        super().__init__(host)
        self.model_name = model_name
        self.model_version = model_version
        self._model = ModelId.of(model_name, model_version)

    def predict(self, request_data: Iterable[Mapping[str, Any]], request_timeout: float = 10) -> dict[str, AnyArray]:
        """Return the outputs by name.

        Each item of `request_data` has an ``in_tensor_name`` and its ``data``; ``in_tensor_dtype`` may stand beside
        them, but the model's signature decides.
        """
        inputs = {item["in_tensor_name"]: np.asarray(item["data"]) for item in request_data}
        with self.connect(request_timeout) as server:
            return server.predict(self._model, inputs)

    def get_model_metadata(self) -> dict[str, Any]:
        """Return the inputs of ``serving_default``, nested as the JSON of a GetModelMetadataResponse."""
        with self.connect(10) as server:
            inputs = {spec.name: _json(spec) for spec in server.describe(self._model)}
        signatures = {"@type": SIGNATURE_DEF_URL, "signatureDef": {"serving_default": {"inputs": inputs}}}
        return {
            "modelSpec": {"name": self.model_name, "version": str(self.model_version)},
            "metadata": {SIGNATURE_DEF: signatures},
        }


def _json(spec: TensorSpec) -> dict[str, Any]:
    if spec.shape is None:
        shape: dict[str, Any] = {"unknownRank": True}
    else:
        shape = {"dim": [{"size": "-1" if size is None else str(size)} for size in spec.shape]}
    return {"dtype": type_name(data_type_of(spec.dtype)), "tensorShape": shape}
