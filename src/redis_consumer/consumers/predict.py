"""Have a model server predict on one image of any size: tiles out, tiles back.  Knows no jobs or files."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.errors import JobRejected
from redis_consumer.models.batching import BatchLimits, batch_size_for, predict_batches
from redis_consumer.processing.detection import detected_label, detected_scale, detection_tiles
from redis_consumer.processing.rescale import resize
from redis_consumer.processing.tiling import cut, join, tile, untile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis_consumer.arrays import AnyArray, Image
    from redis_consumer.job import ModelId
    from redis_consumer.models.base import ModelServer, TensorSpec
    from redis_consumer.processing.tiling import PadMode

WHOLE = 1024
"""A model of free size gets axes up to this size (pixels) whole: no seams, and memory that a GPU has."""
TILE = 512
"""Beyond it, tiles of this size."""
DETECTION_TILE = 216
"""Side of the tiles (pixels) for a detection model of free size: that of the Kiosk's."""
MOST_GROWTH, MOST_VALUES = 16, 2**24
"""Cut pieces overlap: together they may hold so many times the image's values, or so many in any case."""


@dataclass(frozen=True)
class Predictor:
    """Asks one server for predictions on images."""

    server: ModelServer
    max_batch_size: int
    """How many tiles of `unit` x `unit` pixels and one channel go into one request."""
    unit: int
    limits: BatchLimits
    """What the server said about batch sizes, kept for the next image."""
    on_progress: Callable[[float], None] = lambda _: None

    def __call__(
        self, model: ModelId, image: Image, *, cuts: int = 0, field_size: int = 61, pad_mode: PadMode = "reflect"
    ) -> list[AnyArray]:
        """Return the model's outputs, sorted by name, each float32 (T, Y, X, C) of the image's size.

        `cuts` > 0 cuts the image into `cuts` x `cuts` pieces with a margin of half the model's `field_size`;
        otherwise the model's own input size decides about tiles, and `pad_mode` what surrounds the image.
        JobRejected if the model takes other images.
        """
        height, width = self._size(model, image)
        if cuts > 0:
            check_cuts(image.shape, cuts, field_size)
            pieces, grid = cut(image, cuts, field_size)
            return [join(heads, grid) for heads in self._heads(model, pieces)]
        size = (tile_size(image.shape[1], height), tile_size(image.shape[2], width))
        tiles, tiling = tile(image, size, pad_mode=pad_mode)
        heads = deque(self._heads(model, tiles))
        del tiles
        # Taken out one by one: they are much larger than what they become.
        return [untile(heads.popleft(), tiling) for _ in range(len(heads))]

    def whole(self, model: ModelId, image: Image) -> list[AnyArray]:
        """Return the model's outputs, sorted by name, as they are: one entry for each frame, of any shape.

        For models that predict no images, but boxes.  Frames are sent whole: JobRejected where they are not of the
        size that the model takes, which `fitted` gives them.
        """
        height, width = self._size(model, image)
        rows, columns = image.shape[1:3]
        if (height or rows, width or columns) != (rows, columns):
            raise JobRejected(f"The image has {rows} x {columns} pixels, the model {model} takes {height} x {width}")
        return list(self._outputs(model, image).values())

    def fitted(self, model: ModelId, image: Image) -> Image:
        """Return `image` with the rows and columns that the model takes, its own where they are free."""
        height, width = self._size(model, image)
        fitting = resize(image, (height or image.shape[1], width or image.shape[2]))
        return np.asarray(fitting, np.float32)

    def detect_scale(self, model: ModelId, image: Image) -> float:
        """Return the zoom that a model of one number for each tile finds for an image (T, Y, X, C).

        It sees as many of the first channels as it takes.  ValueError where its numbers are not finite.
        """
        return detected_scale(self._detections(model, image))

    def detect_label(self, model: ModelId, image: Image) -> int:
        """Return the class that a model of scores for each tile finds for an image, as `detect_scale` does."""
        return detected_label(self._detections(model, image))

    def _detections(self, model: ModelId, image: Image) -> AnyArray:
        height, width, channels = image_axes(model, only_input(model, self.server.describe(model)))
        size = (height or DETECTION_TILE, width or DETECTION_TILE)
        return next(iter(self._outputs(model, detection_tiles(image[..., :channels], size)).values()))

    def _size(self, model: ModelId, image: Image) -> tuple[int | None, int | None]:
        """Return the rows and columns that the model takes, None where free; JobRejected for other channels."""
        height, width, channels = image_axes(model, only_input(model, self.server.describe(model)))
        if channels is not None and channels != image.shape[-1]:
            raise JobRejected(
                f"The image has {image.shape[-1]} channels, the model {model} takes {channels}: "
                "name them in the field 'channels', e.g. '0'"
            )
        return height, width

    def _outputs(self, model: ModelId, tiles: AnyArray) -> dict[str, AnyArray]:
        return predict_batches(
            self.server,
            model,
            tiles,
            batch_size=batch_size_for(tiles.shape, self.max_batch_size, unit=self.unit),
            on_batch=lambda done, total: self.on_progress(done / total),
            limits=self.limits,
        )

    def _heads(self, model: ModelId, tiles: AnyArray) -> list[AnyArray]:
        outputs = self._outputs(model, tiles)
        for name, head in outputs.items():
            if head.ndim != tiles.ndim or head.shape[:3] != tiles.shape[:3]:
                raise JobRejected(
                    f"The model {model} answers {tiles.shape} with {name!r} of shape {head.shape}: "
                    "expected is an image of the same size"
                )
        return list(outputs.values())


def check_cuts(shape: tuple[int, ...], cuts: int, field_size: int) -> None:
    """Raise JobRejected where an image (T, Y, X, C) has no room for the cuts, or the pieces none in memory."""
    _, height, width, _ = shape
    margins = cuts * (field_size - 1)
    values = math.prod(shape) * (1 + margins / height) * (1 + margins / width)
    allowed = max(MOST_GROWTH * math.prod(shape), MOST_VALUES)
    if cuts > min(height, width) or field_size < 1 or values > allowed:
        raise JobRejected(
            f"The fields 'cuts' and 'field_size' are {cuts} and {field_size}: "
            f"allowed are {allowed} values for the pieces and their margins of an image of {height} x {width} pixels"
        )


def only_input(model: ModelId, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the model's single input; JobRejected if it has more."""
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise JobRejected(f"The model {model} has {len(inputs)} inputs ({names}): expected is one image")
    return inputs[0]


def image_axes(model: ModelId, spec: TensorSpec) -> tuple[int | None, int | None, int | None]:
    """Return rows, columns and channels of a model's input (N, Y, X, C), None where free."""
    if spec.shape is None:
        return None, None, None
    if len(spec.shape) != 4:  # noqa: PLR2004 - the four axes of the layout
        raise JobRejected(f"The model {model} takes {spec.name!r} of shape {spec.shape}: expected is (N, Y, X, C)")
    return spec.shape[1], spec.shape[2], spec.shape[3]


def tile_size(size: int, fixed: int | None) -> int:
    """Return the tile's size along one axis: the model's own, or whole up to a limit."""
    if fixed is not None:
        return fixed
    return size if size <= WHOLE else TILE
