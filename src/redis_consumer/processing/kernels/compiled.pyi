from redis_consumer.processing.kernels.plain import (
    apart as apart,
    blend as blend,
    candidates as candidates,
    correlate as correlate,
    count as count,
    fade_in as fade_in,
    flood as flood,
    levels as levels,
    look_up as look_up,
    sizes as sizes,
    touch as touch,
    without_higher as without_higher,
)
