"""Valid files and messages with bytes flipped, cut out and put in: every reader returns, or says no in its own words.

Memory is bounded.  A minute in all; ``FUZZ_EXAMPLES=200000`` makes it an hour, at random instead of by rote.
"""

from __future__ import annotations

import gzip
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.corpus import archives as zips, numbers, pictures
from tests.corpus.tiffs import smooth, wrote

from redis_consumer.archives import ArchiveLimits, iter_archive
from redis_consumer.errors import JobRejected
from redis_consumer.images import ImageLimits, open_image, read_image, read_image_seed
from redis_consumer.utils import load_track_file
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.framing import MalformedMessage
from redis_consumer.wire.tensors import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "1200"))
fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),  # one folder for all examples of a test, and slow examples, are meant
)
pytestmark = [
    pytest.mark.timeout(120 + EXAMPLES),
    # Decoders' own warnings: they go to the worker's log.
    pytest.mark.filterwarnings("ignore"),
]

LIMITS = ImageLimits(pixels=2**22)
MOST_MEGABYTES = 300
MOST_MEGABYTES_WITHOUT_LIMITS = 1800
STACK = np.stack([smooth()] * 3)

IMAGES = [
    wrote(smooth().astype(np.uint16)),
    wrote(smooth(), compression="zlib", tile=(32, 32)),
    wrote(smooth(), compression="lzw", rowsperstrip=20, predictor=True),
    wrote(smooth(), compression="zstd", bigtiff=True, byteorder=">"),
    wrote(smooth(), compression="jpeg"),
    wrote(smooth(), compression="jpeg2000"),
    wrote(STACK, ome=True, metadata={"axes": "CYX"}),
    wrote(STACK, imagej=True, metadata={"axes": "TYX"}),
    wrote(np.dstack([smooth()] * 3), photometric="rgb", compression="webp", compressionargs={"lossless": True}),
    pictures.GOOD_PNG,
    bytes(imagecodecs.png_encode(smooth().astype(np.uint16))),
    pictures.GOOD_JPEG,
    pictures.GOOD_GIF,
    pictures.GOOD_BMP,
    pictures.GOOD_WEBP,
    pictures.GOOD_JP2,
    numbers.GOOD,
    numbers.npz(X=numbers.GOOD),
]
ARCHIVES = [
    zips.joined([(b"a.tif", b"content"), ("b/\u00fc.tif".encode(), b"more"), (b"__MACOSX/._a.tif", b"")], flags=0x800),
    zips.zipped("a.tif", content=bytes(5000)),
    zips.nested(2),
    numbers.many_entries(3, b"x"),
]
TRACKS = [zips.GOOD_TRACK, gzip.compress(zips.GOOD_TRACK, mtime=0), zips.tar(("x", zips.link("raw.npy")), zips.TRACKED)]
TENSORS = [
    b"".join(encode_tensor(array, as_values=as_values))
    for as_values in (False, True)
    for array in (
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        np.arange(6, dtype=np.int64),
        np.ones((2, 2), np.float16),
        np.array([b"one", b"two"], object),
    )
]
MESSAGES = [
    messages.write(pb.PredictResponse(model_spec=messages.model_spec("Nuclear", 6)), {"out": [tensor], "": [tensor]})
    for tensor in TENSORS[:3]
]


class Change(NamedTuple):
    """One change to a file: `size` bytes at a place (0 to 1) give way to `new` ones."""

    place: float
    size: int
    new: bytes


near_the_front = st.floats(0, 1).map(lambda x: x**4)
"""Headers stand there, and directories at the end."""
changes = st.lists(
    st.builds(
        Change,
        st.one_of(near_the_front, near_the_front.map(lambda x: 1 - x)),
        st.sampled_from([0, 1, 1, 1, 2, 4, 8, 100, 10**6]),
        st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff" * 100])),
    ),
    min_size=1,
    max_size=4,
)


