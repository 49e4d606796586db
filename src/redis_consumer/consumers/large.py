"""Images too large for the memory, segmented block by block: planes in files, and of them in memory what is in hand.

What comes out are the objects of `ImageFileConsumer.segment`, which does the same in one piece.  Knows no jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, count
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.canvas import Canvas
from redis_consumer.consumers.follower import Follower
from redis_consumer.processing.rescale import Resized, ResizedLabels, ResizedStain, scaled_size
from redis_consumer.processing.stitching import stitch
from redis_consumer.processing.views import VIEWS, extent
from redis_consumer.results import writing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray, Image
    from redis_consumer.consumers.follower import Wait
    from redis_consumer.consumers.predict import Predictor
    from redis_consumer.images import OpenImage
    from redis_consumer.job import ModelId
    from redis_consumer.processing.planes import Plane, Rectangle
    from redis_consumer.processing.tiling import PadMode

STRIP = 64
"""Rows that are written at a time."""
SAMPLE = 2048
"""Side, in pixels, of a square as large as what models see that look at the whole: the middle of frames."""


@dataclass(frozen=True)
class Recipe:
    """What is done with an image, besides the model."""

    prepare: str
    """A name of `redis_consumer.processing.views.VIEWS`."""
    finish: Callable[[Sequence[AnyArray]], AnyArray]
    """Makes labels (T, Y, X, `features`) of the model's outputs; those of a pixel depend on what is near alone.

    Called in another thread than `LargeImage.segment`.
    """
    features: int = 1
    scale: float = 1.0
    """Zoom to the model's pixel size."""
    pad_mode: PadMode = "reflect"


@dataclass(frozen=True, eq=False)
class LargeLabels:
    """Label images in files."""

    planes: Sequence[Sequence[Plane]]
    """By frame and feature."""
    count: int
    """Objects in all."""
    cut: int
    """Those that were too long to be seen whole: a part of them may be missing."""
    names: tuple[str, ...] = ()
    """What each feature is, where it is known."""


@dataclass(frozen=True)
class _Frame:
    """The planes of a frame that is predicted, and labelled behind that."""

    heads: list[list[Canvas]]
    """One for each channel of each output of the model."""
    targets: list[Canvas]
    """One for each feature."""


