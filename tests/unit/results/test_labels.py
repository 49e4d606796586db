from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from redis_consumer.archives import name_fault
from redis_consumer.arrays import Labels, Spots
from redis_consumer.errors import JobRejected, RetryJob
from redis_consumer.images import read_image
from redis_consumer.results import (
    PER_BATCH_AND_FEATURE,
    entry_stem,
    label_files,
    save_channels,
    save_labels,
    save_spots,
)
from redis_consumer.spots import spot_picture


def labels(*shape: int) -> Labels:
    return Labels(np.arange(np.prod(shape)).reshape(shape))


def pages(path: str | Path) -> list[tuple[int, ...]]:
    with tifffile.TiffFile(path) as file:
        return [page.shape for page in file.pages]


def test_one_file_for_each_feature_of_an_image(tmp_path: Path) -> None:
    result = labels(1, 7, 5, 2)
    entries = save_labels(result, "cells.png", tmp_path)
    assert [name for _, name in entries] == ["cells_feature_0.tif", "cells_feature_1.tif"]
    for feature, (path, name) in enumerate(entries):
        assert path == str(tmp_path / name)
        saved = tifffile.imread(path)
        assert saved.dtype == np.float32
        assert pages(path) == [(7, 5)]
        np.testing.assert_array_equal(saved, result.array[0, ..., feature])


def test_batches_come_first_and_stand_together(tmp_path: Path) -> None:
    result = labels(2, 4, 6, 2)
    entries = save_labels(result, "a/b.tif", tmp_path, pattern=PER_BATCH_AND_FEATURE)
    assert [name for _, name in entries] == [
        f"a/b_batch_{batch}_feature_{feature}.tif" for batch in (0, 1) for feature in (0, 1)
    ]
    np.testing.assert_array_equal(tifffile.imread(entries[2].path), result.array[1, ..., 0])


@pytest.mark.parametrize("frames", [2, 3, 4])
def test_frames_are_the_pages_of_one_stack(tmp_path: Path, frames: int) -> None:
    result = labels(frames, 6, 4, 1)
    ((path, name),) = save_labels(result, "movie.ome.tif", tmp_path)
    assert name == "movie.ome_feature_0.tif"
    assert pages(path) == [(6, 4)] * frames
    np.testing.assert_array_equal(tifffile.imread(path), result.array[..., 0])


@pytest.mark.parametrize("shape", [(1, 7, 5, 1), (3, 7, 5, 1), (4, 3, 4, 1), (2, 1, 1, 1), (1, 3, 300, 1)])
@pytest.mark.parametrize("stack", [False, True])
def test_a_file_is_what_tifffile_writes_to_the_last_byte(
    tmp_path: Path,
    shape: tuple[int, ...],
    stack: bool,  # noqa: FBT001 - a parameter
) -> None:
    image = labels(*shape).array[..., 0] if stack or shape[0] > 1 else labels(*shape).array[0, ..., 0]
    axes = {"axes": "TYX"[-image.ndim :]}
    tifffile.imwrite(tmp_path / "x", image.astype(np.float32), photometric="minisblack", metadata=axes)
    for _ in range(2):  # the second time the header is known
        ((made, _),) = label_files(labels(*shape), "x", stack=stack)
        written = b"".join(made.pieces())
        assert written == (tmp_path / "x").read_bytes()
        assert made.size == len(written)


@pytest.mark.parametrize("columns", [1, 3, 4])
def test_a_narrow_image_is_not_taken_for_colours(tmp_path: Path, columns: int) -> None:
    ((path, _),) = save_labels(labels(1, 8, columns, 1), "x", tmp_path)
    assert pages(path) == [(8, columns)]


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (6, 4), (8, 9)], ids=str)
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_a_stack_is_read_as_it_was_written(tmp_path: Path, frames: int, size: tuple[int, int]) -> None:
    result = labels(frames, *size, 1)
    ((path, _),) = save_labels(result, "x.tif", tmp_path, stack=True)
    read = read_image(path)
    assert (read.axes, read.axes_from) == ("TYX", "metadata")
    np.testing.assert_array_equal(read.stored, result.array)


def test_a_single_frame_may_stay_a_stack(tmp_path: Path) -> None:
    ((path, _),) = save_labels(labels(1, 6, 5, 1), "x.tif", tmp_path, stack=True)
    assert pages(path) == [(6, 5)]
    assert tifffile.imread(path).shape == (1, 6, 5)


