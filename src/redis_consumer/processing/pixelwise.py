"""Labels from the classes of single pixels: what is connected is one object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy  # loads its parts at their first use

from redis_consumer.processing.checks import require_finite
from redis_consumer.processing.labels import remove_small

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray


def pixelwise(
    prediction: AnyArray, threshold: float = 0.8, min_size: int = 50, interior_axis: int = -2
) -> npt.NDArray[np.int32]:
    """Return labels (T, Y, X, 1) of `prediction` (T, Y, X, classes): regions of interior above `threshold`.

    `interior_axis` is the channel of the interior.  Pixels are connected by their edges; each frame is labelled
    alone; regions of fewer than `min_size` pixels are removed, the ids of the others stay.  ValueError for a prediction
    without that channel, or with values that are not finite.
    """
    if prediction.ndim != 4 or not -prediction.shape[-1] <= interior_axis < prediction.shape[-1]:  # noqa: PLR2004
        raise ValueError(
            f"pixelwise: the prediction has shape {prediction.shape}: expected are (T, Y, X, classes) "
            f"with a class {interior_axis}"
        )
    require_finite(prediction, "pixelwise: the prediction")
    result = np.empty((*prediction.shape[:3], 1), np.int32)
    for interior, labels in zip(prediction[..., interior_axis], result[..., 0], strict=True):
        regions, _ = scipy.ndimage.label(np.greater(interior, threshold))
        labels[...] = remove_small(regions, min_size)
    return result
