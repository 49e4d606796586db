"""Cells followed from frame to frame: label movies in, tracks with divisions out.

`link` needs no model; `track` uses the two models of the Kiosk.  Knows no files, jobs or model servers.
"""

from redis_consumer.tracking.features import CropMode, Crops
from redis_consumer.tracking.learned import Model, Rules, track
from redis_consumer.tracking.linking import MAX_DISTANCE, link

__all__ = ["MAX_DISTANCE", "CropMode", "Crops", "Model", "Rules", "link", "track"]
