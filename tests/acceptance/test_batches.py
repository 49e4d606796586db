"""Archives as the Kiosk's frontend pushes them, through separate processes, to one archive of all results."""

from __future__ import annotations

import io
import struct
import time
import zipfile
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs

import pytest
from tests.acceptance.bench import discs, exit_code, objects, text_of, tiff, wait_for, wait_until
from tests.corpus.archives import joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.acceptance.bench import Bench

    from redis_consumer.demo.stack import Child

pytestmark = pytest.mark.slow

IMAGE, DISCS = discs(60, 60)
PLAIN = {"preprocess_function": "none", "postprocess_function": "none"}

ECHO = '''
"""An analysis that hands back what it gets: quick, and of a type of its own."""

import os
import tempfile
from pathlib import Path

from redis_consumer import utils
from redis_consumer.consumers import Consumer


class Echo(Consumer):
    def _consume(self, redis_hash):
        name = self.job.get("original_name")
        if "bad" in name:
            raise RuntimeError(f"{name} is bad")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(self.storage.download(self.job.require("input_file_name"), folder))
            result = Path(folder, f"{Path(name).stem}_feature_0.tif")
            path.rename(result)
            key, url = self.storage.upload(utils.zip_files([result], folder))
        if "held" in name:  # whoever reads this result does not come back
            stored = Path(os.environ["BUCKET"], key)
            stored.unlink()
            os.mkfifo(stored)
        self.update_key(redis_hash, {"status": "done", "output_file_name": key, "output_url": url})
        return "done"
'''


def zipped(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def numbered(count: int) -> dict[str, bytes]:
    return {f"plate {n % 7}/well,{n:03}.tif": str(n).encode() for n in range(count)}


class Lab:
    """A queue of quick jobs on a bucket that is a folder, and its twin for archives."""

    def __init__(self, bench: Bench, queue: str, site: Path) -> None:
        self.bench, self.queue = bench, queue
        self.workers: list[Child] = []
        self.variables = {
            "QUEUE": queue,
            "STORAGE_BUCKET": bench.local_url,
            "BUCKET": str(bench.folder / "bucket"),
            "PYTHONPATH": str(site),
            "LEASE_SECONDS": "2",
        }

    def zips(self, name: str) -> Child:
        return self._worker(name, CONSUMER_TYPE="zip")

    def images(self, name: str, **variables: str) -> Child:
        return self._worker(name, CONSUMER_TYPE="echoes:Echo", **variables)

    def _worker(self, name: str, **variables: str) -> Child:
        self.workers.append(self.bench.worker(name, **self.variables, **variables))
        return self.workers[-1]

    def close(self) -> None:
        """End the workers: their short leases have them sweep what other tests want to see."""
        for worker in self.workers:
            worker.process.kill()
            exit_code(worker)

    def push(self, members: Mapping[str, bytes], name: str = "batch.zip") -> str:
        key = self.bench.upload(zipped(members), name, local=True)
        return self.bench.push(f"{self.queue}-zip", key, original_name=name)

    def children(self, key: str) -> list[str]:
        found: list[str] = self.bench.redis.zrange(f"redis-consumer:children:{key}", 0, -1)
        return found

    def result(self, fields: Mapping[str, str]) -> dict[str, bytes]:
        content = self.bench.content(fields["output_url"], fields["output_file_name"])
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def stored(self) -> dict[Path, int]:
        """Return every object that workers have written, and when."""
        folder = self.bench.folder / "bucket/output"
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "echoes.py").write_text(ECHO)
    return folder


@pytest.fixture(scope="module")
def echo(bench: Bench, site: Path) -> Iterator[Lab]:
    lab = Lab(bench, "echo", site)
    lab.zips("echo-zip-1")
    lab.images("echo-1", CONCURRENCY="4")
    yield lab
    lab.close()