def changed(content: bytes, chosen: list[Change]) -> bytes:
    for place, size, new in chosen:
        at = int(place * len(content))
        content = content[:at] + new + content[at + size :]
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@contextmanager
def little_memory(megabytes: int) -> Iterator[None]:
    """Prove that the process did not grow by more than this at any time inside the block."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak up to now
        before = peak()
    except OSError:
        pytest.skip("the system does not tell the peak of memory")
    yield
    assert peak() - before < megabytes


def peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) // 1024


def in_own_words(read: Callable[[], Any], refusal: type[Exception], hidden: Path | None = None) -> None:
    """Call `read`; it returns or raises `refusal`, in one line that tells no path of ours."""
    told = "returned"
    try:
        read()
    except refusal as error:
        told = str(error)
    assert told
    assert "\n" not in told
    assert not hidden or str(hidden) not in told


def test_images(folder: Path) -> None:
    path = folder / "image"

    @fuzzed
    @given(st.sampled_from(IMAGES), changes, st.sampled_from(["", "XYB", "CYX"]))
    def fuzz(content: bytes, chosen: list[Change], axes: str) -> None:
        path.write_bytes(changed(content, chosen))
        in_own_words(lambda: read_image(path, axes=axes, limits=LIMITS), JobRejected, folder)

    with little_memory(MOST_MEGABYTES):
        fuzz()


def test_images_by_blocks(folder: Path) -> None:
    path = folder / "image"

    def read() -> None:
        with open_image(path, limits=LIMITS) as image:
            for frame, channel in np.ndindex(image.sizes[0], image.sizes[-1]):
                assert all(values.size for _, _, values in image.blocks(frame, channel))

    @fuzzed
    @given(st.sampled_from(IMAGES), changes)
    def fuzz(content: bytes, chosen: list[Change]) -> None:
        path.write_bytes(changed(content, chosen))
        in_own_words(read, JobRejected, folder)

    with little_memory(MOST_MEGABYTES):
        fuzz()


def test_images_as_old_consumers_read_them(folder: Path) -> None:
    path = folder / "image"

    @fuzzed
    @given(st.sampled_from(IMAGES[:-2]), changes)
    def fuzz(content: bytes, chosen: list[Change]) -> None:
        path.write_bytes(changed(content, chosen))
        in_own_words(lambda: read_image_seed(path), JobRejected, folder)

    with little_memory(MOST_MEGABYTES_WITHOUT_LIMITS):
        fuzz()


def test_archives(folder: Path) -> None:
    path, destination = folder / "in.zip", folder / "out"
    limits = ArchiveLimits(members=1000, bytes=2**24)

    @fuzzed
    @given(st.sampled_from(ARCHIVES), changes)
    def fuzz(content: bytes, chosen: list[Change]) -> None:
        path.write_bytes(changed(content, chosen))
        in_own_words(lambda: list(iter_archive(path, destination, limits)), JobRejected, folder)
        if destination.exists():
            left = [found for found in destination.rglob("*") if not found.is_dir()]
            assert all(found.is_file() and not found.is_symlink() for found in left)
            for found in left:
                found.unlink()

    with little_memory(MOST_MEGABYTES):
        fuzz()
    assert {found.name for found in folder.iterdir()} <= {"in.zip", "out", "image", "in.trk"}


def test_tracks(folder: Path) -> None:
    path = folder / "in.trk"

    @fuzzed
    @given(st.sampled_from(TRACKS), changes)
    def fuzz(content: bytes, chosen: list[Change]) -> None:
        path.write_bytes(changed(content, chosen))
        in_own_words(lambda: load_track_file(path), JobRejected, folder)

    with little_memory(MOST_MEGABYTES):
        fuzz()


def test_tensors() -> None:
    @fuzzed
    @given(st.sampled_from(TENSORS), changes)
    def fuzz(content: bytes, chosen: list[Change]) -> None:
        in_own_words(lambda: decode_tensor(changed(content, chosen)), MalformedMessage)

    with little_memory(MOST_MEGABYTES):
        fuzz()


def test_replies_of_a_model_server() -> None:
    def read(content: bytes) -> None:
        _, tensors = messages.read(pb.PredictResponse, content)
        for tensor in tensors.values():
            decode_tensor(tensor)

    @fuzzed
    @given(st.sampled_from(MESSAGES), changes)
    def fuzz(content: bytes, chosen: list[Change]) -> None:
        in_own_words(lambda: read(changed(content, chosen)), MalformedMessage)

    with little_memory(MOST_MEGABYTES):
        fuzz()


def test_what_is_not_changed_is_read(folder: Path) -> None:
    for content in IMAGES:
        (folder / "image").write_bytes(content)
        assert read_image(folder / "image", limits=LIMITS).pixels.size
    for content in ARCHIVES:
        (folder / "in.zip").write_bytes(content)
        in_own_words(lambda: list(iter_archive(folder / "in.zip", folder / "out")), JobRejected)
    for content in TRACKS[:2]:
        (folder / "in.trk").write_bytes(content)
        assert set(load_track_file(folder / "in.trk")) == {"X", "y"}
    assert all(decode_tensor(content).size for content in TENSORS)
