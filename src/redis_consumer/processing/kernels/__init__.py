"""The innermost loops of the array functions: compiled where there was a compiler, else in numpy.

Each is one call that leaves the interpreter lock to others.  numpy needs dozens for the same, and takes the lock back
after each: lanes then wait for each other more than they compute (docs/decisions/compiled-kernels.md).
"""

from __future__ import annotations

from redis_consumer.processing.kernels.plain import BINS, Grey

try:
    from redis_consumer.processing.kernels import compiled as chosen
except ImportError:  # there was no compiler when this was installed
    from redis_consumer.processing.kernels import plain as chosen  # type: ignore[no-redef]

__all__ = [
    "BINS",
    "COMPILED",
    "Grey",
    "apart",
    "blend",
    "candidates",
    "correlate",
    "count",
    "fade_in",
    "flood",
    "levels",
    "look_up",
    "paste",
    "places_of",
    "sizes",
    "touch",
    "without_higher",
]

COMPILED = chosen.__name__.endswith(".compiled")

apart = chosen.apart
blend = chosen.blend
candidates = chosen.candidates
correlate = chosen.correlate
count = chosen.count
fade_in = chosen.fade_in
flood = chosen.flood
levels = chosen.levels
look_up = chosen.look_up
paste = chosen.paste
places_of = chosen.places_of
sizes = chosen.sizes
touch = chosen.touch
without_higher = chosen.without_higher
