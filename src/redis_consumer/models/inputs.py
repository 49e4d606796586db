"""Arrays made to fit a model's signature, or refused with the reason.  Knows no server and no wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.errors import InvalidModelInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis_consumer.arrays import AnyArray
    from redis_consumer.job import ModelId
    from redis_consumer.models.base import TensorSpec


def fit_inputs(model: ModelId, specs: Sequence[TensorSpec], inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Return the inputs cast to the dtypes of `specs`; InvalidModelInput for wrong names, ranks or kinds.

    Sizes are left to the server: TensorFlow Serving does not hold a model to the sizes of its signature.
    """
    wanted = [spec.name for spec in specs]
    if sorted(inputs) != sorted(wanted):
        raise InvalidModelInput(f"Model {model} takes the inputs {sorted(wanted)}, given are {sorted(inputs)}")
    return {spec.name: _fit(model, spec, np.asarray(inputs[spec.name])) for spec in specs}


def _fit(model: ModelId, spec: TensorSpec, array: AnyArray) -> AnyArray:
    if spec.shape is not None and array.ndim != len(spec.shape):
        raise InvalidModelInput(
            f"Model {model}: input {spec.name!r} has shape {array.shape}, expected is {written(spec.shape)}"
        )
    # A float image for an integer input is cast, as the original did; text is not read as numbers, and a
    # complex number does not silently lose its half.
    if (array.dtype.kind in "SUO") != (spec.dtype.kind == "O") or (array.dtype.kind == "c" and spec.dtype.kind != "c"):
        raise InvalidModelInput(f"Model {model}: input {spec.name!r} has dtype {array.dtype}, expected is {spec.dtype}")
    with np.errstate(invalid="ignore", over="ignore"):  # NaN has no integer: what comes is the platform's
        return array if array.dtype.kind in "SUO" else array.astype(spec.dtype, copy=False)


def written(shape: tuple[int | None, ...] | None) -> str:
    """Return a shape as people write it: ``(?, ?, ?, 1)``."""
    if shape is None:
        return "any"
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"
