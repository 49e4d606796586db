from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from redis_consumer.processing import (
    POST_PROCESSES,
    PRE_PROCESSES,
    chain,
    deep_watershed,
    histogram_normalization,
    mesmer_postprocess,
    mibi,
    normalize,
    pixelwise,
    retinanet,
    warm_up,
    watershed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis_consumer.arrays import AnyArray, Image

IMAGE = np.random.default_rng(0).random((1, 24, 24, 1), np.float32)


def test_the_names_are_those_that_jobs_use() -> None:
    assert set(PRE_PROCESSES) == {
        "none",
        "normalize",
        "histogram_normalization",
        "phase_preprocess",
        "multiplex_preprocess",
    }
    assert set(POST_PROCESSES) == {
        "none",
        "pixelwise",
        "deepcell",
        "mibi",
        "watershed",
        "deep_watershed",
        "retinanet",
        "retinanet-semantic",
        "multiplex_postprocess",
        "multiplex_postprocess_consumer",
    }


@pytest.mark.parametrize("names", ["", " ", "none", "none,none", ","])
def test_no_name_and_none_change_nothing(names: str) -> None:
    assert chain(names, PRE_PROCESSES, "preprocess_function")(IMAGE) is IMAGE
    assert chain(names, POST_PROCESSES, "postprocess_function")([IMAGE]) is IMAGE


def test_without_postprocessing_all_outputs_are_kept_as_channels() -> None:
    result = chain("none", POST_PROCESSES, "postprocess_function")([IMAGE, 2 * IMAGE])
    np.testing.assert_array_equal(result, np.concatenate([IMAGE, 2 * IMAGE], axis=-1))


def test_functions_follow_each_other_in_the_order_of_their_names() -> None:
    run = chain("histogram_normalization, normalize", PRE_PROCESSES, "preprocess_function")
    np.testing.assert_array_equal(run(IMAGE), normalize(histogram_normalization(IMAGE)))


def test_after_the_outputs_a_function_gets_the_labels() -> None:
    def double(outputs: Sequence[AnyArray]) -> AnyArray:
        (labels,) = outputs
        return np.add(labels, labels)

    table = {**POST_PROCESSES, "double": double}
    run = chain("deep_watershed,double", table, "postprocess_function")
    np.testing.assert_array_equal(run([IMAGE, IMAGE]), 2 * deep_watershed([IMAGE, IMAGE]))


def test_an_unknown_name_tells_the_field_and_what_is_allowed() -> None:
    with pytest.raises(
        ValueError, match="preprocess_function 'sharpen': allowed are histogram_normalization, multiplex_preprocess,"
    ):
        chain("normalize,sharpen", PRE_PROCESSES, "preprocess_function")


@pytest.mark.parametrize("name", sorted(PRE_PROCESSES))
def test_preprocessing_keeps_the_layout(name: str) -> None:
    result: Image = PRE_PROCESSES[name](np.concatenate([IMAGE, IMAGE], axis=-1))
    assert result.shape == (1, 24, 24, 2)
    assert result.dtype == np.float32


def test_postprocessing_picks_the_outputs_that_it_needs() -> None:
    classes = np.random.default_rng(1).random((1, 24, 24, 4), np.float32)
    outputs = [IMAGE, IMAGE[:, ::-1], classes]
    expected = {
        "mibi": mibi(classes),
        "pixelwise": pixelwise(classes),
        "deepcell": pixelwise(classes),
        "watershed": watershed(classes),
        "deep_watershed": deep_watershed([IMAGE, classes]),
    }
    for name, labels in expected.items():
        result = POST_PROCESSES[name](outputs)
        assert np.issubdtype(result.dtype, np.integer)
        np.testing.assert_array_equal(result, labels)


def test_functions_for_boxes_get_what_they_need() -> None:
    boxes, scores = np.array([[[2, 3, 14, 17]]], np.float32), np.ones((1, 1), np.float32)
    heads: list[AnyArray] = [boxes, scores, np.zeros((1, 1)), np.ones((1, 1, 28, 28, 1), np.float32)]
    steps = np.zeros((1, 24, 24, 3), np.float32)
    found = chain("retinanet", POST_PROCESSES, "postprocess_function", size=(24, 24))(heads)
    np.testing.assert_array_equal(found, retinanet(heads, (24, 24)))
    assert np.count_nonzero(found) == 12 * 14
    semantic = chain("retinanet-semantic", POST_PROCESSES, "postprocess_function")([*heads, steps, IMAGE])
    np.testing.assert_array_equal(semantic, found)
    with pytest.raises(ValueError, match="rows and columns of the image are not known"):
        chain("retinanet", POST_PROCESSES, "postprocess_function")(heads)


def test_the_multiplex_pair_has_both_names() -> None:
    outputs = [IMAGE, np.repeat(IMAGE, 3, axis=-1)] * 2
    for name in ("multiplex_postprocess", "multiplex_postprocess_consumer"):
        np.testing.assert_array_equal(POST_PROCESSES[name](outputs), mesmer_postprocess(outputs))


def test_importing_loads_no_part_of_scipy_or_scikit_image() -> None:
    code = "import sys, redis_consumer.processing; print(*{'scipy.ndimage', 'skimage.morphology'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.split() == []


def test_warming_up_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    warm_up()
    assert not caplog.records
