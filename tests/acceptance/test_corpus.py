"""The corpus of hostile and broken input, through a worker: each ends in one line, costs little, and leaves nothing.

Memory is read from outside the process.  The sandbox around the worker's folders is compared before and after.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import uuid
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import redis
from tests.acceptance.bench import ROOT, WAIT_SECONDS, discs, job_hash, text_of, tiff
from tests.corpus import archives, fields, numbers, pictures, tiffs
from tests.corpus.case import DONE, Case

from redis_consumer.testing.servers import HOST, start_redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.bench import Bench

    from redis_consumer.demo.stack import Child

pytestmark = pytest.mark.slow

QUEUE = "corpus"
MOST_MEGABYTES = 500
"""Peak of a worker that takes images of up to 2**24 values; half of it was needed when this was written."""
MOST_MEGABYTES_OF_READER = 200
EVERY = 10
"""A good job stands behind so many bad ones."""
MOST_CHARACTERS = 1000
OUTSIDE = "{outside}"
"""In a case: the path of a file on the worker's disk that is none of its business."""

IMAGES = [*tiffs.tiffs(OUTSIDE), *pictures.PICTURES, *numbers.NUMBERS]
FIELDS = [*fields.fields(), *fields.MORE, *fields.names()]
FILES = [*archives.zips("/planted/outside.tif"), *archives.tracks("/planted/outside.tif")]
FORGED = "a.tif\n2026-01-01 00:00:00,000 [ERROR]:[forged]: message"


class Sandbox:
    """A folder in which a worker has its bucket, its temporary files, its home and its neighbours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bucket, self.tmp, self.home = folder / "bucket", folder / "tmp", folder / "home"
        for name in ("bucket/uploads", "tmp", "home", "neighbour"):
            (folder / name).mkdir(parents=True)
        self.outside = folder / "neighbour" / "outside.tif"
        self.outside.write_bytes(tiff(np.full((60, 60), 7, np.uint8)))

    def put(self, content: bytes) -> str:
        """Bring a file into the bucket; return its key."""
        key = f"uploads/{uuid.uuid4().hex}/image.npy"
        path = self.bucket / key
        path.parent.mkdir()
        path.write_bytes(content)
        return key

    def tree(self) -> dict[str, tuple[int, int]]:
        """Return every file and folder, with size and time of the last change of files."""
        found = ((path, path.lstat()) for path in self.folder.rglob("*"))
        return {
            str(path.relative_to(self.folder)): (0, 0) if path.is_dir() else (stat.st_size, stat.st_mtime_ns)
            for path, stat in found
        }


class Run(NamedTuple):
    """All jobs of the corpus, pushed."""

    bench: Bench
    worker: Child
    sandbox: Sandbox
    before: dict[str, tuple[int, int]]
    keys: dict[str, str]
    good: list[str]
    peaks: list[tuple[int, str]]
    """Peak of the worker's memory, MB, when each job had ended."""

    def ended(self, name: str) -> dict[str, str]:
        """Return the fields of a job that is over."""
        found = self.bench.wait(self.keys[name])
        self.peaks.append((peak_megabytes(self.worker.process.pid), name))
        return found


