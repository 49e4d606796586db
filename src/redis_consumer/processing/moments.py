"""Mean and standard deviation of a plane that may be larger than memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Plane = npt.NDArray[Any]  # numbers


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and standard deviation of the pixels seen so far; at first of none.

    Blocks are joined as in Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983: in any order
    and size they give the same but for rounding, that of float64.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of the squared differences to the mean."""

    @property
    def deviation(self) -> float:
        """The standard deviation of all these pixels; 0 of none."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    def joined(self, values: Plane) -> Moments:
        """Return the moments of these pixels and those of a block, float32."""
        if not values.size:
            return self
        # Sums in float64: in float32 the mean of a constant block misses the constant by a bit.
        mean = float(values.mean(dtype=np.float64))
        near = np.float32(mean)
        squares = float(np.square(values - near).sum(dtype=np.float64)) - values.size * (mean - float(near)) ** 2
        count, apart = self.count + values.size, mean - self.mean
        share = values.size / count
        between = apart * apart * share * self.count
        return Moments(count, self.mean + apart * share, self.squares + max(squares, 0.0) + between)

    def standardized(self, values: Plane, epsilon: float) -> npt.NDArray[np.float32]:
        """Return float32 `values` less the mean, over the deviation; `epsilon` keeps that from being 0."""
        centred: npt.NDArray[np.float32] = values - np.float32(self.mean)
        centred /= np.float32(self.deviation + epsilon)
        return centred
