from redis_consumer.processing.kernels.plain import (
    apart as apart,
    blend as blend,
    candidates as candidates,
    correlate as correlate,
    count as count,
    fade_in as fade_in,
    flood as flood,
    look_up as look_up,
    sizes as sizes,
    without_higher as without_higher,
)
