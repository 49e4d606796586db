from __future__ import annotations

import errno
import os
import stat
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from tests.corpus.archives import joined

from redis_consumer.archives import ArchiveLimits, Made, distinct, is_junk, iter_archive, zip_files
from redis_consumer.errors import JobRejected, RetryJob

ODD = Path(__file__).resolve().parents[2] / "../shared/data/odd"


def file(path: Path, content: bytes = b"content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def make_zip(path: Path, members: dict[str, bytes], **attributes: int) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            archive.writestr(info, content)
    return path


def zip_contents(path: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def unpack(path: Path, folder: Path, **limits: int) -> list[str]:
    return [str(p.relative_to(folder)) for p in iter_archive(path, folder, ArchiveLimits(**limits))]


class TestZipFiles:
    def test_entries_keep_their_order_names_and_content(self, tmp_path: Path) -> None:
        contents = {"z/first.tif": bytes(10_000), "a.tif": b"\x01\x02" * 5000, "lineage.json": b"{}", "empty.tif": b""}
        entries = [(file(tmp_path / f"f{i}", c), name) for i, (name, c) in enumerate(contents.items())]
        path = zip_files(entries, tmp_path / "out.zip")
        assert path == str(tmp_path / "out.zip")
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert {name: archive.read(name) for name in archive.namelist()} == contents
            assert archive.namelist() == list(contents)

    def test_the_same_entries_give_the_same_bytes(self, tmp_path: Path) -> None:
        first = zip_files([(file(tmp_path / "x"), "x.tif")], tmp_path / "1.zip")
        os.utime(tmp_path / "x", (10**9, 10**9))
        second = zip_files([(tmp_path / "x", "x.tif")], tmp_path / "2.zip")
        assert Path(first).read_bytes() == Path(second).read_bytes()

    def test_what_is_made_is_zipped_as_if_it_were_a_file(self, tmp_path: Path) -> None:
        content = bytes(range(256)) * 20_000
        made = Made(len(content), lambda: [content[:10], memoryview(content)[10:]])
        first = zip_files([(file(tmp_path / "x", content), "x.tif"), (tmp_path / "x", "x.png")], tmp_path / "1.zip")
        second = zip_files([(made, "x.tif"), (made, "x.png")], tmp_path / "2.zip")
        assert zip_contents(first) == zip_contents(second) == {"x.tif": content, "x.png": content}
        assert Path(second).read_bytes()[:30][6] & 0x08 == 0  # no data descriptor

    def test_sizes_stand_in_front_so_that_streams_can_be_read(self, tmp_path: Path) -> None:
        path = zip_files([(file(tmp_path / "x", bytes(5000)), "x.tif")], tmp_path / "out.zip")
        header = Path(path).read_bytes()[:30]
        assert header[:4] == b"PK\x03\x04"
        assert header[6] & 0x08 == 0  # no data descriptor
        assert int.from_bytes(header[22:26], "little") == 5000
        assert header[8] == zipfile.ZIP_DEFLATED

    def test_labels_are_deflated_and_packed_files_are_stored(self, tmp_path: Path) -> None:
        source = file(tmp_path / "x", bytes(100_000))
        path = zip_files([(source, "x.tif"), (source, "inner.ZIP"), (source, "x.png")], tmp_path / "out.zip")
        with zipfile.ZipFile(path) as archive:
            kinds = [info.compress_type for info in archive.infolist()]
            assert kinds == [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_STORED]
            assert archive.getinfo("x.tif").compress_size < 5_000

    def test_zlib_does_it_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "isal", None)
        content = os.urandom(1000) + bytes(100_000)
        path = zip_files([(file(tmp_path / "x", content), "x.tif")], tmp_path / "out.zip")
        with zipfile.ZipFile(path) as archive:
            assert archive.read("x.tif") == content
            assert archive.getinfo("x.tif").compress_size < 10_000

    @pytest.mark.parametrize("name", ["", "/x", "../x", "a/../x", "a//x", "a\\x", "a\nx", "C:/x", "."])
    def test_a_name_that_leaves_the_archive_is_a_bug(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ValueError, match="name in the archive"):
            zip_files([(file(tmp_path / "x"), name)], tmp_path / "out.zip")
        assert not (tmp_path / "out.zip").exists()

    def test_one_name_twice_is_a_bug(self, tmp_path: Path) -> None:
        source = file(tmp_path / "x")
        with pytest.raises(ValueError, match="one name"):
            zip_files([(source, "a"), (source, "a")], tmp_path / "out.zip")

    def test_a_missing_file_leaves_no_archive(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            zip_files([(file(tmp_path / "x"), "x"), (tmp_path / "missing", "y")], tmp_path / "out.zip")
        assert not (tmp_path / "out.zip").exists()

    def test_a_full_disk_is_the_workers_fault_and_leaves_no_archive(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("redis_consumer.archives.shutil.copyfileobj", full)
        with pytest.raises(RetryJob, match="No space left"):
            zip_files([(file(tmp_path / "x"), "x")], tmp_path / "out.zip")
        assert not (tmp_path / "out.zip").exists()


class TestIterArchive:
    def test_unpacks_in_order(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "in.zip", {"b/2.tif": b"2", "a.tif": b"1", "b/": b"", "ü 細.tif": b"3"})
        assert unpack(path, tmp_path / "out") == ["b/2.tif", "a.tif", "ü 細.tif"]
        assert (tmp_path / "out/b/2.tif").read_bytes() == b"2"

    def test_skips_what_operating_systems_leave(self, tmp_path: Path) -> None:
        names = ["__MACOSX/._x.tif", ".DS_Store", "a/.DS_Store", "a/Thumbs.db", "a/._y.tif", "Desktop.ini", "a/y.tif"]
        path = make_zip(tmp_path / "in.zip", dict.fromkeys(names, b"1"))
        assert unpack(path, tmp_path / "out") == ["a/y.tif"]
        assert not is_junk("a/.hidden.tif")

    def test_windows_separators_are_folders(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "in.zip", {"a\\b.tif": b"1"})
        assert unpack(path, tmp_path / "out") == ["a/b.tif"]

    @pytest.mark.parametrize("name", ["../x.tif", "/x.tif", "a/../../x.tif", "..\\x.tif", "C:\\x.tif", "a/\x01.tif"])
    def test_a_name_that_leads_out_stops_everything(self, tmp_path: Path, name: str) -> None:
        path = make_zip(tmp_path / "in.zip", {"good.tif": b"1", name: b"2"})
        with pytest.raises(JobRejected, match=r"archive 'in\.zip' cannot be unpacked: member"):
            iter_archive(path, tmp_path / "out")
        assert list(tmp_path.rglob("*.tif")) == []

    def test_a_link_is_refused(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "in.zip", {"x.tif": b"/etc/passwd"}, external_attr=(stat.S_IFLNK | 0o777) << 16)
        with pytest.raises(JobRejected, match="it is a link"):
            iter_archive(path, tmp_path / "out")

    def test_an_encrypted_member_is_refused(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "in.zip", {"x.tif": b"1"})
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(data)
        with pytest.raises(JobRejected, match="encrypted"):
            iter_archive(path, tmp_path / "out")

    def test_limits_are_checked_before_unpacking(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "in.zip", {f"{i}.tif": bytes(100) for i in range(5)})
        with pytest.raises(JobRejected, match="5 members, allowed are 4"):
            unpack(path, tmp_path / "out", members=4)
        with pytest.raises(JobRejected, match="500 bytes unpacked, allowed are 499"):
            unpack(path, tmp_path / "out", bytes=499)
        bomb = make_zip(tmp_path / "bomb.zip", {"x.tif": bytes(10**6)}, compress_type=zipfile.ZIP_DEFLATED)
        with pytest.raises(JobRejected, match="more than 10 times"):
            unpack(bomb, tmp_path / "out", ratio=10)
        assert not (tmp_path / "out").exists()

    def test_a_blank_image_is_no_bomb(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "in.zip", {"x.tif": bytes(10**7)}, compress_type=zipfile.ZIP_DEFLATED)
        assert unpack(path, tmp_path / "out") == ["x.tif"]

    def test_a_member_that_lies_about_its_size_is_refused(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "in.zip", {"x.tif": bytes(10**6)}, compress_type=zipfile.ZIP_DEFLATED)
        data = bytearray(path.read_bytes())
        at = data.index(b"PK\x01\x02") + 24
        data[at : at + 4] = (1000).to_bytes(4, "little")
        path.write_bytes(data)
        with pytest.raises(JobRejected, match="damaged"):
            unpack(path, tmp_path / "out")
        assert all(p.stat().st_size <= 1000 for p in (tmp_path / "out").rglob("*.tif"))

    @pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 cut"])
    def test_what_is_no_zip_is_refused(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(JobRejected, match="damaged or no zip"):
            iter_archive(file(tmp_path / "in.zip", content), tmp_path / "out")

    @pytest.mark.parametrize("members", [["a", "a/b"], ["a/b", "a"]])
    def test_a_file_that_is_a_folder_too_is_refused(self, tmp_path: Path, members: list[str]) -> None:
        path = make_zip(tmp_path / "in.zip", dict.fromkeys(members, b"1"))
        with pytest.raises(JobRejected, match="both a file and a folder"):
            unpack(path, tmp_path / "out")

    def test_members_of_one_name_are_kept_apart(self, tmp_path: Path) -> None:
        members = [("a/x.tif", "1"), ("a\\x.tif", "2"), ("a/x-2.tif", "other"), ("a/x.tif", "3"), ("b.c/x", "4")]
        path = file(tmp_path / "in.zip", joined([(name.encode(), content.encode()) for name, content in members]))
        paths = list(iter_archive(path, tmp_path / "out"))
        assert {str(p.relative_to(tmp_path / "out")): p.read_text() for p in paths} == {
            "a/x.tif": "1",
            "a/x-3.tif": "2",
            "a/x-2.tif": "other",
            "a/x-4.tif": "3",
            "b.c/x": "4",
        }

    @given(st.lists(st.sampled_from(["a.tif", "a-2.tif", "a-2-2.tif", "b/a.tif", "b.c/a", ".tif"])))
    def test_distinct_names_are_the_first_of_each_and_new_ones(self, names: list[str]) -> None:
        found = distinct(names)
        assert len(set(found)) == len(found) == len(names)
        assert all(
            new == old for place, (new, old) in enumerate(zip(found, names, strict=True)) if old not in names[:place]
        )
        assert [Path(name).suffix for name in found] == [Path(name).suffix for name in names]

    def test_folders_and_junk_do_not_count(self, tmp_path: Path) -> None:
        names = ["a/", "a/1.tif", "__MACOSX/a/._1.tif", "a/2.tif", "__MACOSX/a/._2.tif"]
        path = make_zip(tmp_path / "in.zip", dict.fromkeys(names, b"1"))
        assert unpack(path, tmp_path / "out", members=2, bytes=2) == ["a/1.tif", "a/2.tif"]

    def test_not_even_of_junk_there_may_be_any_number(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "in.zip", {f"{number}/": b"" for number in range(1009)})
        assert unpack(path, tmp_path / "out", members=3) == []
        with pytest.raises(JobRejected, match="it lists 1009 files and folders, allowed are 1008"):
            unpack(path, tmp_path / "out", members=2)

    def test_what_was_zipped_is_unpacked(self, tmp_path: Path) -> None:
        path = zip_files([(file(tmp_path / "x", bytes(range(256)) * 500), "a/x.tif")], tmp_path / "out.zip")
        (unpacked,) = iter_archive(path, tmp_path / "back")
        assert unpacked.read_bytes() == (tmp_path / "x").read_bytes()

    @pytest.mark.skipif(not ODD.is_dir(), reason="the shared reference data are not beside the checkout")
    def test_the_odd_archives(self, tmp_path: Path) -> None:
        names = unpack(ODD / "three_images.zip", tmp_path / "out")
        assert names == ["dir/0.png", "dir/1.png", "dir/2.png", "readme.txt"]
        with pytest.raises(JobRejected):
            iter_archive(ODD / "zip_slip.zip", tmp_path / "slip")
