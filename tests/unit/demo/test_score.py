"""F1 at an intersection over union of 0.5."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from redis_consumer.demo.score import contingency, score

if TYPE_CHECKING:
    import numpy.typing as npt


def squares(*spans: tuple[int, int, int], shape: tuple[int, int] = (20, 40)) -> npt.NDArray[np.int32]:
    """Return a label image with bars over all rows: (label, first column, end column)."""
    labels = np.zeros(shape, np.int32)
    for label, start, end in spans:
        labels[:, start:end] = label
    return labels


def test_the_truth_itself_is_perfect() -> None:
    truth = squares((3, 0, 10), (7, 10, 20))
    assert score(truth, truth).f1 == 1.0


def test_labels_are_names_not_numbers() -> None:
    truth = squares((1, 0, 10), (2, 10, 20))
    assert score(squares((900, 0, 10), (5, 10, 20)), truth).f1 == 1.0


def test_one_missed_of_two() -> None:
    result = score(squares((1, 0, 10)), squares((1, 0, 10), (2, 12, 22)))
    assert (result.matched, result.found, result.true) == (1, 1, 2)
    assert result.f1 == pytest.approx(2 / 3)


def test_a_split_object_counts_its_larger_half_only_above_half() -> None:
    truth = squares((1, 0, 10))
    assert score(squares((1, 0, 6), (2, 6, 10)), truth).matched == 1
    assert score(squares((1, 0, 5), (2, 5, 10)), truth).matched == 0


def test_two_merged_into_one_are_no_match() -> None:
    assert score(squares((1, 0, 20)), squares((1, 0, 10), (2, 10, 20))).matched == 0


@pytest.mark.parametrize(("end", "matched"), [(20, 0), (19, 1)])
def test_half_of_the_union_is_not_enough(end: int, matched: int) -> None:
    assert score(squares((1, 0, end)), squares((1, 0, 10))).matched == matched


def test_nothing_found_where_nothing_is() -> None:
    assert score(squares(), squares()).f1 == 1.0


def test_objects_found_where_nothing_is() -> None:
    assert score(squares((1, 0, 10)), squares()).f1 == 0.0


def test_an_image_without_background() -> None:
    full = squares((1, 0, 20), (2, 20, 40))
    assert score(full, full).matched == 2


def test_unsigned_and_signed_labels_compare() -> None:
    truth = squares((1, 0, 10), (40000, 10, 20))
    assert score(truth.astype(np.uint16), truth).f1 == 1.0


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        score(squares(), squares(shape=(20, 41)))


def test_negative_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        score(squares((-1, 0, 3)), squares())


def test_the_table_counts_every_pixel() -> None:
    rng = np.random.default_rng(5)
    found, truth = rng.integers(0, 4, (2, 30, 30))
    table = contingency(found, truth)
    for i in range(4):
        for j in range(4):
            assert table[i, j] == np.count_nonzero((found == i) & (truth == j))
