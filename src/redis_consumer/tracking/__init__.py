"""Cells followed from frame to frame: label movies in, tracks with divisions out.

`link` needs no model; `track` uses the two models of the Kiosk, `track_pairs` the one of its first years.  Knows no
files, jobs or model servers.
"""

from redis_consumer.tracking.cells import unique_labels
from redis_consumer.tracking.features import CropMode, Crops
from redis_consumer.tracking.learned import COMPARER_INPUTS, Model, Rules, track
from redis_consumer.tracking.linking import MAX_DISTANCE, link
from redis_consumer.tracking.pair_features import Sides
from redis_consumer.tracking.pairwise import PAIR_INPUTS, PairRules, track_pairs

__all__ = [
    "COMPARER_INPUTS",
    "MAX_DISTANCE",
    "PAIR_INPUTS",
    "CropMode",
    "Crops",
    "Model",
    "PairRules",
    "Rules",
    "Sides",
    "link",
    "track",
    "track_pairs",
    "unique_labels",
]
