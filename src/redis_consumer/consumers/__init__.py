"""What is done with a job.  People add here: a function, an `ImageConsumer`, or a `TensorFlowServingConsumer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis_consumer.consumers.archive import ZipFileConsumer
from redis_consumer.consumers.base import Consumer, TensorFlowServingConsumer, Tools
from redis_consumer.consumers.caliban import CalibanConsumer
from redis_consumer.consumers.children import Children, ChildResult
from redis_consumer.consumers.image import ImageConsumer, Predict, consumer
from redis_consumer.consumers.mesmer import MesmerConsumer
from redis_consumer.consumers.polaris import PolarisConsumer
from redis_consumer.consumers.segmentation import ImageFileConsumer, SegmentationConsumer
from redis_consumer.consumers.spot import SpotConsumer

if TYPE_CHECKING:
    from collections.abc import Mapping

MultiplexConsumer = MesmerConsumer
TrackingConsumer = CalibanConsumer
"""Both: the names until 2021."""

CONSUMERS: Mapping[str, type[Consumer]] = {
    "image": ImageFileConsumer,
    "segmentation": SegmentationConsumer,
    "mesmer": MesmerConsumer,
    "multiplex": MesmerConsumer,
    "spot": SpotConsumer,
    "caliban": CalibanConsumer,
    "tracking": CalibanConsumer,
    "polaris": PolarisConsumer,
    "zip": ZipFileConsumer,
}
"""The built-in consumer types, by the value of `CONSUMER_TYPE`."""

__all__ = [
    "CONSUMERS",
    "CalibanConsumer",
    "ChildResult",
    "Children",
    "Consumer",
    "ImageConsumer",
    "ImageFileConsumer",
    "MesmerConsumer",
    "MultiplexConsumer",
    "PolarisConsumer",
    "Predict",
    "SegmentationConsumer",
    "SpotConsumer",
    "TensorFlowServingConsumer",
    "Tools",
    "TrackingConsumer",
    "ZipFileConsumer",
    "consumer",
]
