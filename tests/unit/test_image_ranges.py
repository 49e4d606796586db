"""Images that are read out of a bucket by ranges: what travels, and what happens when the bucket is in trouble."""

from __future__ import annotations

import http.server
import io
import re
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import tifffile
from hypothesis import given, strategies as st
from PIL import Image as PillowImage

from redis_consumer.errors import JobRejected, ObjectNotFound, RetryJob, StorageUnavailable
from redis_consumer.images import ImageLimits, open_image, read_image
from redis_consumer.storage.clients import StorageOptions
from redis_consumer.storage.object_store import open_storage
from redis_consumer.storage.ranges import RangeFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from redis_consumer.images import OpenImage
    from redis_consumer.storage.base import Storage

RNG = np.random.default_rng(9)
SIDE = 1536
KEY = "uploads/x.tif"


@dataclass
class Bucket:
    """The state of the server: its objects, what it has sent, and how it is to behave."""

    objects: dict[str, bytes] = field(default_factory=dict)
    sent: list[int] = field(default_factory=list)
    """Bytes of each answer."""
    failures: list[int] = field(default_factory=list)
    """Statuses of the next answers; 0 closes the connection in the middle."""
    knows_if_match: bool = True
    good: int = 1_000_000
    """Answers before everything fails."""


class CountingS3(http.server.BaseHTTPRequestHandler):
    """Objects by ranges, as S3 gives them."""

    protocol_version = "HTTP/1.1"
    bucket: ClassVar[Bucket]

    def do_GET(self) -> None:
        content = self.bucket.objects.get(self.path.removeprefix("/kiosk-bucket/"))
        first, last = map(int, re.findall(r"\d+", self.headers.get("Range", "bytes=0-0")))
        tag = f'"{hash(content)}"'
        status = self.bucket.failures.pop(0) if self.bucket.failures else 206
        status = status if len(self.bucket.sent) < self.bucket.good else 500
        status = status if content is not None else 404
        if content is not None and self.bucket.knows_if_match and self.headers.get("If-Match", tag) != tag:
            status = 412
        body = (content or b"")[first : last + 1] if status in (0, 206) else b""
        self.bucket.sent.append(len(body))
        self.send_response(status or 206)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", tag)
        self.send_header("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
        if status in (0, 206):
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(content or b'')}")
        self.end_headers()
        with suppress(BrokenPipeError):
            self.wfile.write(body if status else body[: len(body) // 2])
        self.close_connection = not status

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), CountingS3)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


@pytest.fixture
def bucket() -> Bucket:
    CountingS3.bucket = Bucket()
    return CountingS3.bucket


@pytest.fixture
def storage(port: int, bucket: Bucket) -> Storage:  # noqa: ARG001 - a bucket of its own for each test
    options = StorageOptions(
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id="any",
        secret_access_key="any",  # noqa: S106 - nobody checks it
        retry_seconds=1,
        max_backoff=0.05,
    )
    return open_storage("s3://kiosk-bucket", options)


@contextmanager
def opened(storage: Storage, **options: Any) -> Iterator[OpenImage]:
    with storage.open(KEY) as file, open_image(file, name="my cells.tif", **options) as image:
        yield image


def plane(image: OpenImage, frame: int = 0, channel: int = 0) -> np.ndarray[Any, Any]:
    """Return one plane, put together from its blocks."""
    whole = np.zeros(image.sizes[1:3], image.dtype)
    for rows, columns, values in image.blocks(frame, channel):
        whole[rows, columns] = values
    return whole


def plane_after(image: OpenImage, change: Callable[[], object]) -> None:
    change()
    plane(image)


