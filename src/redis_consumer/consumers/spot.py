"""Spots, as the Kiosk's queue `spot` finds them: points, and a picture that shows them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from redis_consumer.arrays import Spots
from redis_consumer.consumers.fields import understood
from redis_consumer.consumers.image import ImageConsumer
from redis_consumer.errors import JobRejected
from redis_consumer.job import ModelId, Status
from redis_consumer.processing import min_max_normalize
from redis_consumer.spots import detect_spots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis_consumer.arrays import AnyArray, Image, Result
    from redis_consumer.job import Job
    from redis_consumer.spots import Points

HEADS = ("classification", "offset_regression")
"""What the model predicts, in the order of the names."""


class SpotConsumer(ImageConsumer):
    """The spots of each frame, or batch entry, of an image of one channel.

    Fields of the job, each with a default where it is blank: `channels` (one; an image of several must name it),
    `model_name` and `model_version`, `dimension_order`.  The image is not scaled.
    """

    unspoken = frozenset({Status.POST_PROCESSING})
    notes_axes = True

    @staticmethod
    def warm_up() -> None:
        """Load the libraries of the array functions."""
        blank = np.zeros((1, 8, 8, 2), np.float32)
        detect_spots(min_max_normalize(blank), blank)

    def analyze(self, image: Image, job: Job) -> Result:  # noqa: ARG002 - the contract's parameter
        """Find the spots of every frame; an image without any is no failure."""
        settings = self._tools().settings
        model = self.job_model() or self.default_model()
        self.work.parameters |= {"threshold": settings.polaris_threshold, "clip": settings.polaris_clip}
        ready = understood(partial(min_max_normalize, clip=settings.polaris_clip), image)
        outputs = self.predict_with(model, ready)
        if len(outputs) != len(HEADS):
            raise JobRejected(f"The model {model} has {len(outputs)} outputs: expected are {' and '.join(HEADS)}")
        return Spots(tuple(understood(partial(found, threshold=settings.polaris_threshold), outputs)), image)

    def default_model(self) -> ModelId:
        """Return the model of this type, or the setting `POLARIS_MODEL`."""
        return ModelId.parse(self.model) if self.model else self._tools().settings.polaris_model


def found(outputs: Sequence[AnyArray], threshold: float) -> list[Points]:
    """Return the spots of each frame in the model's two outputs."""
    classification, offsets = outputs
    return detect_spots(classification, offsets, threshold=threshold)