@pytest.fixture
def lab(bench: Bench, site: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A queue of its own for one test, without workers yet."""
    lab = Lab(bench, request.param, site)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def zip_worker(bench: Bench, segmentation_worker: Child) -> Iterator[Child]:
    worker = bench.worker("segmentation-zip-3e", QUEUE="Segmentation", CONSUMER_TYPE="zip")
    yield worker
    assert segmentation_worker.process.poll() is None
    assert worker.process.poll() is None
    assert "Traceback" not in text_of(worker)
    assert "Takes zip jobs from the queue 'segmentation-zip'" in text_of(worker)


# The Kiosk's own consumer on both sides.


@pytest.mark.usefixtures("zip_worker")
def test_an_archive_of_images_goes_through_its_statuses_to_one_archive(bench: Bench) -> None:
    names = ["b/zellen, Größe 細胞.tif", "my cells.tif", "b/2.tif"]
    members = {name: tiff(IMAGE) for name in names} | {
        "b/.DS_Store": b"junk",
        "__MACOSX/b/._2.tif": b"junk",
        "README.txt": b"these are images",
    }
    key = bench.push("segmentation-zip", bench.upload(zipped(members), "batch.zip"), scale="1")
    fields = bench.done(key)
    assert bench.statuses(key) == ["new", "started", "waiting", "done"]

    results = bench.results(fields)
    assert list(results) == [f"{name[:-4]}_batch_0_feature_0.tif" for name in names]
    assert [objects(labels) for labels in results.values()] == [DISCS] * 3

    done, failed = fields["children:done"].split(","), fields["children:failed"].split(",")
    assert [bench.redis.hget(child, "original_name") for child in done] == names
    assert [bench.redis.hget(child, "original_name") for child in failed] == ["README.txt"]
    assert fields["children"].split(",") == [*done, *failed]
    ((told, (reason,)),) = parse_qs(fields["failures"], strict_parsing=True).items()
    assert told == failed[0]
    assert reason.startswith("The image 'README.txt' cannot be read")
    assert (fields["total_jobs"], fields["progress"]) == ("4", "100")
    for name in ("download_time", "prediction_time", "upload_time", "total_time"):
        assert len([float(value) for value in fields[name].split(",")]) == 3
    assert {"status", "output_url", "output_file_name", "finished_at"} <= list(bench.writes(key))[-1].keys()

    for child in (*done, *failed):
        hashed = bench.fields(child)
        assert child.startswith("segmentation:")
        assert (hashed["scale"], hashed["identity_upload"]) == ("1", "segmentation-zip-3e")
        assert 0 < bench.redis.ttl(child) <= 3600
    assert bench.redis.ttl(key) == -1
    left = {entry["path"] for entries in bench.s3.list("output/") for entry in entries}
    inputs = [bench.redis.hget(child, "input_file_name") for child in (*done, *failed)]
    assert [path in left for path in inputs] == [False, False, False, True]
    assert not {bench.redis.hget(child, "output_file_name") for child in done} & left


@pytest.mark.usefixtures("zip_worker")
def test_pictures_of_one_name_are_kept_apart(bench: Bench) -> None:
    few, number = discs(50, 50)
    members = {"a.tif": tiff(IMAGE), "b/a.tif": tiff(few), "c/a.tiff": tiff(few), "c/a.tif": tiff(IMAGE)}
    fields = bench.done(bench.push("segmentation-zip", bench.upload(zipped(members), "batch.zip")))
    assert [(name, objects(labels)) for name, labels in bench.results(fields).items()] == [
        ("a_batch_0_feature_0.tif", DISCS),
        ("b/a_batch_0_feature_0.tif", number),
        ("c/a.tiff_batch_0_feature_0.tif", number),
        ("c/a.tif_batch_0_feature_0.tif", DISCS),
    ]


@pytest.mark.usefixtures("zip_worker")
def test_two_files_of_one_name_are_two_images(bench: Bench) -> None:
    few, number = discs(50, 50)
    content = joined([(b"b/a.tif", tiff(IMAGE)), (b"b/a.tif", tiff(few))])
    fields = bench.done(bench.push("segmentation-zip", bench.upload(content, "batch.zip")))
    assert [(name, objects(labels)) for name, labels in bench.results(fields).items()] == [
        ("b/a_batch_0_feature_0.tif", DISCS),
        ("b/a-2_batch_0_feature_0.tif", number),
    ]
    assert fields["total_jobs"] == "2"


def test_an_archive_for_the_first_kiosks_jobs(bench: Bench) -> None:
    worker = bench.worker("plates-1", QUEUE="plates", CONSUMER_TYPE="image")
    zips = bench.worker("plates-zip-1", QUEUE="plates", CONSUMER_TYPE="zip")
    members = {"b/zellen, 細胞.tif": tiff(IMAGE), "README.txt": b"these are images", "a.tif": tiff(IMAGE)}
    fields = bench.done(bench.push("plates-zip", bench.upload(zipped(members), "batch.zip")))
    results = bench.results(fields)
    assert list(results) == ["b/zellen, 細胞_feature_0.tif", "a_feature_0.tif"]
    assert [objects(labels) for labels in results.values()] == [DISCS] * 2
    assert bench.redis.hget(fields["children:failed"], "original_name") == "README.txt"
    assert "Traceback" not in text_of(worker) + text_of(zips)
    for ended in (worker, zips):
        ended.process.kill()
        exit_code(ended)


@pytest.mark.usefixtures("zip_worker")
def test_the_command_line_submits_and_fetches_an_archive(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "my batch.zip").write_bytes(zipped({"1.tif": tiff(IMAGE), "2.tif": tiff(IMAGE)}))
    words = "submit", tmp_path / "my batch.zip", "--queue", "segmentation", "--output", tmp_path / "out"
    ended = bench.command(*words, seconds=60)
    assert ended.returncode == 0, ended.stderr
    with zipfile.ZipFile(tmp_path / "out/my batch.zip") as archive:
        assert archive.namelist() == ["1_batch_0_feature_0.tif", "2_batch_0_feature_0.tif"]


class Bad(NamedTuple):
    name: str
    content: bytes
    reason: str
    file: str = "batch.zip"


def encrypted() -> bytes:
    content = bytearray(zipped({"a.tif": b"1"}))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def bomb() -> bytes:
    """Return an archive that declares more than it may have."""
    content = bytearray(zipped({"a.tif": b"1"}))
    at = content.index(b"PK\x01\x02") + 20
    content[at : at + 8] = struct.pack("<II", 2**31, 2**31)
    return bytes(content)


CANNOT = "The archive 'batch.zip' cannot be unpacked: "
BAD = [
    Bad("nothing in it", zipped({}), "The archive 'batch.zip' has no images in it"),
    Bad("only junk", zipped({"__MACOSX/._a.tif": b"", "Thumbs.db": b"", "README": b""}), "has no images in it"),
    Bad("archives", zipped({"1.zip": zipped({}), "2.zip": b""}), "The archive 'batch.zip' has only archives in it"),
    Bad("no zip", b"not an archive", f"{CANNOT}it is damaged or no zip"),
    Bad("cut short", zipped({"a.tif": tiff(IMAGE)})[:-30], f"{CANNOT}it is damaged or no zip"),
    Bad("up and away", zipped({"../../a.tif": b""}), f"{CANNOT}member '../../a.tif'"),
    Bad("from the root", zipped({"/etc/a.tif": b""}), f"{CANNOT}member '/etc/a.tif'"),
    Bad("encrypted", encrypted(), f"{CANNOT}member 'a.tif': it is encrypted"),
    Bad("a bomb", bomb(), f"{CANNOT}it grows more than"),
    Bad("nothing but text", zipped({"a.txt": b"a", "b.txt": b"b"}), "None of 2 images in the archive could be"),
    Bad("an image", tiff(IMAGE), "Invalid filetype for \"segmentation-zip\" job: 'image.tif'", "image.tif"),
]


@pytest.mark.usefixtures("zip_worker")
@pytest.mark.parametrize("row", BAD, ids=lambda row: row.name)
def test_a_bad_archive_fails_in_one_line(bench: Bench, row: Bad) -> None:
    key = bench.push("segmentation-zip", bench.upload(row.content, row.file), original_name=row.file)
    assert row.reason in bench.failed(key).replace(bench.fields(key)["input_file_name"], row.file)


# Waiting, many, cancelled.


def test_three_hundred_images_in_the_order_of_the_archive(bench: Bench, echo: Lab) -> None:
    members = numbered(300)
    key = echo.push(members)
    fields = bench.done(key)
    result = echo.result(fields)
    assert list(result.values()) == list(members.values())
    assert list(result) == [f"{name[:-4]}_feature_0.tif" for name in members]
    told = [int(write["progress"]) for write in bench.writes(key) if "progress" in write]
    assert told == sorted(told)
    assert told[-1] == 100
    assert not any(path.suffix == ".tif" for path in echo.stored())


@pytest.mark.parametrize("lab", ["patient"], indirect=True)
def test_one_lane_sees_two_waiting_batches_through(bench: Bench, lab: Lab) -> None:
    lab.zips("patient-zip-1")
    keys = [lab.push({"1.tif": b"1", "2.tif": b"2"}) for _ in range(2)]
    for key in keys:
        bench.wait(key, "waiting")
    parked = "processing-patient-zip:parked:patient-zip-1"
    wait_until(lambda: bench.redis.lrange(parked, 0, -1) == keys[::-1], "both to stand aside")
    lists = {name: kind for name, kind in bench.processing_lists().items() if "patient" in name}
    assert lists == {parked: "list"}
    assert "progress" not in bench.fields(keys[0])
    lab.images("patient-1")
    for key in keys:
        assert bench.done(key)["progress"] == "100"
        halves = [write["progress"] for write in bench.writes(key) if "progress" in write]
        assert halves[0] == "50"
        assert bench.redis.hget(f"redis-consumer:job:{key}", "deliveries") == "1"
    assert not [name for name in bench.processing_lists() if "patient" in name]


def test_images_that_fail_are_told_and_the_rest_is_delivered(bench: Bench, echo: Lab) -> None:
    fields = bench.done(echo.push({"1.tif": b"1", "bad & ugly, 100%.tif": b"2", "3.tif": b"3"}))
    assert list(echo.result(fields).values()) == [b"1", b"3"]
    ((key, (reason,)),) = parse_qs(fields["failures"], strict_parsing=True).items()
    assert key == fields["children:failed"]
    assert bench.redis.hget(key, "original_name") == "bad & ugly, 100%.tif"
    assert reason == "RuntimeError: bad & ugly, 100%.tif is bad"


@pytest.mark.parametrize("lab", ["dropped"], indirect=True)
def test_a_cancelled_batch_takes_its_images_along(bench: Bench, lab: Lab) -> None:
    zips = lab.zips("dropped-zip-1")
    key = lab.push(numbered(5))
    bench.wait(key, "waiting")
    ended = bench.command("cancel", key, HOSTNAME="desk")
    assert ended.returncode == 0
    assert bench.failed(key).startswith("Cancelled by ")
    children = lab.children(key)
    assert [bench.redis.hget(child, "status") for child in children] == ["failed"] * 5
    lab.images("dropped-1")
    other = lab.push({"a.tif": b"1"})
    assert list(lab.result(bench.done(other)).values()) == [b"1"]
    assert bench.redis.llen("dropped") == bench.redis.llen("dropped-zip") == 0
    assert "Traceback" not in text_of(zips)


# Deaths.


@pytest.mark.parametrize("lab", ["torn"], indirect=True)
def test_a_death_in_the_middle_of_submitting_submits_nothing_twice(bench: Bench, lab: Lab) -> None:
    victim = lab.zips("torn-zip-1")
    members = numbered(1500)
    key = lab.push(members)
    wait_until(lambda: len(lab.children(key)) > 50, "the first children", victim)
    victim.process.kill()
    exit_code(victim)
    submitted = lab.children(key)
    assert 0 < len(submitted) < 1500
    inputs = [bench.folder / "bucket" / bench.redis.hget(child, "input_file_name") for child in submitted]
    before = {path: path.stat().st_mtime_ns for path in inputs}

    lab.zips("torn-zip-2")
    bench.wait(key, "waiting")
    children = lab.children(key)
    assert children[: len(submitted)] == submitted
    names = [bench.redis.hget(child, "original_name") for child in children]
    assert names == list(members)
    assert sorted(bench.redis.lrange("torn", 0, -1)) == sorted(children)
    assert {path: path.stat().st_mtime_ns for path in inputs} == before
    lab.images("torn-1", CONCURRENCY="4")
    wait_until(lambda: int(bench.fields(key).get("progress", 0)) > 1, "progress")
    assert bench.command("cancel", key).returncode == 0


@pytest.mark.parametrize("lab", ["gathered"], indirect=True)
def test_a_death_in_the_middle_of_gathering_loses_nothing(bench: Bench, lab: Lab) -> None:
    victim = lab.zips("gathered-zip-1")
    lab.images("gathered-1")
    members = {"1.tif": b"1", "held.tif": b"2", "3.tif": b"3"}
    key = lab.push(members)
    held = waited_for_held(bench, lab, key)
    wait_until(lambda: bool(bench.redis.hget(f"redis-consumer:job:{key}", "token")), "the batch to be gathered")
    time.sleep(0.5)  # the first result may be read, the second keeps it waiting
    victim.process.kill()
    exit_code(victim)
    assert bench.fields(key)["status"] == "waiting"
    held.unlink()
    held.write_bytes(zipped({"held_feature_0.tif": b"2"}))

    lab.zips("gathered-zip-2")
    fields = bench.done(key)
    assert list(lab.result(fields).values()) == list(members.values())
    assert len(lab.children(key)) == 3
    assert bench.statuses(key) == ["new", "started", "waiting", "done"]
    assert {path for path in lab.stored() if path.name in fields["output_file_name"]}


def waited_for_held(bench: Bench, lab: Lab, key: str) -> Path:
    """Return the result that holds up its reader, once all children are done."""
    bench.wait(key, "waiting")
    children = lab.children(key)
    wait_until(lambda: {bench.redis.hget(child, "status") for child in children} == {"done"}, "the children")
    path: Path = bench.folder / "bucket" / bench.redis.hget(children[1], "output_file_name")
    assert path.is_fifo()
    return path


@pytest.mark.parametrize("lab", ["stopped"], indirect=True)
def test_a_worker_that_stops_while_batches_wait_leaves_them_to_others(bench: Bench, lab: Lab) -> None:
    first = lab.zips("stopped-zip-1")
    key = lab.push(numbered(3))
    bench.wait(key, "waiting")
    first.process.terminate()
    assert exit_code(first) == 0
    lab.images("stopped-1")
    second = lab.zips("stopped-zip-2")
    assert list(lab.result(bench.done(key)).values()) == [b"0", b"1", b"2"]
    wait_for(second, f"Job {key} is done")
    assert int(bench.redis.hget(f"redis-consumer:job:{key}", "deliveries")) == 1
