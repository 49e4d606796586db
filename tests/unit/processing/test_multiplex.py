from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from redis_consumer.processing import (
    deep_watershed,
    mesmer_postprocess,
    mesmer_preprocess,
    multiplex_postprocess,
    multiplex_preprocess,
)
from redis_consumer.processing.multiplex import NUCLEAR, WHOLE_CELL

if TYPE_CHECKING:
    import numpy.typing as npt

    Map = npt.NDArray[np.float32]


def heads() -> list[Map]:
    """Return the model's outputs for cells of radius 12, with nuclei of 7, some without."""
    y, x = np.mgrid[:80, :90]
    outputs = []
    for radius, centres in ((12, [(20, 20), (20, 40), (60, 60)]), (7, [(20, 20), (60, 60)])):
        distance = np.min([np.hypot(y - cy, x - cx) for cy, cx in centres], axis=0) / radius
        inside = np.clip(3 * (1 - distance), 0, 1)
        classes = np.stack([(1 - inside) / 2, inside, (1 - inside) / 2], axis=-1)
        outputs += [np.clip(1 - distance, 0, 1)[None, ..., None], classes[None]]
    return [output.astype(np.float32) for output in outputs]


def test_compartments_are_features_with_ids_of_their_own() -> None:
    outputs = heads()
    cells, nuclei = (mesmer_postprocess(outputs, name) for name in ("whole-cell", "nuclear"))
    assert (cells.max(), nuclei.max()) == (3, 2)
    both = mesmer_postprocess(outputs, "both")
    np.testing.assert_array_equal(both, np.concatenate([cells, nuclei], axis=-1))


def test_the_second_class_is_the_interior() -> None:
    outputs = heads()
    for name, first, defaults in (("whole-cell", 0, WHOLE_CELL), ("nuclear", 2, NUCLEAR)):
        expected = deep_watershed([outputs[first], outputs[first + 1][..., 1:2]], **defaults)
        np.testing.assert_array_equal(mesmer_postprocess(outputs, name), expected)


def test_parameters_change_one_compartment() -> None:
    outputs, large = heads(), {"small_objects_threshold": 10_000}
    labels = mesmer_postprocess(outputs, "both", nuclear=large)
    assert labels[..., 0].any()
    assert not labels[..., 1].any()
    assert not mesmer_postprocess(outputs, whole_cell=large).any()


def test_a_model_of_two_heads_knows_whole_cells() -> None:
    outputs = heads()
    np.testing.assert_array_equal(multiplex_postprocess(outputs[:2]), mesmer_postprocess(outputs))
    np.testing.assert_array_equal(multiplex_postprocess(outputs, "both"), mesmer_postprocess(outputs, "both"))
    with pytest.raises(ValueError, match="has 2 outputs: expected are 4"):
        multiplex_postprocess(outputs[:2], "nuclear")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compartment": "cell"}, "compartment 'cell': allowed are whole-cell, nuclear, both"),
        ({"outputs": []}, "has 0 outputs: expected are 4"),
        ({"outputs": heads()[:2]}, "has 2 outputs: expected are 4"),
        ({"outputs": [heads()[0]] * 4}, "classes have shape"),
    ],
)
def test_what_is_no_multiplex_prediction_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mesmer_postprocess(**{"outputs": heads(), **change})


def test_the_image_is_prepared_for_the_published_model() -> None:
    image = np.random.default_rng(1).gamma(2, 100, (1, 40, 50, 2)).astype(np.float32)
    np.testing.assert_array_equal(multiplex_preprocess(image), mesmer_preprocess(image))
    assert multiplex_preprocess(image.astype(np.uint16)).dtype == np.float32
