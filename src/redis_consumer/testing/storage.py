"""The exam of a `Storage`: subclass `StorageExam` as ``Test...``, give it the fixture and the two hooks."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from redis_consumer.errors import JobRejected, ObjectNotFound, RetryJob
from redis_consumer.storage.base import Content

if TYPE_CHECKING:
    from redis_consumer.storage.base import Storage

NAMES = [
    "plain.tif",
    "with space.tif",
    "a,b;c=d.tif",
    "a:b.tif",
    "100%.tif",
    "a%2Fb.tif",
    "quest?ion#mark&more.tif",
    "plus+tilde~.tif",
    "Zelle_Größe_細胞 🔬.tif",
    "brackets[1](2){3}.tif",
    "no extension",
    ".hidden",
]
BAD_KEYS = [
    "",
    " ",
    "/etc/passwd",
    "uploads/../../etc/passwd",
    "uploads/..",
    "../uploads/x.tif",
    "./x.tif",
    "uploads//x.tif",
    "uploads/",
    "uploads/a\x00b.tif",
    "uploads/a\nb.tif",
    "uploads/a\x7fb.tif",
    "uploads/..\\..\\x.tif",
    "uploads/" + "x" * 300,
    "uploads/" + "x/" * 600 + "x",
    "https://example.org/uploads/x.tif",
]


class StorageExam:
    """What every storage promises.  Each test starts with a fixture `storage` of its own or a shared one."""

    @pytest.fixture
    def storage(self) -> Storage:
        """Return the storage to examine."""
        raise NotImplementedError

    def place(self, storage: Storage, key: str, content: bytes) -> None:
        """Put an object into the bucket by other means than the storage."""
        raise NotImplementedError

    def stored(self, storage: Storage, key: str) -> bytes:
        """Read an object of the bucket by other means than the storage."""
        raise NotImplementedError

    def test_downloads_what_was_placed(self, storage: Storage, tmp_path: Path) -> None:
        self.place(storage, "uploads/cells.tif", b"pixels")
        assert Path(storage.download("uploads/cells.tif", tmp_path)).read_bytes() == b"pixels"

    def test_a_download_is_named_like_the_key_without_its_first_segment(self, storage: Storage, tmp_path: Path) -> None:
        self.place(storage, "uploads/a/b/cells.tif", b"1")
        assert storage.download("uploads/a/b/cells.tif", tmp_path) == str(tmp_path / "a/b/cells.tif")

    def test_a_key_of_one_segment_keeps_its_name(self, storage: Storage, tmp_path: Path) -> None:
        self.place(storage, "cells.tif", b"1")
        assert storage.download("cells.tif", tmp_path) == str(tmp_path / "cells.tif")

    def test_a_relative_folder_gives_an_absolute_path(
        self, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        self.place(storage, "uploads/cells.tif", b"1")
        assert storage.download("uploads/cells.tif", "here") == str(tmp_path / "here/cells.tif")

    @pytest.mark.parametrize("name", NAMES)
    def test_any_name_survives_both_ways(self, storage: Storage, tmp_path: Path, name: str) -> None:
        self.place(storage, f"uploads/{name}", name.encode())
        path = storage.download(f"uploads/{name}", tmp_path)
        assert Path(path).name == name
        key, _ = storage.upload(path)
        assert key == f"output/{name}"
        assert self.stored(storage, key) == name.encode()

    def test_a_missing_object_is_named_and_leaves_no_file(self, storage: Storage, tmp_path: Path) -> None:
        with pytest.raises(ObjectNotFound, match=r"Object 'uploads/missing\.tif' is not in the bucket"):
            storage.download("uploads/missing.tif", tmp_path)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_a_bad_key_is_rejected_in_one_line(self, storage: Storage, tmp_path: Path, key: str) -> None:
        with pytest.raises(JobRejected) as caught:
            storage.download(key, tmp_path / "job")
        assert len(str(caught.value).splitlines()) == 1
        assert str(tmp_path) not in str(caught.value)
        assert list(tmp_path.rglob("*")) == []

    def test_a_link_in_the_folder_leads_nowhere(self, storage: Storage, tmp_path: Path) -> None:
        (tmp_path / "job").mkdir()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "job/a").symlink_to(tmp_path / "elsewhere")
        self.place(storage, "uploads/a/b.tif", b"1")
        with pytest.raises(JobRejected):
            storage.download("uploads/a/b.tif", tmp_path / "job")
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_an_url_of_the_bucket_is_taken_for_its_key(self, storage: Storage, tmp_path: Path) -> None:
        self.place(storage, "uploads/my cells, 100%.tif", b"pixels")
        path = storage.download(storage.url("uploads/my cells, 100%.tif"), tmp_path)
        assert path == str(tmp_path / "my cells, 100%.tif")
        assert Path(path).read_bytes() == b"pixels"

    def test_an_encoded_climb_in_an_url_is_rejected(self, storage: Storage, tmp_path: Path) -> None:
        base = storage.url("uploads/x.tif").partition("?")[0].removesuffix("x.tif")
        with pytest.raises(JobRejected):
            storage.download(f"{base}%2E%2E/%2e%2e/secret", tmp_path)

    def test_an_open_object_is_read_at_any_place(self, storage: Storage) -> None:
        content = random.Random(1).randbytes(300_000)
        self.place(storage, "uploads/cells.tif", content)
        with storage.open("uploads/cells.tif") as file:
            assert (file.size, file.seek(0, 2), file.tell()) == (len(content),) * 3
            for start, size in ((0, 10), (299_990, 100), (100, 250_000), (5, 0), (300_000, 5), (400_000, 5), (0, -1)):
                file.seek(start)
                assert file.read(size) == content[start : start + size if size >= 0 else None]
            buffer = bytearray(70_000)
            file.seek(240_000)
            assert file.readinto(buffer) == 60_000
            assert buffer[:60_000] == content[240_000:]

    def test_of_an_open_object_little_travels(self, storage: Storage) -> None:
        content = random.Random(2).randbytes(20 * 2**20)
        self.place(storage, "uploads/large.tif", content)
        with storage.open("uploads/large.tif") as file:
            head = file.read(1000)
            file.seek(-1000, 2)
            assert (head, file.read()) == (content[:1000], content[-1000:])
            assert 2000 <= file.fetched <= len(content) / 4

    def test_an_empty_object_can_be_opened(self, storage: Storage) -> None:
        self.place(storage, "uploads/empty.tif", b"")
        with storage.open("uploads/empty.tif") as file:
            assert (file.size, file.read()) == (0, b"")

    def test_an_object_that_changes_while_it_is_read_is_read_another_time(self, storage: Storage) -> None:
        old, new = (bytes([letter]) * 2**23 for letter in b"on")
        self.place(storage, "uploads/cells.tif", old)
        with pytest.raises(RetryJob, match=r"Object 'uploads/cells\.tif' was changed"):
            self._read_across(storage, "uploads/cells.tif", new)

    def _read_across(self, storage: Storage, key: str, content: bytes) -> None:
        """Replace an object while it is read, and look away."""
        with storage.open(key) as file:
            self.place(storage, key, content)
            for place in (2**22, 0):  # the start would still be known
                file.seek(place)
                with pytest.raises(RetryJob):
                    file.read(10)

    def test_what_cannot_be_opened_is_told_like_what_cannot_be_downloaded(self, storage: Storage) -> None:
        self.place(storage, "uploads/my cells.tif", b"pixels")
        with storage.open(storage.url("uploads/my cells.tif")) as file:
            assert file.read() == b"pixels"
        with pytest.raises(ObjectNotFound, match=r"'uploads/missing\.tif'"), storage.open("uploads/missing.tif"):
            pass
        for key in BAD_KEYS:
            with pytest.raises(JobRejected), storage.open(key):
                pass

    def test_uploads_below_output(self, storage: Storage, tmp_path: Path) -> None:
        file = _file(tmp_path / "result.zip", b"zipped")
        upload = storage.upload(file)
        assert upload == ("output/result.zip", upload.url)
        assert upload.url == storage.url("output/result.zip") or "?" in upload.url
        assert self.stored(storage, upload.key) == b"zipped"

    @pytest.mark.parametrize("subdir", ["a/b", "/a/b", "a/b/"])
    def test_uploads_below_a_folder(self, storage: Storage, tmp_path: Path, subdir: str) -> None:
        key, _ = storage.upload(str(_file(tmp_path / "part.tif", b"1")), subdir)
        assert key == "output/a/b/part.tif"
        assert self.stored(storage, key) == b"1"

    @pytest.mark.parametrize("subdir", ["..", "../x", "a/../../x", "//a", "a\nb", "a\\b"])
    def test_a_bad_folder_is_rejected(self, storage: Storage, tmp_path: Path, subdir: str) -> None:
        with pytest.raises(JobRejected):
            storage.upload(_file(tmp_path / "part.tif", b"1"), subdir)

    def test_a_file_that_is_not_there_is_the_callers_bug(self, storage: Storage, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no file 'missing\.zip' to upload"):
            storage.upload(tmp_path / "missing.zip")

    @pytest.mark.parametrize("data", [b"", b"zipped", memoryview(b"zipped")])
    def test_uploads_what_is_in_memory(self, storage: Storage, data: bytes | memoryview) -> None:
        assert storage.upload(Content("result.zip", data)).key == "output/result.zip"
        assert storage.upload(Content("part.tif", data), "a/b").key == "output/a/b/part.tif"
        for key in ("output/result.zip", "output/a/b/part.tif"):
            assert self.stored(storage, key) == bytes(data)

    def test_what_is_in_memory_needs_a_plain_name(self, storage: Storage) -> None:
        for name in ("..", "a\nb"):
            with pytest.raises(JobRejected):
                storage.upload(Content(name, b"1"))

    def test_an_empty_file_survives(self, storage: Storage, tmp_path: Path) -> None:
        key, _ = storage.upload(_file(tmp_path / "empty.zip", b""))
        assert self.stored(storage, key) == b""
        assert Path(storage.download(key, tmp_path / "back")).read_bytes() == b""

    def test_twenty_megabytes_survive(self, storage: Storage, tmp_path: Path) -> None:
        content = bytes(range(256)) * (20 * 2**20 // 256) + b"odd end"
        key, _ = storage.upload(_file(tmp_path / "big.zip", content))
        assert Path(storage.download(key, tmp_path / "back")).read_bytes() == content

    def test_a_second_download_takes_the_place_of_the_first(self, storage: Storage, tmp_path: Path) -> None:
        self.place(storage, "uploads/cells.tif", b"a longer first version")
        storage.download("uploads/cells.tif", tmp_path)
        self.place(storage, "uploads/cells.tif", b"second")
        assert Path(storage.download("uploads/cells.tif", tmp_path)).read_bytes() == b"second"

    def test_a_reader_of_an_overwritten_object_sees_one_version_whole(self, storage: Storage, tmp_path: Path) -> None:
        versions = [bytes([letter]) * 300_000 for letter in b"abcdef"]
        storage.upload(_file(tmp_path / "same.zip", versions[0]))
        writer = threading.Thread(
            target=lambda: [storage.upload(_file(tmp_path / f"{i}/same.zip", v)) for i, v in enumerate(versions)]
        )
        writer.start()
        seen = [Path(storage.download("output/same.zip", tmp_path / f"back{i}")).read_bytes() for i in range(6)]
        writer.join(timeout=60)
        assert set(seen) <= set(versions)
        assert self.stored(storage, "output/same.zip") == versions[-1]

    def test_threads_do_not_disturb_each_other(self, storage: Storage, tmp_path: Path) -> None:
        failures: list[str] = []

        def one(number: int) -> None:
            content = str(number).encode() * 1000
            key, _ = storage.upload(_file(tmp_path / f"{number}/lane{number}.zip", content))
            if Path(storage.download(key, tmp_path / f"back{number}")).read_bytes() != content:
                failures.append(key)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert failures == []

    def test_deposits_get_names_of_their_own(self, storage: Storage, tmp_path: Path) -> None:
        image = _file(tmp_path / "my cells.ome.tif", b"pixels")
        first, second = storage.deposit(image), storage.deposit(str(image))
        assert first.key.startswith("uploads/")
        assert first.key.endswith(".tif")
        assert first.key != second.key
        assert self.stored(storage, first.key) == b"pixels"
        assert Path(storage.download(first.url, tmp_path / "back")).read_bytes() == b"pixels"

    def test_a_deposit_that_is_not_there_is_the_callers_bug(self, storage: Storage, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no file 'missing\.tif' to upload"):
            storage.deposit(tmp_path / "missing.tif")

    def test_removes_what_is_there(self, storage: Storage, tmp_path: Path) -> None:
        names = [f"remove/a b, {number:02}% ü.tif" for number in range(30)]
        for name in [*names[::2], "remove/kept.tif"]:
            self.place(storage, f"output/{name}", b"1")
        for _ in range(2):  # nothing is there the second time
            storage.remove(f"output/{name}" for name in names)
        for name in names:
            with pytest.raises(ObjectNotFound):
                storage.download(f"output/{name}", tmp_path)
        assert self.stored(storage, "output/remove/kept.tif") == b"1"

    def test_nothing_to_remove_is_no_error(self, storage: Storage) -> None:
        storage.remove([])

    def test_a_bad_key_is_not_removed(self, storage: Storage) -> None:
        with pytest.raises(JobRejected):
            storage.remove(["output/a.tif", "output/../../etc/passwd"])

    def test_names_do_not_collide(self, storage: Storage, tmp_path: Path) -> None:
        names = [uuid4().hex for _ in range(2)]
        uploads = [storage.upload(_file(tmp_path / f"{name}.zip", name.encode())) for name in names]
        assert [self.stored(storage, upload.key) for upload in uploads] == [name.encode() for name in names]
        assert len({upload.url for upload in uploads}) == len(names)

    def test_an_url_needs_no_object(self, storage: Storage) -> None:
        assert "output/not%20there.zip" in storage.url("output/not there.zip")

    @pytest.mark.parametrize("key", ["", "../x", "/x"])
    def test_a_bad_key_has_no_url(self, storage: Storage, key: str) -> None:
        with pytest.raises(JobRejected):
            storage.url(key)

    def test_a_good_bucket_passes_the_check(self, storage: Storage) -> None:
        storage.check()


def _file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
