"""Pictures of spots, tissue, tracks and batches: their sizes, and that what was found is drawn where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.movies import Life, movie_of

from redis_consumer.demo.pictures import sheet, spots, tissue, tracks
from redis_consumer.demo.pictures.canvas import GREY, PAPER, TEXT, captioned, zoom_for
from redis_consumer.demo.pictures.outlines import PALETTE

if TYPE_CHECKING:
    import numpy.typing as npt

    from redis_consumer.demo.pictures.canvas import Picture


def has(picture: Picture, colour: tuple[int, ...]) -> bool:
    return bool((picture == np.array(colour, np.uint8)).all(axis=-1).any())


def squares() -> npt.NDArray[np.int32]:
    labels = np.zeros((60, 80), np.int32)
    labels[10:30, 10:30], labels[10:30, 30:60] = 1, 2
    return labels


def test_a_key_stands_below_the_picture_and_goes_on_where_it_is_long() -> None:
    picture = np.full((50, 200, 3), 200, np.uint8)
    short, long = (captioned(picture, [((255, 0, 0), "spots")] * count) for count in (1, 6))
    np.testing.assert_array_equal(short[:50], picture)
    assert has(short[50:], (255, 0, 0))
    assert short.shape[1] == long.shape[1] == 200
    assert long.shape[0] >= short.shape[0] + TEXT


@pytest.mark.parametrize(("side", "zoom"), [(10, 4), (400, 3), (512, 2), (1280, 1), (4000, 1)])
def test_small_images_are_enlarged(side: int, zoom: int) -> None:
    assert zoom_for((side, 3)) == zoom


def test_every_spot_has_a_circle_around_it() -> None:
    points = np.array([[20.0, 30.0], [45.5, 70.25]])
    picture = spots.circled(np.zeros((60, 80)), points)
    zoom = zoom_for((60, 80))
    assert picture.shape[1] == 80 * zoom
    ring = (picture[: 60 * zoom] == spots.CIRCLE).all(axis=-1)
    for y, x in points:
        rows, columns = np.nonzero(ring[:, : 50 * zoom] if x < 50 else ring[:, 50 * zoom :])
        middle = rows.mean() / zoom, columns.mean() / zoom + (0 if x < 50 else 50)
        assert middle == pytest.approx((y + 0.5, x + 0.5), abs=0.3)
    assert not has(spots.circled(np.zeros((60, 80)), np.empty((0, 2)))[: 60 * zoom], spots.CIRCLE)


def test_spots_have_the_colours_of_their_cells() -> None:
    labels = squares()
    points = np.array([[14, 14.0], [14, 55.0], [50, 70.0]])
    picture = spots.counted(np.zeros(labels.shape), points, labels, np.array([1, 2, 0]))
    zoom = zoom_for(labels.shape)
    one, two, none = (tuple(picture[int((y + 0.5) * zoom), int((x + 0.5) * zoom)].tolist()) for y, x in points)
    colours = {tuple(colour) for colour in PALETTE.tolist()}
    assert none == GREY
    assert {one, two} <= colours
    assert one != two


def test_cells_and_nuclei_have_lines_of_their_own_colours() -> None:
    cells, nuclei = squares(), np.zeros((60, 80), np.int32)
    nuclei[15:25, 15:25] = 1
    picture = tissue.both_outlined(np.zeros((2, 60, 80)), cells, nuclei)
    zoom = zoom_for(cells.shape, 1600)
    assert tuple(picture[10 * zoom, 20 * zoom]) == tissue.CELL
    assert tuple(picture[15 * zoom, 20 * zoom]) == tissue.NUCLEUS
    assert not picture[2 * zoom, 2 * zoom].any()


def test_a_montage_has_its_frames_and_a_line_for_each_track() -> None:
    movie = movie_of([Life(0, 9), Life(0, 9, divides=5)], 10, 1)
    image = movie.array.astype(float)
    picture = tracks.montage(image, movie.array, movie.parents)
    zoom = zoom_for(image[0].shape, tracks.FRAME)
    assert picture.shape[1] == 3 * image.shape[2] * zoom + 2 * 8
    below = picture[2 * (image.shape[1] * zoom + 8) : -30]
    assert all(has(below, tracks.colour_of(label)) for label in range(1, 5))
    assert has(below, (255, 255, 255)), "no division in the tree"


def test_a_movie_of_one_frame_without_cells_is_a_picture_too() -> None:
    picture = tracks.montage(np.zeros((1, 20, 30)), np.zeros((1, 20, 30), np.int32), {})
    assert has(picture, PAPER)


def test_a_movie_of_many_cells_on_large_frames_stays_a_picture_to_look_at() -> None:
    many = np.zeros((2, 1300, 1300), np.int32)
    many[:, ::50, ::25] = np.arange(1, 26 * 52 + 1).reshape(26, 52)
    picture = tracks.montage(np.zeros(many.shape), many, {})
    assert max(picture.shape) < 2 * tracks.LARGEST
    assert picture.shape[0] < 650 + tracks.HIGHEST_TREE + 100


def test_families_stand_together_in_the_tree() -> None:
    assert tracks.families([1, 2, 3, 4, 5], {4: 2, 5: 2}) == [1, 4, 2, 5, 3]
    assert sorted(tracks.families([1, 2, 3, 4, 5, 6], {2: 1, 3: 1, 4: 3, 5: 3, 6: 9})) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("count", "columns", "rows"), [(0, 1, 1), (1, 1, 1), (2, 2, 1), (5, 3, 2), (40, 4, 10)])
def test_a_contact_sheet_has_room_for_every_picture(count: int, columns: int, rows: int) -> None:
    pictures = [(f"image {k}", np.full((30, 60, 3), 99, np.uint8)) for k in range(count)]
    result = sheet.contact_sheet(pictures)
    assert result.shape[1] == columns * (sheet.SIDE + 8) + 8
    assert result.shape[0] == rows * (sheet.SIDE + TEXT + 16) + 8
    shown = (result == 99).all(axis=-1).sum()
    assert shown >= count * sheet.SIDE * (sheet.SIDE // 2 - 1)


def test_long_names_are_cut_at_the_left() -> None:
    words = sheet.shortened("a folder/" * 20 + "image.tif: 5")
    assert words.startswith("...")
    assert words.endswith("image.tif: 5")
    assert sheet.shortened("image.tif: 5") == "image.tif: 5"
