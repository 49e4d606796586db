"""NPY and NPZ: pickles, objects, shapes that lie, archives that are bombs."""

from __future__ import annotations

import bz2
import io
import pickle
import struct
import zipfile
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.corpus.case import DONE, Case, unreadable
from tests.corpus.tiffs import ANY, BAD, HUGE, MEGA, smooth

if TYPE_CHECKING:
    from redis_consumer.arrays import AnyArray

NO_OBJECTS = unreadable("Python objects")
NO_NUMBERS = r"has values of type .*: allowed are real numbers"
CUT = unreadable("cut short")
PLANTED = "planted-by-a-pickle"
"""What a pickle that is loaded leaves in the working directory."""


class Trap:
    """Once unpickled, it writes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (PLANTED, "w")


def npy(array: AnyArray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def headed(text: str, content: bytes = b"", version: bytes = b"\1\0") -> bytes:
    """Return an NPY file with this text for its header."""
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text.encode() + content


def declared(shape: object, descr: object = "|u1", content: bytes = b"", *, fortran: bool = False) -> bytes:
    return headed(f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape!r}}}\n", content)


def npz(method: int = zipfile.ZIP_DEFLATED, **arrays: bytes) -> bytes:
    """Return an archive with these contents as ``<name>.npy``."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content, method)
    return file.getvalue()


def lying(
    content: bytes, *, compressed: int | None = None, size: int | None = None, method: int | None = None
) -> bytes:
    """Return a zip of one entry whose two headers say other sizes, or another method of compression."""
    out, central = bytearray(content), content.index(b"PK\1\2")
    for start, shift in ((0, 0), (central, 2)):
        if method is not None:
            struct.pack_into("<H", out, start + 8 + shift, method)
        if compressed is not None:
            struct.pack_into("<I", out, start + 18 + shift, compressed)
        if size is not None:
            struct.pack_into("<I", out, start + 22 + shift, size)
    return bytes(out)


def packed(content: bytes, method: int, packed_content: bytes, size: int) -> bytes:
    """Return a zip of one entry ``X.npy`` with this compressed content, which claims to unpack to `size` bytes."""
    name, crc = b"X.npy", zlib.crc32(content)
    common = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 33, crc, len(packed_content), size, len(name), 0)
    local = b"PK\3\4" + common + name + packed_content
    central = b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    return local + central + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)


def many_entries(number: int, name: bytes = b"") -> bytes:
    """Return a zip that lists `number` entries, all of them one and the same empty file: 46 bytes each."""
    local = b"PK\3\4" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0) + name
    entry = (
        b"PK\1\2" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0) + name
    )
    size = len(entry) * number
    zip64 = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, number, number, size, len(local))
    locator = b"PK\6\7" + struct.pack("<IQI", 0, len(local) + size, 1)
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return local + entry * number + zip64 + locator + end


