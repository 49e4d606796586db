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
    if "scipy.ndimage" not in _parts:
        with _lock:
            _parts["scipy.ndimage"] = import_module("scipy.ndimage")


def load() -> None:
    """Load all of it, 30 MB, which many a worker never needs; where another thread loads anything, wait for that."""
    if len(_parts) == len(FUNCTIONS):
        return
    with _lock:
        for name, functions in FUNCTIONS.items():
            part = import_module(name)
            for function in functions:
                getattr(part, function)
            _parts[name] = part


class _Skimage:
    def __getattr__(self, name: str) -> Any:
        """Return a part of scikit-image, all of whose functions above are loaded."""
        load()
        part = _parts[f"skimage.{name}"]
        setattr(self, name, part)
        return part


ski: Any = _Skimage()
