from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from redis_consumer.canvas import Canvas

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (20, 30)
EVERYTHING = slice(0, 20), slice(0, 30)


@pytest.mark.parametrize("place", [EVERYTHING, (slice(3, 9), slice(0, 30)), (slice(3, 9), slice(4, 11))])
@pytest.mark.parametrize("kind", [np.int64, np.float64, ">f4"])
def test_what_is_written_is_read(tmp_path: Path, place: tuple[slice, slice], kind: str) -> None:
    canvas = Canvas.create(tmp_path / "plane", SHAPE, np.float32)
    expected = np.zeros(SHAPE, np.float32)
    values = np.arange(2 * expected[place].size).reshape(*expected[place].shape, 2)[..., 1].astype(kind)
    canvas[place] = expected[place] = values
    np.testing.assert_array_equal(canvas[EVERYTHING], expected)
    np.testing.assert_array_equal(canvas[place], values)


def test_what_is_around_it_in_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "plane"
    path.write_bytes(b"head")
    canvas = Canvas.over(path, SHAPE, np.dtype(np.uint16), offset=4)
    with path.open("ab") as file:
        file.write(b"tail")
    canvas[EVERYTHING] = np.full(SHAPE, 0x4141, np.uint16)
    assert path.read_bytes() == b"head" + 2 * 600 * b"A" + b"tail"


def test_what_is_smaller_is_spread_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    canvas = Canvas.create(tmp_path / "plane", SHAPE, np.float32)
    for columns in (slice(0, 30), slice(0, 29)):
        canvas[3:5, columns] = np.full(1, 7)
        assert canvas[EVERYTHING][:, 0].tolist() == [0] * 3 + [7] * 2 + [0] * 15
        with pytest.raises(ValueError, match="broadcast"):
            canvas[3:5, columns] = np.ones((3, columns.stop))
    with pytest.raises(ValueError, match="rows 19 to 21 of a plane of 20"):
        canvas[19:21, 0:30] = np.ones((2, 30))