def test_files_are_uncompressed(tmp_path: Path) -> None:
    ((path, _),) = save_labels(labels(1, 6, 5, 1), "x.tif", tmp_path)
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.compression == tifffile.COMPRESSION.NONE
        assert file.pages.first.photometric == tifffile.PHOTOMETRIC.MINISBLACK


def test_large_labels_stay_exact_or_are_refused(tmp_path: Path) -> None:
    ((path, _),) = save_labels(Labels(np.full((1, 2, 2, 1), 2**24)), "x", tmp_path)
    assert int(tifffile.imread(path)[0, 0]) == 2**24
    with pytest.raises(JobRejected, match="above 16777216"):
        save_labels(Labels(np.full((1, 2, 2, 1), 2**24 + 1)), "x", tmp_path)


def test_a_file_that_cannot_be_written_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x_feature_1.tif").mkdir()
    with pytest.raises(RetryJob, match=r"cannot write the result 'x_feature_1\.tif'") as caught:
        save_labels(labels(1, 2, 2, 2), "x", tmp_path)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("cells.tif", "cells"),
        ("cells", "cells"),
        ("a.b.tiff", "a.b"),
        ("plate 1/well,A:1.png", "plate 1/well,A:1"),
        ("../../etc/x.tif", "etc/x"),
        ("/etc/passwd", "etc/passwd"),
        ("..", "image"),
        ("a/..tif", "a/image"),
        ("", "image"),
        (" ", "image"),
        ("a/../b.tif", "a/b"),
        ("C:\\data\\my cells.tif", "data/my cells"),
        ("a\\..\\..\\b.tif", "a/b"),
        ("a\nb\x00.tif", "a_b_"),
        (".hidden", ".hidden"),
        ("Zellgröße 細胞.tif", "Zellgröße 細胞"),
    ],
)
def test_names_stay_inside_the_archive(name: str, stem: str) -> None:
    assert entry_stem(name) == stem
    assert name_fault(stem) == ""


@pytest.mark.parametrize("name", ["x" * 400 + ".tif", "細" * 200 + ".tif", "d" * 400 + "/x.tif"])
def test_long_names_still_fit_a_file_system(tmp_path: Path, name: str) -> None:
    ((path, _),) = save_labels(labels(1, 2, 2, 1), name, tmp_path, pattern=PER_BATCH_AND_FEATURE)
    assert Path(path).is_file()


@pytest.mark.parametrize("name", ["../../x.tif", "/x.tif", "a/../../../x.tif", "..\\..\\x.tif"])
def test_a_hostile_name_writes_nothing_outside(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "deep" / "job"
    ((path, _),) = save_labels(labels(1, 2, 2, 1), name, folder)
    assert Path(path).resolve().is_relative_to(folder)
    assert [p for p in tmp_path.rglob("*.tif") if not p.is_relative_to(folder)] == []


def test_channels_become_files(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.int64).reshape(3, 4, 2)
    paths = save_channels(array, "x", tmp_path)
    assert paths == [str(tmp_path / "x_feature_0.tif"), str(tmp_path / "x_feature_1.tif")]
    for channel, path in enumerate(paths):
        np.testing.assert_array_equal(tifffile.imread(path), array[..., channel].astype(np.float32))
    assert tifffile.imread(save_channels(array[..., 0], "flat", tmp_path)[0]).shape == (3, 4)


def test_spots_are_a_picture_and_points_for_each_frame(tmp_path: Path) -> None:
    image = np.zeros((2, 30, 20, 1), np.float32)
    image[0, 5, 7] = 9
    spots = Spots((np.array([[5.25, 7.5]]), np.empty((0, 2))), image)
    entries = save_spots(spots, "a/b.c.tif", tmp_path)
    assert [name for _, name in entries] == ["a/b.c_0.tif", "a/b.c_0.npy", "a/b.c_1.tif", "a/b.c_1.npy"]
    for frame, points in enumerate(spots.points):
        np.testing.assert_array_equal(np.load(tmp_path / f"a/b.c_{frame}.npy", allow_pickle=False), points)
        with tifffile.TiffFile(tmp_path / f"a/b.c_{frame}.tif") as file:
            assert file.pages.first.compression == tifffile.COMPRESSION.NONE
            np.testing.assert_array_equal(file.asarray(), spot_picture(image[frame, ..., 0], points))
