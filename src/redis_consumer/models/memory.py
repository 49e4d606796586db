"""A model server in memory: functions are its models.  For tests, and for consumers tried out without a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.errors import ModelNotFound
from redis_consumer.models.inputs import fit_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis_consumer.arrays import AnyArray
    from redis_consumer.job import ModelId
    from redis_consumer.models.base import TensorSpec


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """A model: what it takes, and the function from inputs to outputs, both by name."""

    inputs: Sequence[TensorSpec]
    function: Callable[[dict[str, AnyArray]], Mapping[str, AnyArray]]


class MemoryModelServer:
    """A `ModelServer`.  Each key names a version; the highest one answers where none is asked for."""

    def __init__(self, models: Mapping[ModelId, MemoryModel]) -> None:
        self._models = dict(models)

    def describe(self, model: ModelId) -> list[TensorSpec]:
        """Return the model's inputs, sorted by name."""
        return sorted(self._find(model).inputs, key=lambda spec: spec.name)

    def predict(self, model: ModelId, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Return copies of what the function returns: nobody shares memory with a model server."""
        found = self._find(model)
        fitting = fit_inputs(model, found.inputs, inputs)
        outputs = found.function({name: array.copy() for name, array in fitting.items()})
        return {name: np.array(outputs[name]) for name in sorted(outputs)}

    def _find(self, model: ModelId) -> MemoryModel:
        versions = {m.version or 0: found for m, found in self._models.items() if m.name == model.name}
        version = max(versions, default=None) if model.version is None else model.version
        if version not in versions:
            raise ModelNotFound(f"There is no model {model}, there are {sorted(map(str, self._models))}")
        return versions[version]
