"""The multiplex (tissue) model: what its image is made of, and its heads as label images of whole cells and nuclei."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

import numpy as np

from redis_consumer.processing.normalize import mesmer_preprocess
from redis_consumer.processing.watershed import deep_watershed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray, Image

    LabelImage = npt.NDArray[np.int32]

Compartment = Literal["whole-cell", "nuclear", "both"]

WHOLE_CELL: Final[Mapping[str, Any]] = {
    "maxima_threshold": 0.075,
    "maxima_smooth": 0,
    "interior_threshold": 0.2,
    "interior_smooth": 2,
    "small_objects_threshold": 15,
    "fill_holes_threshold": 15,
    "radius": 2,
}
"""Parameters of `deep_watershed` for whole cells."""
NUCLEAR: Final[Mapping[str, Any]] = {**WHOLE_CELL, "maxima_threshold": 0.1}
"""The same for nuclei."""

_HEADS = 4
_INTERIOR = slice(1, 2)  # of the classes of a pixelwise head


def multiplex_preprocess(image: AnyArray) -> Image:
    """Return what `mesmer_preprocess` does, as it is for the published model."""
    return mesmer_preprocess(image).astype(np.float32, copy=False)


def compartment_of(name: str) -> Compartment:
    """Return `name` as a compartment; ValueError tells what is allowed."""
    if name not in get_args(Compartment):
        raise ValueError(f"compartment {name!r}: allowed are {', '.join(get_args(Compartment))}")
    return cast("Compartment", name)


def mesmer_postprocess(
    outputs: Sequence[AnyArray],
    compartment: str = "whole-cell",
    whole_cell: Mapping[str, Any] | None = None,
    nuclear: Mapping[str, Any] | None = None,
) -> LabelImage:
    """Return labels (T, Y, X, 1), or (T, Y, X, 2) for `both`: whole cells first, ids of each their own.

    `outputs` are the model's four heads, (T, Y, X, C) each: inner distance and classes of the whole cell, then of
    the nucleus; of the classes the second one counts.  `whole_cell` and `nuclear` change single parameters of
    `deep_watershed`.  ValueError for another number of heads, an unknown compartment, or what `deep_watershed`
    refuses.
    """
    chosen = compartment_of(compartment)
    if len(outputs) != _HEADS:
        raise ValueError(f"the multiplex model has {len(outputs)} outputs: expected are {_HEADS}")
    cells, nuclei = outputs[:2], outputs[2:]
    if chosen == "whole-cell":
        return _labels(cells, WHOLE_CELL, whole_cell)
    if chosen == "nuclear":
        return _labels(nuclei, NUCLEAR, nuclear)
    return np.concatenate([_labels(cells, WHOLE_CELL, whole_cell), _labels(nuclei, NUCLEAR, nuclear)], axis=-1)


def multiplex_postprocess(outputs: Sequence[AnyArray], compartment: str = "whole-cell") -> LabelImage:
    """Return what `mesmer_postprocess` does; of a model with two heads, which knows whole cells only, those.

    ValueError where a model with two heads is asked for nuclei.
    """
    if len(outputs) == _HEADS // 2 and compartment_of(compartment) == "whole-cell":
        return _labels(outputs, WHOLE_CELL, None)
    return mesmer_postprocess(outputs, compartment)


def _labels(heads: Sequence[AnyArray], defaults: Mapping[str, Any], changes: Mapping[str, Any] | None) -> LabelImage:
    distance, classes = heads
    if classes.shape[-1] < _INTERIOR.stop:
        raise ValueError(f"the multiplex model's classes have shape {classes.shape}: expected are two at least")
    return deep_watershed([distance, classes[..., _INTERIOR]], **{**defaults, **(changes or {})})
