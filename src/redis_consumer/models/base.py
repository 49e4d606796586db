"""The port of the model server.  Each docstring is the contract; `redis_consumer.testing.models` examines it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from redis_consumer.arrays import AnyArray
    from redis_consumer.job import ModelId


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model, as its signature says."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...] | None
    """Sizes with the batch axis first; None for a free size; None as a whole for an unknown rank."""


class ModelServer(Protocol):
    """Where predictions are made.  Safe for several threads."""

    def describe(self, model: ModelId) -> Sequence[TensorSpec]:
        """Return the model's inputs, sorted by name; errors as for `predict`."""

    def predict(self, model: ModelId, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Return every output of the model, sorted by name, as arrays of the server's dtype.

        Inputs are named as in `describe` and are cast to its dtypes.  ModelNotFound, InvalidModelInput and
        AccessDenied are final; ServerNotReady and ServerBusy mean "later"; PredictionFailed the rest.
        """
