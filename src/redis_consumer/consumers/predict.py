"""Have a model server predict on one image of any size: tiles out, tiles back.  Knows no jobs or files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.errors import JobRejected
from redis_consumer.models.batching import BatchLimits, batch_size_for, predict_batches, predict_stream
from redis_consumer.processing.detection import detected_label, detected_scale, detection_tiles
from redis_consumer.processing.rescale import resize
from redis_consumer.processing.tiling import Mosaic, cut, join, tile_grid, tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from redis_consumer.arrays import AnyArray, Image
    from redis_consumer.job import ModelId
    from redis_consumer.models.base import ModelServer, TensorSpec
    from redis_consumer.processing.tiling import PadMode, Read

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

    def predict(
        self, model: ModelId, image: Image, *, cuts: int = 0, field_size: int = 61, pad_mode: PadMode = "reflect"
    ) -> list[AnyArray]:
        """Return the model's outputs, sorted by name, each float32 (T, Y, X, C) of the image's size.

        `cuts` > 0 cuts the image into `cuts` x `cuts` pieces with a margin of half the model's `field_size`;
        otherwise the model's own input size decides about tiles, and `pad_mode` what surrounds the image.
        JobRejected if the model takes other images.  The image is let go of once its last tile is sent.
        """
        shape = image.shape
        if cuts > 0:
            self._size(model, shape)
            check_cuts(shape, cuts, field_size)
            pieces, grid = cut(image, cuts, field_size)
            return [join(heads, grid) for heads in self._heads(model, pieces)]
        finished = self.rows(model, shape, reader(image), pad_mode=pad_mode)
        del image
        outputs: list[AnyArray] = []
        for frame, rows, values in finished:
            if shape[0] == 1 and len(values[0]) == shape[1]:  # all of it is here already
                return [np.ascontiguousarray(part)[np.newaxis] for part in values]
            outputs = outputs or [np.empty((*shape[:3], part.shape[-1]), part.dtype) for part in values]
            for output, part in zip(outputs, values, strict=True):
                output[frame, rows] = part
            del values, part  # not while the next ones are waited for
        return outputs

    def rows(
        self, model: ModelId, shape: tuple[int, ...], read: Read, *, pad_mode: PadMode = "reflect"
    ) -> Iterator[tuple[int, slice, list[AnyArray]]]:
        """Yield the model's outputs for an image of `shape` (T, Y, X, C), from top to bottom, as `read` gives it.

        That is frame, rows, and for each output (rows, X, C), to be copied before more is asked for.  In memory are one
        row of tiles, the batches in flight, and for each output the rows that are not done: so the image may be larger
        than the memory.
        """
        height, width = self._size(model, shape)
        grid = tile_grid(shape, (tile_size(shape[1], height), tile_size(shape[2], width)))
        mosaics: list[Mosaic] = []
        done = 0
        pieces = tiles(read, grid, pad_mode)
        del read  # what it reads goes with the last tile: the model still has several in hand
        for heads in self._stream(model, pieces, (grid.rows.tile, grid.columns.tile, shape[3])):
            mosaics = mosaics or [Mosaic(grid) for _ in heads]
            done += len(heads[0])
            self.on_progress(done / grid.count)
            finished = zip(*(m.add(head) for m, head in zip(mosaics, heads, strict=True)), strict=True)
            del heads  # they go with the last of their rows: not while the next ones are waited for
            yield from ((*parts[0][:2], [values for _, _, values in parts]) for parts in finished)

    def whole(self, model: ModelId, image: Image) -> list[AnyArray]:
        """Return the model's outputs, sorted by name, as they are: one entry for each frame, of any shape.

        For models that predict no images, but boxes.  Frames are sent whole: JobRejected where they are not of the
        size that the model takes, which `fitted` gives them.
        """
        height, width = self._size(model, image.shape)
        rows, columns = image.shape[1:3]
        if (height or rows, width or columns) != (rows, columns):
            raise JobRejected(f"The image has {rows} x {columns} pixels, the model {model} takes {height} x {width}")
        return list(self._outputs(model, image).values())

    def fitted(self, model: ModelId, image: Image) -> Image:
        """Return `image` with the rows and columns that the model takes, its own where they are free."""
        height, width = self._size(model, image.shape)
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

    def _size(self, model: ModelId, shape: tuple[int, ...]) -> tuple[int | None, int | None]:
        """Return the rows and columns that the model takes, None where free; JobRejected for other channels."""
        height, width, channels = image_axes(model, only_input(model, self.server.describe(model)))
        if channels is not None and channels != shape[-1]:
            raise JobRejected(
                f"The image has {shape[-1]} channels, the model {model} takes {channels}: "
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

    def _stream(self, model: ModelId, pieces: Iterable[AnyArray], size: tuple[int, ...]) -> Iterator[list[AnyArray]]:
        """Yield the outputs for pieces of `size` (Y, X, C), batch by batch."""
        batch_size = batch_size_for((1, *size), self.max_batch_size, unit=self.unit)
        made = predict_stream(self.server, model, pieces, batch_size=batch_size, limits=self.limits)
        return map(partial(checked_heads, model, size), made)

    def _heads(self, model: ModelId, pieces: AnyArray) -> list[AnyArray]:
        return checked_heads(model, pieces.shape[1:], self._outputs(model, pieces))


def reader(image: Image) -> Read:
    """Return what gives rows of an image (T, Y, X, C), which it alone may hold."""
    return lambda frame, rows: image[frame, rows]


def checked_heads(model: ModelId, size: tuple[int, ...], outputs: Mapping[str, AnyArray]) -> list[AnyArray]:
    """Return outputs (N, Y, X, any channels); JobRejected where one is not as large as the pieces (Y, X, C)."""
    for name, head in outputs.items():
        if head.ndim != 4 or head.shape[1:3] != size[:2]:  # noqa: PLR2004 - the four axes of the layout
            raise JobRejected(
                f"The model {model} answers {size} with {name!r} of shape {head.shape[1:]}: "
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
