"""Spots: where they are in a prediction, in which cell each lies, the table of both, and a picture.

Arrays in, arrays out.  Nothing here knows files, models, jobs or Redis.  A spot is a point, (row, column) in pixels,
pixel centres at whole numbers; the spots of an image are a float64 array (N, 2).
"""

from redis_consumer.spots.assign import cell_of_spots, match_spots_to_cells
from redis_consumer.spots.detect import (
    Points,
    detect_spots,
    spots_at_maxima,
    spots_at_pixels,
    spots_at_regions,
    spots_within_pixels,
)
from redis_consumer.spots.picture import spot_picture
from redis_consumer.spots.table import SpotTable, spot_table

__all__ = [
    "Points",
    "SpotTable",
    "cell_of_spots",
    "detect_spots",
    "match_spots_to_cells",
    "spot_picture",
    "spot_table",
    "spots_at_maxima",
    "spots_at_pixels",
    "spots_at_regions",
    "spots_within_pixels",
]
