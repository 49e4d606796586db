"""Array functions: what happens to an image before and after the model.

Arrays in, arrays out, shape (T, Y, X, C).  Nothing here knows files, models, jobs or Redis.

A job names its steps in two fields, `preprocess_function` and `postprocess_function`.  Adding one is a function in a
file, and a line in one of the two tables below.  Importing this package is cheap: scipy and scikit-image load their
parts at the first call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from redis_consumer.arrays import AnyArray, Image
from redis_consumer.processing.detection import detected_label, detected_scale, detection_tiles, sampled_tiles
from redis_consumer.processing.drift import correct_drift
from redis_consumer.processing.mibi import mibi
from redis_consumer.processing.multiplex import mesmer_postprocess, multiplex_postprocess, multiplex_preprocess
from redis_consumer.processing.normalize import (
    histogram_normalization,
    mesmer_preprocess,
    min_max_normalize,
    normalize,
    percentile_threshold,
)
from redis_consumer.processing.pixelwise import pixelwise
from redis_consumer.processing.rescale import resize, scaled_size
from redis_consumer.processing.retinanet import retinanet, retinanet_semantic
from redis_consumer.processing.tiling import CutGrid, TileGrid, cut, join, tile, untile
from redis_consumer.processing.watershed import deep_watershed, watershed
from redis_consumer.scikit import load_filters

__all__ = [
    "LOCAL",
    "POST_PROCESSES",
    "PRE_PROCESSES",
    "TAKE_BOXES",
    "TAKE_SIZE",
    "CutGrid",
    "PostProcess",
    "PreProcess",
    "TileGrid",
    "chain",
    "correct_drift",
    "cut",
    "deep_watershed",
    "detected_label",
    "detected_scale",
    "detection_tiles",
    "histogram_normalization",
    "join",
    "mesmer_postprocess",
    "mesmer_preprocess",
    "mibi",
    "min_max_normalize",
    "multiplex_postprocess",
    "multiplex_preprocess",
    "normalize",
    "percentile_threshold",
    "phase_preprocess",
    "pixelwise",
    "resize",
    "retinanet",
    "retinanet_semantic",
    "sampled_tiles",
    "scaled_size",
    "takes_boxes",
    "tile",
    "untile",
    "warm_up",
    "watershed",
]

phase_preprocess = histogram_normalization
"""The same under an older name."""

PreProcess = Callable[[Image], Image]
"""Takes the whole image, before it is cut into tiles; returns one of the same shape."""

PostProcess = Callable[[Sequence[AnyArray]], AnyArray]
"""Takes all outputs of the model, sorted by name; returns labels (T, Y, X, C) of integers.

An output has shape (T, Y, X, C), but for what `retinanet` takes.  `none` alone returns what the model predicted.
"""

PRE_PROCESSES: Mapping[str, PreProcess] = {
    "none": lambda image: image,
    "normalize": normalize,
    "histogram_normalization": histogram_normalization,
    "phase_preprocess": phase_preprocess,
    "multiplex_preprocess": multiplex_preprocess,
}

POST_PROCESSES: Mapping[str, PostProcess] = {
    "none": lambda outputs: outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=-1),
    "pixelwise": lambda outputs: pixelwise(outputs[-1]),
    "deepcell": lambda outputs: pixelwise(outputs[-1]),  # deprecated name of pixelwise
    "mibi": lambda outputs: mibi(outputs[-1]),
    "watershed": lambda outputs: watershed(outputs[-1]),
    "deep_watershed": deep_watershed,
    "retinanet": retinanet,
    "retinanet-semantic": lambda outputs: retinanet_semantic(outputs[:-1]),
    "multiplex_postprocess": multiplex_postprocess,
    "multiplex_postprocess_consumer": multiplex_postprocess,  # the same under a newer name
}

TAKE_SIZE = frozenset({"retinanet"})
"""Names of functions that take the rows and columns of the image as well, by the keyword `size`."""

TAKE_BOXES = frozenset({"retinanet", "retinanet-semantic"})
"""Names of functions whose model predicts boxes in whole frames, no image."""

LOCAL = frozenset(
    {
        "deep_watershed",
        "deepcell",
        "mibi",
        "multiplex_postprocess",
        "multiplex_postprocess_consumer",
        "pixelwise",
        "watershed",
    }
)
"""Names of functions whose labels (T, Y, X, 1) depend on what is near alone: so they may be made block by block."""

MOST_STEPS = 20
"""In one field of a job."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def chain(
    names: str, table: Mapping[str, Callable[[_In], _Out]], field: str, size: tuple[int, int] | None = None
) -> Callable[[_In], _Out]:
    """Return the function that `names` stands for: names of `table`, separated by commas, applied in that order.

    Nothing, or `none`, is the table's `none`.  After a function that takes several arrays the next one gets a
    list of the one result.  `size` are the rows and columns of the image, for functions that need them.  An unknown
    name is a ValueError that tells the name, the `field` it stood in and what is allowed.
    """
    wanted = [name.strip() for name in names.split(",")]
    if len(wanted) > MOST_STEPS:
        raise ValueError(f"{field} names {len(wanted)} steps: allowed are {MOST_STEPS}")
    for name in wanted:
        if name and name not in table:
            raise ValueError(f"{field} {name!r}: allowed are {', '.join(sorted(table))}")
    functions: Mapping[str, Callable[..., Any]] = table
    steps = [
        partial(functions[name], size=size) if name in TAKE_SIZE else functions[name]
        for name in wanted
        if name not in {"", "none"}
    ]
    first, *rest = steps or [table["none"]]

    def run(argument: _In) -> _Out:
        result = first(argument)
        for step in rest:
            result = step(result if isinstance(argument, np.ndarray) else [result])
        return result  # type: ignore[no-any-return]  # the table's functions say what they return

    return run


def takes_boxes(names: str) -> bool:
    """Return whether one of these steps needs what is predicted for whole frames (`TAKE_BOXES`)."""
    return any(name.strip() in TAKE_BOXES for name in names.split(","))


def warm_up() -> None:
    """Load what the first job would wait for (0.5 s on one core).  Safe to call in a thread of its own."""
    load_filters()
    blank = np.zeros((1, 8, 8, 1), np.float32)
    blank[0, 4, 4] = 1
    deep_watershed([histogram_normalization(blank)])
