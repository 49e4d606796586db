"""What every prediction must be before it is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def require_finite(values: npt.NDArray[Any], what: str) -> None:
    """ValueError, with `what` in front, where a value is NaN or infinity."""
    # The sum of such values is none itself, and one call with nothing in between; but a sum may be too large.
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum()
    if not (np.isfinite(total) or np.isfinite(values).all()):
        raise ValueError(f"{what} holds values that are not finite (NaN or infinity)")