def noise(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.integers(0, 2**12, shape).astype(np.uint16)


def tiff(array: np.ndarray[Any, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def pyramid(array: np.ndarray[Any, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, ome=True) as writer:
        writer.write(array, subifds=2, metadata={"axes": "CYX"}, **options)
        for level in (2, 4):
            writer.write(array[:, ::level, ::level], subfiletype=1, **options)
    return file.getvalue()


class TestWhatTravels:
    @pytest.fixture(autouse=True)
    def _images_are_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the first request not bring all of them."""
        monkeypatch.setattr("redis_consumer.storage.object_store.START_BYTES", 2**15)

    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_of_a_pyramid_of_four_channels_one_is_a_fifth(
        self, storage: Storage, bucket: Bucket, compression: str | None
    ) -> None:
        array = noise(4, SIDE, SIDE)
        content = pyramid(array, tile=(256, 256), compression=compression)
        bucket.objects[KEY] = content
        with opened(storage) as image:
            assert image.sizes == (1, SIDE, SIDE, 4)
            np.testing.assert_array_equal(plane(image, channel=2), array[2])
        assert sum(bucket.sent) < 0.3 * len(content)
        assert len(bucket.sent) < 30

    @pytest.mark.parametrize(
        "options",
        [
            {"tile": (128, 128), "compression": "zlib", "planarconfig": "separate"},
            {"planarconfig": "separate", "rowsperstrip": 100},
            {"planarconfig": "separate"},
        ],
        ids=str,
    )
    def test_of_planes_of_samples_one(self, storage: Storage, bucket: Bucket, options: dict[str, Any]) -> None:
        array = noise(4, SIDE // 2, SIDE // 2)
        bucket.objects[KEY] = tiff(array, photometric="minisblack", **options)
        with opened(storage) as image:
            np.testing.assert_array_equal(plane(image, channel=3), array[3])
        assert sum(bucket.sent) < 0.4 * len(bucket.objects[KEY])

    def test_of_a_movie_one_frame(self, storage: Storage, bucket: Bucket) -> None:
        array = noise(10, SIDE // 2, SIDE // 2)
        bucket.objects[KEY] = tiff(array, imagej=True, metadata={"axes": "TYX"})
        with opened(storage) as image:
            np.testing.assert_array_equal(plane(image, frame=7), array[7])
        assert sum(bucket.sent) < 0.2 * len(bucket.objects[KEY])

    def test_the_whole_travels_once(self, storage: Storage, bucket: Bucket) -> None:
        array = noise(SIDE, SIDE)
        bucket.objects[KEY] = tiff(array, tile=(64, 64), compression="zlib")
        with opened(storage) as image:
            np.testing.assert_array_equal(image.read().stored[0, ..., 0], array)
        assert sum(bucket.sent) < 1.1 * len(bucket.objects[KEY])
        assert len(bucket.sent) < 40

    def test_what_is_too_large_is_refused_by_its_header(self, tmp_path: Path) -> None:
        """Three gigabytes, none of them on the disk."""
        (tmp_path / "uploads").mkdir()
        tifffile.imwrite(tmp_path / KEY, shape=(40_000, 40_000), dtype="uint16")
        with open_storage(str(tmp_path)).open(KEY) as file:
            assert file.size > 3e9
            with (
                pytest.raises(JobRejected, match=r"'my cells\.tif' has 40000 x 40000 pixels: allowed are 2048"),
                open_image(file, name="my cells.tif", limits=ImageLimits()),
            ):
                pass
            assert file.fetched < 2**17

    def test_what_is_cut_short_is_refused_by_its_header(self, storage: Storage, bucket: Bucket) -> None:
        bucket.objects[KEY] = tiff(noise(SIDE, SIDE), tile=(256, 256), compression="zlib")[:-1000]
        with pytest.raises(JobRejected, match="the file is cut short"), opened(storage):
            pass
        assert sum(bucket.sent) < 2**17


class TestTrouble:
    def test_what_passes_is_waited_for(self, storage: Storage, bucket: Bucket) -> None:
        array = noise(SIDE, SIDE)
        bucket.objects[KEY] = tiff(array)
        with opened(storage) as image:
            bucket.failures = [503, 0, 500]
            np.testing.assert_array_equal(plane(image), array)

    @pytest.mark.parametrize("good", range(5))
    def test_a_bucket_that_falls_silent_is_no_fault_of_the_image(
        self, storage: Storage, bucket: Bucket, good: int
    ) -> None:
        """Wherever it happens: in the header, where a library might look away, or between two blocks."""
        bucket.objects[KEY] = pyramid(noise(4, SIDE, SIDE), tile=(256, 256), compression="zlib")
        bucket.good = good
        with pytest.raises(StorageUnavailable, match="The storage does not answer: HTTP 500"), opened(storage) as image:
            plane(image)

    @pytest.mark.parametrize("knows_if_match", [True, False])
    def test_an_object_that_changes_is_read_another_time(
        self,
        storage: Storage,
        bucket: Bucket,
        knows_if_match: bool,  # noqa: FBT001 - both
    ) -> None:
        bucket.knows_if_match = knows_if_match
        bucket.objects[KEY] = tiff(noise(SIDE, SIDE))
        with pytest.raises(RetryJob, match="was changed while it was read"), opened(storage) as image:
            plane_after(image, lambda: bucket.objects.update({KEY: tiff(noise(SIDE, SIDE))}))

    def test_an_object_that_vanishes_is_missed(self, storage: Storage, bucket: Bucket) -> None:
        bucket.objects[KEY] = tiff(noise(SIDE, SIDE))
        with pytest.raises(ObjectNotFound), opened(storage) as image:
            plane_after(image, bucket.objects.clear)


@pytest.mark.parametrize("kind", ["tif", "png", "jpg", "gif", "bmp", "npy", "npz", "deep.png"])
def test_every_format_is_read_through_ranges(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    match kind:
        case "tif":
            tifffile.imwrite(path, noise(300, 200), tile=(64, 64), compression="zlib")
        case "npy":
            np.save(path, noise(300, 200))
        case "npz":
            np.savez_compressed(path, noise(300, 200))
        case "deep.png":
            PillowImage.fromarray(noise(300, 200)).save(path)
        case _:
            PillowImage.fromarray(RNG.integers(0, 255, (300, 200, 3)).astype(np.uint8)).save(path)
    content = path.read_bytes()
    with RangeFile(len(content), lambda start, end: content[start:end]) as file, open_image(file, name="x") as image:
        expected = read_image(path).stored
        np.testing.assert_array_equal(plane(image), expected[0, ..., 0])
        np.testing.assert_array_equal(image.read().stored, expected)


class TestRangeFile:
    CONTENT = RNG.integers(0, 255, 5000).astype(np.uint8).tobytes()

    @given(st.lists(st.tuples(st.integers(0, 5500), st.integers(-1, 3000)), max_size=30))
    def test_is_like_any_file(self, reads: list[tuple[int, int]]) -> None:
        expected = io.BytesIO(self.CONTENT)
        with pytest.MonkeyPatch.context() as patch:
            for name, size in {"SMALL": 64, "FIRST": 32, "AHEAD": 256, "PIECE": 512, "KEPT": 1000}.items():
                patch.setattr(f"redis_consumer.storage.ranges.{name}_BYTES", size)
            with RangeFile(5000, lambda start, end: self.CONTENT[start:end], self.CONTENT[:32]) as file:
                for place, size in reads:
                    assert file.seek(place) == expected.seek(place)
                    assert file.read(size) == expected.read(size)
                    assert file.tell() == expected.tell()
                    assert sum(map(len, file._kept.values())) <= 1000

    def test_reads_ahead_of_small_reads_only(self) -> None:
        asked: list[tuple[int, int]] = []

        def fetch(start: int, end: int) -> bytes:
            asked.append((start, end))
            return bytes(end - start)

        with RangeFile(2**30, fetch) as file:
            while file.tell() < 2**23:
                file.read(1000)
            assert len(asked) < 10
            for place in (2**24, 2**25):
                file.seek(place)
                file.read(2**20)
                assert asked[-1] == (place, place + 2**20)
            file.seek(2**29)
            file.read(2**25)
            assert {end - start for start, end in asked[-4:]} == {2**23}

    def test_to_and_fro_costs_nothing(self) -> None:
        asked: list[int] = []

        def fetch(start: int, end: int) -> bytes:
            asked.append(start)
            return bytes(end - start)

        with RangeFile(2**30, fetch) as file:
            for _ in range(10):
                for place in (0, 2**28, 2**29):
                    file.seek(place)
                    file.read(100)
        assert asked == [0, 2**28, 2**29]

    def test_a_failure_is_not_forgotten(self) -> None:
        def fetch(_: int, __: int) -> bytes:
            raise StorageUnavailable("it is away")

        def swallow(file: RangeFile, error: Exception | None) -> None:
            with pytest.raises(StorageUnavailable):
                file.read(1)
            if error:
                raise error

        for error in (None, ValueError("and so it must be damaged")):
            with pytest.raises(StorageUnavailable, match="it is away"), RangeFile(10, fetch) as file:
                swallow(file, error)

    def test_less_than_was_asked_for_is_no_answer(self) -> None:
        with (
            pytest.raises(StorageUnavailable, match="sent 1 bytes in place of 10"),
            RangeFile(10, lambda *_: b"x") as f,
        ):
            f.read()