def bzip2_bomb(size: int) -> bytes:
    """Return bzip2 of `size` zeros, in a few bytes for each 45 MB."""
    return bz2.compress(bytes(45_899_235)) * (size // 45_899_235)


def _case(name: str, end: str, content: bytes) -> Case:
    return Case(name, end, lambda: content)


GOOD = npy(smooth())
TRAP = np.array([[Trap()]], dtype=object)

NUMBERS = [
    _case("NPY: pickled objects", NO_OBJECTS, npy(np.array([{}, None], dtype=object))),
    _case("NPY: a pickle that writes a file", NO_OBJECTS, npy(TRAP)),
    _case("NPY: a bare pickle", unreadable("allowed are TIFF"), pickle.dumps(Trap())),
    _case("NPY: objects in a record", NO_OBJECTS, declared((9, 9), [("a", "|O")], bytes(648))),
    _case("NPY: records", NO_NUMBERS, npy(np.zeros((9, 9), [("a", "u1")]))),
    _case("NPY: text", NO_NUMBERS, npy(np.full((9, 9), "x"))),
    _case("NPY: dates", NO_NUMBERS, npy(np.zeros((9, 9), "M8[s]"))),
    _case("NPY: 10^5 x 10^5 pixels in no byte", HUGE, declared((10**5, 10**5))),
    _case("NPY: 2048 x 2048 pixels in no byte", CUT, declared((2048, 2048), "<f8")),
    _case("NPY: 10^30 pixels", ANY, declared((10**10, 10**10, 10**10))),
    _case("NPY: negative shape", ANY, declared((-60, -60), content=bytes(3600))),
    _case("NPY: one negative axis", ANY, declared((60, -1), content=bytes(3600))),
    _case("NPY: no pixels", ANY, declared((60, 0))),
    _case("NPY: no axes", ANY, declared((), content=b"x")),
    _case("NPY: 40 axes", DONE, declared((1,) * 38 + (60, 60), content=bytes(3600))),
    _case("NPY: shape of text", BAD, declared("sixty")),
    _case("NPY: elements of 1 GB", ANY, declared((60, 60), "|V1000000000")),
    _case("NPY: header that calls a function", BAD, headed("__import__('os').system('touch planted')\n")),
    _case("NPY: header of a thousand brackets", BAD, headed("[" * 9000 + "\n")),
    _case("NPY: header of 60,000 bytes", BAD, headed(" " * 60_000 + "\n")),
    _case("NPY: header of 4 GB", BAD, b"\x93NUMPY\2\0\xff\xff\xff\xff{}"),
    _case("NPY: version 9", BAD, GOOD[:6] + b"\x09\0" + GOOD[8:]),
    _case("NPY: cut in its header", BAD, GOOD[:40]),
    _case("NPY: cut in its data", CUT, GOOD[:-1]),
    _case("NPY: data behind the array", DONE, GOOD + bytes(MEGA)),
    _case("NPY: columns first", DONE, npy(np.asfortranarray(smooth()))),
    _case("NPY: bytes of the other order", DONE, npy(smooth().astype(">u2"))),
    _case("NPY: truth values", DONE, npy(smooth().astype(bool))),
    _case("NPY: NaN everywhere", r"^The image cannot be processed: ", npy(np.full((60, 60), np.nan, np.float32))),
    _case("NPY: infinity", r"^The image cannot be processed: ", npy(np.full((60, 60), np.inf, np.float32))),
    _case("NPY: the largest numbers there are", r"^The image cannot be processed: ", npy(np.full((60, 60), 1e308))),
    _case("NPZ: a pickle that writes a file", NO_OBJECTS, npz(X=npy(TRAP))),
    _case("NPZ: no array", r"is an archive with 0 arrays", many_entries(1)),
    _case("NPZ: two arrays", r"is an archive with 2 arrays", npz(a=GOOD, b=GOOD)),
    _case("NPZ: 10^5 x 10^5 pixels in no byte", HUGE, npz(X=declared((10**5, 10**5)))),
    _case("NPZ: 2048 x 2048 pixels in no byte", CUT, npz(X=declared((2048, 2048), "<f8"))),
    _case("NPZ: cut", ANY, npz(X=GOOD)[:-40]),
    _case("NPZ: encrypted", ANY, npz(X=GOOD).replace(b"\0\0\x08\0", b"\1\0\x08\0")),
    _case("NPZ: unknown compression", ANY, lying(npz(X=GOOD), method=77)),
    _case("NPZ: says to be smaller than it is", ANY, lying(npz(X=GOOD), size=100)),
    _case("NPZ: damaged data", ANY, lying(npz(X=GOOD), compressed=50)),
    Case("NPZ: 32 MB behind the array", DONE, lambda: npz(X=GOOD + bytes(32 * MEGA))),
    Case("NPZ: bzip2 bomb that claims 4 KB", ANY, lambda: packed(GOOD, 12, bzip2_bomb(2**31), 4096)),
    Case("NPZ: 10^6 entries", ANY, partial(many_entries, 10**6)),
]  # fmt: skip
