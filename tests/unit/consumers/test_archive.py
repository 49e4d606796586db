from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from tests.corpus.archives import several
from tests.unit.consumers.batch import QUEUE, Batch, zipped

from redis_consumer.consumers import ZipFileConsumer
from redis_consumer.errors import AccessDenied, JobRejected, StorageUnavailable
from redis_consumer.queues.memory_admin import MemoryJobAdmin
from redis_consumer.results import entry_stem

if TYPE_CHECKING:
    from pathlib import Path

    from redis_consumer.job import Job

NAMES = ["b/2.tif", "a.tif", "b/zellen, Größe 細胞.TIF", "c d/x=1&y.png"]
MEMBERS = {name: name.encode() for name in NAMES}


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path)


def copied(job: Job) -> dict[str, bytes]:
    """A result named after the image."""
    return {f"{entry_stem(job.fields['original_name'])}_feature_0.tif": job.key.encode()}


class TestOut:
    def test_each_image_is_a_job_in_the_order_of_the_archive(self, batch: Batch) -> None:
        key = batch.submit(MEMBERS)
        batch.visit()
        seen = []

        def look(job: Job) -> dict[str, bytes]:
            content = (batch.bucket / job.fields["input_file_name"]).read_bytes()
            seen.append((job.fields["original_name"], content.decode()))
            return copied(job)

        keys = [job.key for job in batch.work(look)]
        assert seen == [(name, name) for name in NAMES]
        fields = batch.fields(key)
        assert fields["status"] == "waiting"
        assert fields["children"].split(",") == keys
        assert float(fields["children_upload_time"]) >= 0

    def test_children_are_named_and_kept_as_the_kiosk_does(self, batch: Batch) -> None:
        batch.submit(MEMBERS)
        batch.visit()
        keys = list(batch.broker.queues[QUEUE])[::-1]
        assert re.fullmatch(r"q:b/2\.tif:[0-9a-f]{32}", keys[0])
        assert re.fullmatch(r"q:b/zellen_ Größe 細胞\.TIF:[0-9a-f]{32}", keys[2])
        inputs = [batch.fields(key)["input_file_name"] for key in keys]
        folders = {re.match(r"output/[0-9a-f-]{36}/", path)[0] for path in inputs}  # type: ignore[index]
        assert len(folders) == 1
        assert [path.removeprefix(*folders) for path in inputs] == NAMES

    def test_children_want_what_the_parent_wants_and_begin_anew(self, batch: Batch) -> None:
        wanted = {"scale": "0.5", "channels": "0,", "url": "u", "my_field": "x", "dimension_order": ""}
        stale = {
            "progress": "7",
            "output_file_name": "output/others.zip",
            "reason": "r",
            "created_at": "2020",
            "children": "",
        }
        key = batch.submit({"a.tif": b""}, identity_upload="frontend", **wanted, **stale)
        batch.visit()
        (child,) = map(batch.fields, batch.broker.queues[QUEUE])
        assert wanted.items() <= child.items()
        assert child["status"] == "new"
        assert child["identity_upload"] == "zip-pod"
        assert child["created_at"] == child["updated_at"] != "2020"
        expected = {
            *wanted,
            "original_name",
            "input_file_name",
            "status",
            "created_at",
            "updated_at",
            "identity_upload",
        }
        assert child.keys() == expected
        assert batch.fields(key)["status"] == "waiting"

    @pytest.mark.parametrize(
        "junk",
        [
            "__MACOSX/._a.tif",
            ".DS_Store",
            "b/Thumbs.db",
            "desktop.ini",
            ".hidden.tif",
            ".git/x.tif",
            "README",
            "folder/",
        ],
    )
    def test_what_is_no_image_of_the_users_is_left_out(self, batch: Batch, junk: str) -> None:
        batch.submit({junk: b"", "a.tif": b""})
        batch.visit()
        assert [batch.fields(key)["original_name"] for key in batch.broker.queues[QUEUE]] == ["a.tif"]

    @pytest.mark.parametrize(
        ("members", "reason"),
        [
            ({}, "The archive 'my batch.zip' has no images in it"),
            ({"README": b"", ".DS_Store": b"", "a/": b""}, "The archive 'my batch.zip' has no images in it"),
            ({"1.zip": b"", "a/2.ZIP": b""}, "The archive 'my batch.zip' has only archives in it, which are not"),
            (b"no zip", "The archive 'my batch.zip' cannot be unpacked: it is damaged or no zip"),
            ({"../a.tif": b""}, "The archive 'my batch.zip' cannot be unpacked: member '../a.tif'"),
        ],
    )
    def test_an_archive_without_images_fails_in_one_line(self, batch: Batch, members: Any, reason: str) -> None:
        key = batch.submit(members, "my batch.zip")
        batch.visit()
        assert batch.fields(key)["status"] == "failed"
        assert batch.fields(key)["reason"].startswith(reason)
        assert not batch.broker.queues[QUEUE]
        assert batch.storage.uploads == []

    def test_images_of_one_name_are_jobs_of_their_own(self, batch: Batch) -> None:
        key = batch.submit(several("a.tif", "b/a.tif", "a.tif"))
        batch.visit()
        jobs = batch.work(copied)
        assert [job.fields["original_name"] for job in jobs] == ["a.tif", "b/a.tif", "a-2.tif"]
        batch.visit()
        result = batch.result(key)
        assert list(result) == ["a_feature_0.tif", "b/a_feature_0.tif", "a-2_feature_0.tif"]
        assert [content.decode() for content in result.values()] == [job.key for job in jobs]

    def test_limits_are_those_of_the_settings(self, batch: Batch) -> None:
        batch.environ["MAX_ARCHIVE_MEMBERS"] = "3"
        key = batch.submit(MEMBERS)
        batch.visit()
        assert "4 members, allowed are 3" in batch.fields(key)["reason"]

    @pytest.mark.parametrize(
        ("name", "valid"),
        [
            ("uploads/a.zip", True),
            ("uploads/A.ZIP", True),
            ("https://h/b/a.zip?sig=x", True),
            ("uploads/a.tif", False),
            ("", False),
        ],
    )
    def test_only_archives_are_taken(self, batch: Batch, name: str, valid: bool) -> None:  # noqa: FBT001 - a row
        consumer = batch.consumer()
        consumer._redis_values = {"input_file_name": name}
        assert consumer.is_valid_hash("key") is valid

    def test_the_queue_is_the_twin_of_the_one_that_is_named(self, batch: Batch) -> None:
        assert ZipFileConsumer.source_of("Segmentation") == "segmentation-zip"
        assert (batch.consumer().queue, batch.consumer().child_queue) == ("q-zip", "q")

    def test_a_bucket_that_refuses_fails_the_batch_and_not_each_image(
        self, batch: Batch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise AccessDenied("The storage refuses access")

        key = batch.submit(MEMBERS)
        monkeypatch.setattr(batch.storage, "upload", refuse)
        batch.visit()
        assert batch.fields(key)["reason"] == "The storage refuses access"
        assert not batch.broker.queues[QUEUE]

    def test_no_more_than_one_member_is_on_the_disk(self, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
        upload = batch.storage.upload
        found = []

        def look(path: Path, subdir: str) -> Any:
            found.append([p for p in path.parents[len(subdir.split("/")) - 1].rglob("*") if p.is_file()])
            return upload(path, subdir)

        batch.submit(MEMBERS)
        monkeypatch.setattr(batch.storage, "upload", look)
        batch.visit()
        assert [len(paths) for paths in found] == [1] * len(NAMES)


class TestBack:
    def test_the_results_are_one_archive_in_the_order_of_the_input(self, batch: Batch) -> None:
        key = batch.submit(MEMBERS)
        batch.visit()
        jobs = batch.work(copied)
        batch.visit()
        assert batch.result(key) == {
            f"{name[:-4]}_feature_0.tif": job.key.encode() for name, job in zip(NAMES, jobs, strict=True)
        }
        assert list(batch.result(key)) == [f"{name[:-4]}_feature_0.tif" for name in NAMES]

    def test_the_fields_are_those_that_readers_ask_for(self, batch: Batch) -> None:
        key = batch.submit(MEMBERS)
        batch.visit()
        jobs = batch.work(copied)
        batch.visit()
        fields = batch.fields(key)
        assert re.fullmatch(r"output/[0-9a-f-]{36}\.zip", fields["output_file_name"])
        assert fields["output_url"].endswith(fields["output_file_name"])
        assert fields["children:done"].split(",") == [job.key for job in jobs]
        assert (fields["children:failed"], fields["failures"]) == ("", "")
        assert (fields["progress"], fields["total_jobs"]) == ("100", "4")
        assert fields["upload_time"] == "0.5,0.5,0.5,0.5"
        assert len(fields["total_time"].split(",")) == 4
        assert float(fields["cleanup_time"]) >= 0
        assert fields["finished_at"]
        assert "prediction_time" not in fields

    def test_files_beside_the_results_are_listed_by_image(self, batch: Batch) -> None:
        key = batch.submit(MEMBERS)
        batch.visit()
        jobs = batch.work(copied)
        for job in jobs[:2]:
            batch.fields(job.key)["extra_outputs"] = '{"geojson": "output/1/x.geojson"}'
        batch.fields(jobs[2].key)["extra_outputs"] = "in my own words"
        batch.visit()
        listed = json.loads(batch.fields(key)["extra_outputs"])
        assert listed == {name: {"geojson": "output/1/x.geojson"} for name in NAMES[:2]} | {NAMES[2]: "in my own words"}

    def test_progress_counts_the_images(self, batch: Batch) -> None:
        key = batch.submit(MEMBERS)
        batch.visit()
        seen = []

        def look(job: Job) -> dict[str, bytes]:
            seen.append(batch.fields(key).get("progress"))
            return copied(job)

        batch.work(look)
        assert [*seen, batch.fields(key)["progress"]] == [None, "25", "50", "75", "100"]

    def test_what_failed_is_told_and_the_rest_is_delivered(self, batch: Batch) -> None:
        def one_fails(job: Job) -> dict[str, bytes]:
            if job.fields["original_name"] == NAMES[2]:
                raise JobRejected("It is blurred & dark, 100%")
            return copied(job)

        key = batch.submit(MEMBERS)
        batch.visit()
        jobs = batch.work(one_fails)
        batch.visit()
        fields = batch.fields(key)
        assert len(batch.result(key)) == 3
        assert fields["children:failed"] == jobs[2].key
        assert fields["children:done"].split(",") == [job.key for job in jobs if job is not jobs[2]]
        assert parse_qs(fields["failures"], strict_parsing=True) == {jobs[2].key: ["It is blurred & dark, 100%"]}
        assert fields["total_jobs"] == "4"

    def test_a_batch_of_which_nothing_is_left_has_failed(self, batch: Batch) -> None:
        def all_fail(job: Job) -> dict[str, bytes]:
            raise JobRejected(f"No: {job.fields['original_name']}")

        key = batch.submit(MEMBERS)
        batch.visit()
        jobs = batch.work(all_fail)
        batch.visit()
        fields = batch.fields(key)
        assert fields["status"] == "failed"
        assert fields["reason"] == "None of 4 images in the archive could be processed; 'b/2.tif': No: b/2.tif"
        assert fields["children:failed"].split(",") == [job.key for job in jobs]
        assert "output_url" not in fields
        assert set(batch.redis.seconds) == {job.key for job in jobs}

        assert MemoryJobAdmin(batch.broker).replay(key, by="me") == "replayed"
        batch.visit()
        assert len(batch.work(copied)) == 4
        batch.visit()
        assert len(batch.result(key)) == 4
        assert batch.fields(key)["children:failed"] == ""

    def test_parts_that_cannot_become_jobs_are_told_like_failures(self, batch: Batch) -> None:
        content = bytearray(zipped({"good.tif": b"good", "bad.tif": b"the bad one", "inner.zip": b"x"}))
        content[content.index(b"the bad one")] ^= 1
        key = batch.submit(bytes(content))
        batch.visit()
        assert [job.fields["original_name"] for job in batch.work(copied)] == ["good.tif"]
        batch.visit()
        assert list(batch.result(key)) == ["good_feature_0.tif"]
        reasons = [reason for (reason,) in parse_qs(batch.fields(key)["failures"]).values()]
        assert reasons[0].startswith("The archive 'batch.zip' cannot be unpacked: it is damaged")
        assert reasons[1] == "It is an archive inside the archive, which is not unpacked"
        assert batch.fields(key)["total_jobs"] == "3"

    @pytest.mark.parametrize("fault", ["vanished", "no result", "result gone", "no zip"])
    def test_a_result_that_is_not_there_is_a_failure(self, batch: Batch, fault: str) -> None:
        key = batch.submit(MEMBERS)
        batch.visit()
        second = batch.work(copied)[1].key
        result = batch.bucket / batch.fields(second)["output_file_name"]
        if fault == "vanished":
            del batch.broker.jobs[second]
        elif fault == "no result":
            del batch.fields(second)["output_file_name"]
        elif fault == "result gone":
            result.unlink()
        else:
            result.write_bytes(b"no zip")
        batch.visit()
        assert len(batch.result(key)) == 3
        assert batch.fields(key)["children:failed"] == second
        assert parse_qs(batch.fields(key)["failures"]).keys() == {second}

    def test_a_result_may_be_a_single_file(self, batch: Batch) -> None:
        key = batch.submit({"a.tif": b"1"})
        batch.visit()
        (job,) = batch.work(copied)
        (batch.bucket / "output" / "a.csv").write_bytes(b"x,y")
        batch.fields(job.key)["output_file_name"] = "output/a.csv"
        batch.visit()
        assert batch.result(key) == {"a.csv": b"x,y"}

    def test_nothing_is_left_in_the_bucket_but_the_result_and_what_failed(self, batch: Batch) -> None:
        def one_fails(job: Job) -> dict[str, bytes]:
            if job.fields["original_name"] == "a.tif":
                raise JobRejected("No")
            return copied(job)

        key = batch.submit(MEMBERS)
        before = batch.objects()
        batch.visit()
        jobs = batch.work(one_fails)
        batch.visit()
        kept = {batch.fields(key)["output_file_name"], batch.fields(jobs[1].key)["input_file_name"]}
        assert batch.objects() == before | kept
        assert batch.redis.seconds == dict.fromkeys([job.key for job in jobs], 3600)

    @pytest.mark.parametrize("error", [AccessDenied("No s3:DeleteObject"), StorageUnavailable("No answer")])
    def test_a_bucket_that_keeps_everything_is_no_reason_to_fail(
        self, batch: Batch, monkeypatch: pytest.MonkeyPatch, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*_: object) -> None:
            raise error

        key = batch.submit(MEMBERS)
        batch.visit()
        batch.work(copied)
        monkeypatch.setattr(batch.storage, "remove", refuse, raising=False)
        batch.visit()
        assert len(batch.result(key)) == 4
        assert f"stay in the bucket: {error}" in caplog.text

    def test_only_what_was_made_for_the_children_is_removed(self, batch: Batch) -> None:
        key = batch.submit(MEMBERS)
        batch.visit()
        jobs = batch.work(copied)
        (batch.bucket / "uploads" / "mine.tif").write_bytes(b"1")
        batch.fields(jobs[0].key)["input_file_name"] = "uploads/mine.tif"
        batch.fields(jobs[1].key)["output_file_name"] = "uploads/mine.tif"
        batch.visit()
        assert "uploads/mine.tif" in batch.objects()
        assert len(batch.result(key)) == 4


class TestDeaths:
    def test_who_goes_on_submits_what_is_missing_and_brings_nothing_twice(self, batch: Batch) -> None:
        key = batch.submit(MEMBERS)
        upload, calls = batch.storage.upload, []

        def torn(path: Path, subdir: str) -> Any:
            calls.append(path)
            if len(calls) == 3:
                raise StopIteration  # whatever it is that a dying process meets
            return upload(path, subdir)

        batch.storage.upload = torn
        job = batch.claim()
        with pytest.raises(RuntimeError):
            batch.consumer().handle(job)
        assert len(batch.broker.queues[QUEUE]) == 2
        batch.storage.upload = upload
        batch.die(job)
        batch.visit()
        assert [path.partition("/")[2].partition("/")[2] for path in batch.storage.uploads] == NAMES
        assert len(batch.work(copied)) == 4
        batch.visit()
        assert list(batch.result(key)) == [f"{name[:-4]}_feature_0.tif" for name in NAMES]

    def test_a_death_after_the_last_child_submits_nothing(self, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
        key = batch.submit(MEMBERS)
        job = batch.claim()

        def lost(*_: object) -> None:
            raise StopIteration

        with monkeypatch.context() as patch:
            patch.setattr(batch.parents, "update", lost)
            with pytest.raises(StopIteration):
                batch.consumer().handle(job)
        batch.die(job)
        batch.visit()
        assert len(batch.storage.uploads) == len(batch.work(copied)) == 4
        batch.visit()
        assert len(batch.result(key)) == 4

    def test_a_death_after_the_delivery_does_not_gather_anew(self, batch: Batch) -> None:
        key = batch.submit(MEMBERS)
        batch.visit()
        batch.work(copied)
        job = batch.claim()
        assert batch.consumer().handle(job) == "done"  # and dies before it is settled
        uploads = list(batch.storage.uploads)
        before = dict(batch.fields(key))
        batch.die(job)
        batch.visit()
        assert batch.storage.uploads == uploads
        assert len(batch.result(key)) == 4
        assert batch.fields(key)["output_file_name"] == before["output_file_name"]

    def test_a_death_in_the_middle_of_gathering_gathers_anew(
        self, batch: Batch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = batch.submit(MEMBERS)
        batch.visit()
        batch.work(copied)
        job = batch.claim()

        def torn(*_: object) -> None:
            raise StopIteration

        with monkeypatch.context() as patch:
            patch.setattr(batch.storage, "upload", torn)
            with pytest.raises(StopIteration):
                batch.consumer().handle(job)
        assert batch.fields(key)["status"] == "waiting"
        batch.die(job)
        batch.visit()
        assert len(batch.result(key)) == 4

    def test_a_storage_that_is_away_for_a_while_costs_nothing_but_time(
        self, batch: Batch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: object) -> None:
            raise StorageUnavailable("No answer")

        key = batch.submit(MEMBERS)
        batch.visit()
        batch.work(copied)
        with monkeypatch.context() as patch:
            patch.setattr(batch.storage, "download", away, raising=False)
            batch.visit()
        assert batch.fields(key)["status"] == "new"
        batch.late += 60
        batch.visit()
        assert len(batch.result(key)) == 4

    def test_who_is_woken_too_early_waits_on(self, batch: Batch) -> None:
        key = batch.submit(MEMBERS)
        batch.visit()
        assert MemoryJobAdmin(batch.broker).requeue(key, by="me") == "requeued"
        batch.visit()
        assert batch.parents.claim(timeout=0) is None
        assert len(batch.work(copied)) == 4
        batch.visit()
        assert len(batch.result(key)) == 4

    def test_a_cancelled_batch_takes_its_children_along(self, batch: Batch) -> None:
        key = batch.submit(MEMBERS)
        batch.visit()
        assert len(MemoryJobAdmin(batch.broker).cancel(key, by="me")) == 5
        assert batch.work(copied) == []
        assert batch.parents.claim(timeout=0) is None
        assert batch.fields(key)["status"] == "failed"
