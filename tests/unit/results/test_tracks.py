from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from redis_consumer.archives import name_fault
from redis_consumer.arrays import Tracks
from redis_consumer.errors import JobRejected, RetryJob
from redis_consumer.images.tracks import read_track_file
from redis_consumer.results.ctc import load_ctc, read_table, save_ctc, without_gaps
from redis_consumer.results.tracks import save_tracks
from redis_consumer.results.trk import load_trk, save_trk, save_trks

ROW = [(1, 1, 0, 7), (0, 0, 0, 7), (2, 3, 0, 0), (0, 3, 0, 7)]
TRACKS = Tracks(np.array(ROW, np.int32)[:, None], {2: 1, 3: 1})
"""Cell 1 divides into 2 and 3; cell 7 is missed in frame 2."""
MOVIE = np.arange(32, dtype=np.uint16).reshape(4, 1, 4, 2)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_zip_of_a_movie_holds_its_stack_and_its_lineage(tmp_path: Path) -> None:
    entries = save_tracks(TRACKS, "lab/day 1.TIFF", tmp_path)
    assert [name for _, name in entries] == ["lab/day 1_feature_0.tif", "lineage.json"]
    assert not any(name_fault(name) for _, name in entries)
    stack = tifffile.imread(entries[0].path)
    assert stack.dtype == np.float32
    np.testing.assert_array_equal(stack, TRACKS.array)


def test_the_lineage_is_written_as_the_kiosk_has_it(tmp_path: Path) -> None:
    _, (path, _) = save_tracks(TRACKS, "x.tif", tmp_path)
    cells = json.loads(Path(path).read_text())
    assert cells["1"] == {
        "label": 1,
        "frames": [0],
        "daughters": [2, 3],
        "capped": True,
        "frame_div": 2,
        "parent": None,
    }
    assert cells["7"] == {
        "label": 7,
        "frames": [0, 1, 3],
        "daughters": [],
        "capped": False,
        "frame_div": None,
        "parent": None,
    }
    assert list(cells) == ["1", "2", "3", "7"]
    assert list(cells["3"]) == ["label", "frames", "daughters", "capped", "frame_div", "parent"]


def test_a_movie_without_cells_is_written(tmp_path: Path) -> None:
    empty = Tracks(np.zeros((2, 3, 3), np.int32))
    _, (lineage, _) = save_tracks(empty, "x.tif", tmp_path)
    assert json.loads(Path(lineage).read_text()) == {}
    table, *masks = save_ctc(empty, tmp_path)
    assert Path(table.path).read_text() == ""
    assert len(masks) == 2


def test_a_track_file_has_three_plain_members(tmp_path: Path) -> None:
    save_trk(MOVIE, TRACKS, tmp_path / "x.trk")
    with tarfile.open(tmp_path / "x.trk", "r:gz") as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == ["lineage.json", "raw.npy", "tracked.npy"]
    assert {(member.mtime, member.uid, member.uname, member.isreg()) for member in members} == {(0, 0, "", True)}
    arrays = read_track_file(tmp_path / "x.trk")
    np.testing.assert_array_equal(arrays["X"], MOVIE)
    np.testing.assert_array_equal(arrays["y"], TRACKS.array[..., None])
    assert arrays["y"].dtype == np.int32


def test_the_same_tracks_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        save_tracks(TRACKS, "x.tif", folder)
        save_ctc(TRACKS, folder)
        save_trk(MOVIE, TRACKS, folder / "x.trk")
        save_trks([(MOVIE, TRACKS)] * 2, folder / "x.trks")
    assert len(digests(tmp_path / "a")) == 9
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_challenge_files_have_a_row_for_each_part_of_a_track(tmp_path: Path) -> None:
    entries = save_ctc(TRACKS, tmp_path)
    assert [name for _, name in entries] == ["res_track.txt", *(f"mask00{t}.tif" for t in range(4))]
    assert (tmp_path / "res_track.txt").read_text() == "1 0 0 0\n2 2 2 1\n3 2 3 1\n7 0 1 0\n8 3 3 7\n"
    masks = [tifffile.imread(tmp_path / f"mask00{t}.tif") for t in range(4)]
    assert {mask.dtype for mask in masks} == {np.dtype(np.uint16)}
    np.testing.assert_array_equal(masks[3], [[0, 3, 0, 8]])
    read = load_ctc(tmp_path)
    assert read.lineage[8].parent == 7
    assert read.lineage[1].daughters == (2, 3)


