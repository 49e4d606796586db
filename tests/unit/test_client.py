from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest

from redis_consumer import client as client_module
from redis_consumer.client import Client, free_name
from redis_consumer.errors import JobRejected, ObjectNotFound
from redis_consumer.job import Status
from redis_consumer.queues.memory import MemoryBroker, MemorySubmitter
from redis_consumer.storage.object_store import open_storage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from redis_consumer.storage.object_store import ObjectStorage


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def storage(tmp_path: Path) -> ObjectStorage:
    (tmp_path / "bucket").mkdir()
    return open_storage((tmp_path / "bucket").as_uri())


@pytest.fixture
def client(broker: MemoryBroker, storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setattr(client_module, "POLL_SECONDS", 0.001)
    return Client(MemorySubmitter(broker, host="laptop"), storage)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "my cells.TIF"
    path.write_bytes(b"pixels")
    return path


class TestSubmit:
    def test_the_image_is_in_the_bucket_and_its_job_in_the_queue(
        self, client: Client, broker: MemoryBroker, storage: ObjectStorage, image: Path, tmp_path: Path
    ) -> None:
        key = client.submit(image, "segmentation", {"scale": "0.5"})
        assert list(broker.queues["segmentation"]) == [key]
        fields = client.read(key)
        assert key.startswith("segmentation:my cells.TIF:")
        assert fields["original_name"] == "my cells.TIF"
        assert fields["scale"] == "0.5"
        assert fields["status"] == "new"
        assert fields["url"] == storage.url(fields["input_file_name"])
        with open(storage.download(fields["input_file_name"], tmp_path / "in"), "rb") as file:  # noqa: PTH123 - a str
            assert file.read() == b"pixels"

    @pytest.mark.parametrize(
        ("name", "queue"),
        [("images.zip", "segmentation"), ("images.ZIP", "segmentation"), ("images.zip", "segmentation-zip")],
    )
    def test_an_archive_goes_to_the_twin_of_the_queue(
        self, client: Client, broker: MemoryBroker, tmp_path: Path, name: str, queue: str
    ) -> None:
        (tmp_path / name).write_bytes(b"PK")
        key = client.submit(tmp_path / name, queue)
        assert list(broker.queues["segmentation-zip"]) == [key]

    @pytest.mark.parametrize(
        ("stored", "name", "queue"),
        [
            ("uploads/slide.zarr", "slide.zarr", "mesmer"),
            ("uploads/slide.zarr/", "slide.zarr", "mesmer"),
            ("uploads/plate 1.zip", "plate 1.zip", "mesmer-zip"),
        ],
    )
    def test_what_is_in_the_bucket_is_not_brought_again(
        self, client: Client, broker: MemoryBroker, storage: ObjectStorage, stored: str, name: str, queue: str
    ) -> None:
        key = client.submit_stored(stored, "mesmer", {"channels": "0,1"})
        assert list(broker.queues[queue]) == [key]
        fields = client.read(key)
        assert (fields["input_file_name"], fields["original_name"]) == (stored.rstrip("/"), name)
        assert fields["url"] == storage.url(stored.rstrip("/"))
        assert fields["channels"] == "0,1"

    def test_a_key_that_is_none_is_refused(self, client: Client, broker: MemoryBroker) -> None:
        with pytest.raises(JobRejected):
            client.submit_stored("../elsewhere.tif", "mesmer")
        assert not broker.jobs
        assert not broker.queues["segmentation"]

    def test_given_fields_win(self, client: Client, image: Path) -> None:
        key = client.submit(image, "q", {"original_name": "other.tif"})
        assert client.read(key)["original_name"] == "other.tif"

    def test_without_a_file_no_job_is_pushed(self, client: Client, broker: MemoryBroker, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            client.submit(tmp_path / "absent.tif", "q")
        assert not broker.jobs


class TestWait:
    def test_returns_the_fields_of_each_job_once_all_are_final(
        self, client: Client, broker: MemoryBroker, image: Path
    ) -> None:
        keys = [client.submit(image, "q") for _ in range(2)]
        looks: list[tuple[str, str]] = []

        def on_look(key: str, fields: Mapping[str, str]) -> None:
            looks.append((key, fields["status"]))
            broker.jobs[key]["status"] = {"new": "started", "started": "done"}.get(fields["status"], "done")

        ended = client.wait(keys, on_look=on_look)
        assert {key: fields["status"] for key, fields in ended.items()} == dict.fromkeys(keys, "done")
        assert [status for key, status in looks if key == keys[0]] == ["new", "started", "done"]

    def test_a_job_that_failed_is_final_too(self, client: Client, broker: MemoryBroker, image: Path) -> None:
        key = client.submit(image, "q")
        broker.jobs[key] |= {"status": "failed", "reason": "bad"}
        assert client.wait([key])[key]["reason"] == "bad"

    def test_a_job_whose_hash_vanished_counts_as_failed(self, client: Client) -> None:
        assert client.wait(["q:gone:1"]) == {
            "q:gone:1": {"status": Status.FAILED, "reason": "The job is gone from Redis"}
        }

    def test_ends_after_its_time_and_names_a_job(self, client: Client, image: Path) -> None:
        key = client.submit(image, "q")
        with pytest.raises(TimeoutError, match=r"1 jobs are not done after 0\.01 s: 'q:my cells") as caught:
            client.wait([key], timeout=0.01)
        assert key in str(caught.value)

    def test_nothing_to_wait_for_is_done_at_once(self, client: Client) -> None:
        assert client.wait([], timeout=0) == {}

    def test_a_job_that_is_done_needs_no_time(self, client: Client, broker: MemoryBroker, image: Path) -> None:
        key = client.submit(image, "q")
        broker.jobs[key]["status"] = "done"
        assert client.wait([key], timeout=0)[key]["status"] == "done"


class TestFetch:
    @pytest.fixture
    def done(self, storage: ObjectStorage, tmp_path: Path) -> dict[str, str]:
        path = tmp_path / "4d3b.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.tif", b"labels")
        upload = storage.upload(path)
        return {"status": "done", "output_file_name": upload.key, "original_name": "folder/my cells.tif"}

    def test_the_result_carries_the_name_of_the_image(
        self, client: Client, done: dict[str, str], tmp_path: Path
    ) -> None:
        path = client.fetch(done, tmp_path / "new" / "results")
        assert path == tmp_path / "new" / "results" / "my cells.zip"
        assert zipfile.ZipFile(path).namelist() == ["a.tif"]
        assert list(path.parent.iterdir()) == [path]

    def test_two_results_of_one_name_are_both_kept(self, client: Client, done: dict[str, str], tmp_path: Path) -> None:
        names = [client.fetch(done, tmp_path / "results").name for _ in range(3)]
        assert names == ["my cells.zip", "my cells-2.zip", "my cells-3.zip"]

    @pytest.mark.parametrize("name", ["../../evil.tif", "/evil.tif", "a/../../evil.tif"])
    def test_a_name_leads_nowhere_else(self, client: Client, done: dict[str, str], tmp_path: Path, name: str) -> None:
        path = client.fetch(done | {"original_name": name}, tmp_path / "results")
        assert path == tmp_path / "results" / "evil.zip"

    def test_without_a_name_it_keeps_its_own(self, client: Client, done: dict[str, str], tmp_path: Path) -> None:
        path = client.fetch(done | {"original_name": ""}, tmp_path / "results")
        assert path.name == "4d3b.zip"

    def test_a_job_without_a_result_is_refused_with_its_status(self, client: Client, tmp_path: Path) -> None:
        with pytest.raises(JobRejected, match="its status is 'failed'"):
            client.fetch({"status": "failed"}, tmp_path)

    def test_a_result_that_was_deleted_is_named(self, client: Client, tmp_path: Path) -> None:
        with pytest.raises(ObjectNotFound, match=r"output/x\.zip"):
            client.fetch({"status": "done", "output_file_name": "output/x.zip"}, tmp_path)


def test_a_free_name_is_kept(tmp_path: Path) -> None:
    assert free_name(tmp_path / "a.zip") == tmp_path / "a.zip"
