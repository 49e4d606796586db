"""scikit-image and the parts of scipy that we use, loaded at their first use, by one thread.

Their parts, and even single functions, load when they are first asked for, and import each other in circles: of two
threads that do so at once, one may be given a part that is not yet complete, and its job would fail as if by a bug.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Any

FUNCTIONS = {
    "skimage.feature": ("peak_local_max",),
    "skimage.measure": ("regionprops",),
    "skimage.morphology": ("ball", "disk", "h_maxima", "reconstruction"),
    "skimage.segmentation": ("random_walker", "watershed"),
    "skimage.transform": ("resize",),
    "scipy.ndimage": (),
    "scipy.optimize": (),
    "scipy.spatial": (),
}
_lock = threading.Lock()
_parts: dict[str, Any] = {}


def load_filters() -> None:
    """Load `scipy.ndimage`, which every image needs; where another thread loads anything, wait for that."""
    _loaded("scipy.ndimage")


def load() -> None:
    """Load all of it, 30 MB, which many a worker never needs; where another thread loads anything, wait for that."""
    for name in FUNCTIONS:
        _loaded(name)


def _loaded(name: str) -> Any:
    """Return a part, its functions above loaded."""
    if name not in _parts:
        with _lock:
            part = import_module(name)
            for function in FUNCTIONS[name]:
                getattr(part, function)
            _parts[name] = part
    return _parts[name]


class _Skimage:
    def __getattr__(self, name: str) -> Any:
        """Return a part of scikit-image, its functions above loaded."""
        part = _loaded(f"skimage.{name}")
        setattr(self, name, part)
        return part


ski: Any = _Skimage()