def peak_megabytes(pid: int) -> int:
    """Return the most memory that a process ever had, as the kernel counted it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) // 1024


@pytest.fixture(scope="module")
def run(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        own = bench.on_redis(server.port)
        # Fields that are not UTF-8 are not either when they are read back.
        own.redis = redis.Redis(HOST, server.port, decode_responses=True, encoding_errors="surrogateescape")
        keys, good = pushed(own, sandbox)
        before = sandbox.tree()
        worker = own.start("corpus", [sys.executable, str(ROOT / "consume-redis-events.py")], {
            **own.environ(
                REDIS_PORT=str(server.port), QUEUE=QUEUE, CONSUMER_TYPE="image", HOSTNAME="corpus",
                STORAGE_BUCKET=sandbox.bucket.as_uri(), MAX_IMAGE_PIXELS=str(2**24),
            ),
            "TMPDIR": str(sandbox.tmp), "HOME": str(sandbox.home),
        }, cwd=sandbox.home)  # fmt: skip
        yield Run(own, worker, sandbox, before, keys, good, [])
        worker.stop()


def pushed(bench: Bench, sandbox: Sandbox) -> tuple[dict[str, str], list[str]]:
    """Push all jobs, and a good one after every few; the one lane takes them in this order."""
    image = sandbox.put(tiff(discs(60, 60)[0]))
    keys, good = {}, []
    for number, case in enumerate([*IMAGES, *FIELDS]):
        keys[case.name] = push(bench, sandbox.put(content_of(case, sandbox)), case)
        if number % EVERY == 0:
            good.append(bench.push(QUEUE, image, **{name: str(value) for name, value in fields.PLAIN.items()}))
    return keys, good


def content_of(case: Case, sandbox: Sandbox) -> bytes:
    """Return the file of a case, the path of the file outside in its place, padded so that no offset moves."""
    return case.make().replace(OUTSIDE.encode(), str(sandbox.outside).encode())


def push(bench: Bench, image: str, case: Case) -> str:
    """Push a job as the frontend does, its fields as they are, text or bytes."""
    name = case.fields.get("original_name")
    job, values = job_hash(QUEUE, image, original_name=name if isinstance(name, str) and len(name) < 100 else None)
    plain = {} if "processed" in case.end else fields.PLAIN
    mapping: dict[str, str | bytes] = {**values, "original_name": "image.npy", **plain, **case.fields}
    bench.redis.execute_command("HMSET", job, *[word for pair in mapping.items() for word in pair])
    bench.redis.execute_command("LPUSH", QUEUE, job)
    return job


@pytest.mark.parametrize("case", [*IMAGES, *FIELDS], ids=lambda case: case.name)
def test_every_input_ends_as_the_table_says(run: Run, case: Case) -> None:
    ended = run.ended(case.name)
    assert ended["status"] == ("failed" if case.end else "done"), ended.get("reason")
    if not case.end:
        check_result(run, ended)
        return
    reason = ended["reason"]
    assert re.search(case.end, reason), reason
    assert reason.isprintable(), "one line, and nothing that moves a terminal's cursor"
    assert len(reason) <= MOST_CHARACTERS
    for hidden in (str(run.sandbox.folder), "/tmp", sys.prefix, "Traceback"):  # noqa: S108 - looked for, not used
        assert hidden not in reason


def check_result(run: Run, ended: dict[str, str]) -> None:
    """The result can be unpacked by anybody, wherever they stand."""
    content = (run.sandbox.bucket / ended["output_file_name"]).read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            assert not name.startswith("/")
            assert not {"", ".", ".."} & set(name.split("/"))
            assert max(len(part.encode()) for part in PurePosixPath(name).parts) <= 255


def test_the_next_good_job_succeeds(run: Run) -> None:
    for key in run.good:
        run.bench.done(key)


def test_no_input_makes_the_worker_large(run: Run) -> None:
    for name in run.keys:
        run.ended(name)
    grown = [name for (last, _), (peak, name) in zip(run.peaks, run.peaks[1:], strict=False) if peak > last]
    assert peak_megabytes(run.worker.process.pid) < MOST_MEGABYTES, f"it grew at or before: {grown}"


def test_nothing_is_written_but_results(run: Run) -> None:
    ended = [run.bench.wait(key) for key in [*run.keys.values(), *run.good]]
    results = {f"bucket/{fields['output_file_name']}" for fields in ended if fields["status"] == "done"}
    after = run.sandbox.tree()
    new = {name for name in after.keys() - run.before.keys() if name != "bucket/output"}
    own = {name for name in new if name.startswith("tmp/redis-consumer-of-")}
    assert len(own) == 2, "the worker's folder for temporary files, and its lock: those of jobs are gone"
    assert new - own == results
    assert {name: after.get(name) for name in run.before} == run.before, "what was there is as it was"


def test_no_input_is_a_bug_or_forges_a_message(run: Run) -> None:
    key = run.bench.push(QUEUE, run.sandbox.put(b"no image"), original_name=FORGED)
    assert run.bench.wait(key)["status"] == "failed"
    log = text_of(run.worker)
    assert "Traceback" not in log
    assert "\n2026-01-01" not in log
    assert run.worker.process.poll() is None


# What no consumer reads yet: archives and track files.


class Reader:
    """The process of `tests/corpus/drive.py`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(ROOT / "tests/corpus/drive.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
        )

    def read(self, path: Path, destination: Path) -> dict[str, str]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"path": str(path), "destination": str(destination)}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, str] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        self.process.communicate(timeout=WAIT_SECONDS)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    started = Reader(tmp_path_factory.mktemp("reader"))
    yield started
    started.close()


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_archives_and_tracks_stay_in_their_folder(reader: Reader, tmp_path: Path, case: Case) -> None:
    folder, suffix = tmp_path / "job", "trk" if case.name.startswith("track") else "zip"
    folder.mkdir()
    path = folder / f"in.{suffix}"
    path.write_bytes(case.make())
    answer = reader.read(path, folder / "out")
    assert answer["status"] == ("failed" if case.end else "done"), answer["reason"]
    assert re.search(case.end or DONE, answer["reason"]), answer["reason"]
    assert "\n" not in answer["reason"]
    assert str(tmp_path) not in answer["reason"]
    assert {found.name for found in folder.iterdir()} <= {path.name, "out"}
    assert list(tmp_path.iterdir()) == [folder]
    assert list(reader.folder.iterdir()) == []
    assert not [found for found in folder.rglob("*") if found.is_symlink() or not (found.is_dir() or found.is_file())]
    assert peak_megabytes(reader.process.pid) < MOST_MEGABYTES_OF_READER


def test_the_corpus_is_large() -> None:
    names = [case.name for case in (*IMAGES, *FIELDS, *FILES)]
    assert len(names) == len(set(names)) >= 150