class LargeImage:
    """An image of which each plane that is analysed is copied into a file, once."""

    def __init__(
        self,
        image: OpenImage,
        folder: Path,
        predicting: Callable[[ModelId], AbstractContextManager[Predictor]],
        on_block: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_block` is called, in the thread that calls `segment`, whenever that waits for the next block."""
        self._image = image
        self._folder = folder
        self._predicting = predicting
        self._on_block = on_block
        self._numbers = count()
        self._planes: dict[tuple[int, int], Canvas] = {}

    def sample(self, channels: Sequence[int]) -> Image:
        """Return the middle of frames, float32 (T, Y, X, C): of as many as fit into a sample, evenly spread."""
        frames, height, width, _ = self._image.sizes
        rows, columns = place = _middle(height), _middle(width)
        count = SAMPLE**2 // ((rows.stop - rows.start) * (columns.stop - columns.start))
        chosen = np.linspace(0, frames - 1, min(count, frames)).astype(int).tolist()
        sample = np.empty(
            (len(chosen), rows.stop - rows.start, columns.stop - columns.start, len(channels)), np.float32
        )
        for number, frame in enumerate(chosen):
            for index, channel in enumerate(channels):
                sample[number, ..., index] = self._plane(frame, channel)[place]
        return sample

    def segment(self, parts: Sequence[tuple[ModelId, Sequence[int]]], recipe: Recipe) -> LargeLabels:
        """Return labels of every frame: the features of each part, a model and its channels, behind each other.

        ValueError for what a step refuses.  RetryJob if the disk is full.
        """
        made = [self._segmented(model, channels, recipe) for model, channels in parts]
        planes = [[plane for labels in of_frame for plane in labels.planes[0]] for of_frame in zip(*made, strict=True)]
        everything = [labels for of_part in made for labels in of_part]
        return LargeLabels(planes, sum(one.count for one in everything), sum(one.cut for one in everything))

    def _segmented(self, model: ModelId, channels: Sequence[int], recipe: Recipe) -> list[LargeLabels]:
        """Return the labels of each frame.

        All frames are one stream of tiles, so that a batch may hold tiles of several.  A second thread labels behind
        it, at most one frame: a block once all rows of its view are there.  It has planes in hand and nothing else: the
        image, the model server and what the job's readers see are for this thread alone.
        """
        frames, *size = self._image.sizes[:3]
        height, width = scaled_size((size[0], size[1]), recipe.scale)
        everywhere = slice(0, width)

        @lru_cache(1)
        def prepared(frame: int) -> Sequence[Plane]:
            planes = _zoomed([self._plane(frame, channel) for channel in channels], (height, width))
            return [VIEWS[recipe.prepare](plane) for plane in planes]

        def read(frame: int, rows: slice) -> AnyArray:
            return _together([plane[rows, everywhere] for plane in prepared(frame)])

        in_hand: list[_Frame] = []
        labels: list[LargeLabels] = []

        def label(frame: int, wait: Wait) -> None:
            wait(1)
            labels.append(self._labelled(in_hand[frame], recipe, wait))

        with Follower(label, frames) as labelling:
            with self._predicting(model) as predictor:
                rows_of = _watched(predictor, labelling).rows
                shape = frames, height, width, len(channels)
                for frame, rows, values in rows_of(model, shape, read, pad_mode=recipe.pad_mode):
                    if frame == len(in_hand):
                        labelling.finish(frame - 1, self._on_block)  # its planes are written anew
                        targets = [self._canvas((height, width), np.int32) for _ in range(recipe.features)]
                        heads = in_hand[-2].heads if frame > 1 else self._heads((height, width), values)
                        in_hand.append(_Frame(heads, targets))
                    for head, part in zip(in_hand[frame].heads, values, strict=True):
                        _write(head, rows, part)
                    labelling.reached(frame, rows.stop)
            labelling.finish(frames, self._on_block)
        for canvas in chain.from_iterable(head for one in in_hand[:2] for head in one.heads):
            canvas.remove()
        return labels

    def _labelled(self, frame: _Frame, recipe: Recipe, wait: Wait) -> LargeLabels:
        """Return the labels of a frame of which all rows will be there that are waited for."""

        def label(place: Rectangle) -> npt.NDArray[np.int32]:
            wait(place[0].stop)
            outputs = [_together([plane[place] for plane in head])[np.newaxis] for head in frame.heads]
            return np.asarray(recipe.finish(outputs)[0], np.int32)

        stitched = stitch(label, frame.targets)
        size = self._image.sizes[1:3]
        labels = [_unzoomed(target, size, single=recipe.features == 1) for target in frame.targets]
        return LargeLabels([labels], sum(one.count for one in stitched), sum(one.cut for one in stitched))

    def _heads(self, size: tuple[int, int], values: Sequence[AnyArray]) -> list[list[Canvas]]:
        """Return a plane for each channel of each output of the model."""
        return [[self._canvas(size, part.dtype) for _ in range(part.shape[-1])] for part in values]

    def _plane(self, frame: int, channel: int) -> Canvas:
        if (frame, channel) not in self._planes:
            canvas = self._canvas(self._image.sizes[1:3], self._image.dtype)
            for rows, columns, values in self._image.blocks(frame, channel):
                canvas[rows, columns] = values
            self._planes[frame, channel] = canvas
        return self._planes[frame, channel]

    def _canvas(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Canvas:
        height, width = shape
        with writing(self._folder, f"plane-{next(self._numbers)}") as path:
            return Canvas.create(path, (height, width), dtype)


def _watched(predictor: Predictor, labelling: Follower) -> Predictor:
    """Return a predictor that labelling ends, where it fails, with the next batch."""

    def on_progress(done: float) -> None:
        predictor.on_progress(done)
        labelling.check()

    return replace(predictor, on_progress=on_progress)


def _write(planes: Sequence[Canvas], rows: slice, values: AnyArray) -> None:
    """Write values (rows, X, channels) into a plane for each channel, few rows at a time: what is copied is memory."""
    for start in range(0, len(values), STRIP):
        strip = values[start : start + STRIP]
        place = slice(rows.start + start, rows.start + start + len(strip)), slice(0, values.shape[1])
        for channel, plane in enumerate(planes):
            plane[place] = strip[..., channel]


def _together(parts: Sequence[AnyArray]) -> AnyArray:
    """Return arrays (Y, X) as the channels of one: a single one is not copied."""
    return parts[0][..., np.newaxis] if len(parts) == 1 else np.stack(parts, axis=-1)


def _middle(size: int) -> slice:
    start = max((size - SAMPLE) // 2, 0)
    return slice(start, min(start + SAMPLE, size))


def _zoomed(planes: Sequence[Plane], size: tuple[int, int]) -> Sequence[Plane]:
    """Return planes of this size, as the channels of one image are resized."""
    if planes[0].shape == size:
        return planes
    if len(planes) == 1:
        return [Resized(planes[0], size)]
    extents = [extent(plane) for plane in planes]
    lowest, highest = min(low for low, _ in extents), max(high for _, high in extents)
    return [ResizedStain(plane, size, lowest, highest) for plane in planes]


def _unzoomed(labels: Plane, size: tuple[int, int], *, single: bool) -> Plane:
    return labels if labels.shape == size else ResizedLabels(labels, size, single=single)