def test_daughters_of_a_track_in_parts_belong_to_its_last_part() -> None:
    tracks = Tracks(np.array([[[4]], [[0]], [[4]], [[5]]], np.int32), {5: 4})
    _, rows = without_gaps(tracks)
    assert rows == [(4, 0, 0, 0), (6, 2, 2, 4), (5, 3, 3, 6)]


def test_long_movies_have_longer_names(tmp_path: Path) -> None:
    entries = save_ctc(Tracks(np.ones((1001, 1, 1), np.int32)), tmp_path)
    assert (entries[1].name, entries[-1].name) == ("mask0000.tif", "mask1000.tif")
    assert load_ctc(tmp_path).lineage[1].frames == tuple(range(1001))


def test_labels_beyond_a_mask_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobRejected, match="above 65535"):
        save_ctc(Tracks(np.full((2, 1, 1), 2**16, np.int32)), tmp_path)


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "res_track.txt").write_text("1 0 3\n")
    with pytest.raises(ValueError, match="four numbers"):
        read_table(tmp_path / "res_track.txt")


def write_tar(path: Path, **members: Any) -> None:
    with gzip.open(path, "wb") as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in members.items():
            file = io.BytesIO()
            if isinstance(content, np.ndarray):
                np.save(file, content)
            else:
                file.write(json.dumps(content).encode())
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = file.tell()
            archive.addfile(info, io.BytesIO(file.getvalue()))


def cell(label: int, daughters: tuple[int, ...] = (), parent: int | None = None) -> dict[str, Any]:
    return {"label": label, "daughters": daughters, "parent": parent}


@pytest.mark.parametrize(
    ("lineage", "said"),
    [
        ({"1": cell(1, parent=1)}, "contradicts itself: cell 1 appears"),
        ({"1": cell(1, daughters=(9,))}, "contradicts itself: cell 1 cannot be the parent of 9"),
        ({"2": cell(2, parent=1), "7": cell(7, daughters=(2,))}, "a cell with two parents"),
        ({"1": {}}, "damaged or no track file"),
        ({"one": cell(1, parent=1)}, "damaged or no track file"),
        ([{}, {}], "contradicts itself"),
        ("x", "damaged or no track file"),
    ],
)
def test_a_lineage_that_contradicts_its_movie_is_refused(tmp_path: Path, lineage: object, said: str) -> None:
    path = tmp_path / "x.trk"
    write_tar(path, lineage_json=lineage, raw_npy=MOVIE, tracked_npy=TRACKS.array[..., None])
    with pytest.raises(JobRejected, match=said):
        load_trk(path)


@pytest.mark.parametrize(
    "labels",
    [
        TRACKS.array[..., None].astype(np.float32),
        TRACKS.array[..., None].astype(np.int64) + 2**31,
        TRACKS.array.astype("S4")[..., None],
        -TRACKS.array[..., None],
        TRACKS.array,
        TRACKS.array[:, :, :3, None],
        np.array(3),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    write_tar(tmp_path / "x.trk", lineage_json={}, raw_npy=MOVIE, tracked_npy=labels)
    with pytest.raises(JobRejected, match="contradicts itself"):
        load_trk(tmp_path / "x.trk")


def test_a_track_file_without_a_lineage_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.trk", raw_npy=MOVIE, tracked_npy=TRACKS.array[..., None])
    with pytest.raises(JobRejected, match=r"no member 'lineage\.json'"):
        load_trk(tmp_path / "x.trk")


def test_a_disk_that_takes_no_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for save in (
        lambda: save_ctc(TRACKS, tmp_path / "file"),
        lambda: save_tracks(TRACKS, "x.tif", tmp_path / "file"),
        lambda: save_trk(MOVIE, TRACKS, tmp_path / "file/x.trk"),
    ):
        with pytest.raises(RetryJob, match="cannot write the result"):
            save()
