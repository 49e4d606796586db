"""Zips and tars that want to get out, to grow, or to be somebody else's."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from functools import partial
from typing import Any

import numpy as np
from tests.corpus.case import DONE, Case
from tests.corpus.numbers import TRAP, bzip2_bomb, declared, lying, many_entries, npy, packed
from tests.corpus.tiffs import MEGA, smooth

MEMBER = r"^The archive 'in\.zip' cannot be unpacked: member "
DAMAGED = r"^The archive 'in\.zip' cannot be unpacked: it is damaged or no zip"
TRACK = r"^The track file 'in\.trk' "
BROKEN = TRACK + "cannot be read: it is damaged"
NO_FILE = TRACK + r"has a member '.*' that is no plain file"


def zipped(*names: str, content: bytes = b"content", method: int = zipfile.ZIP_DEFLATED, mode: int = 0) -> bytes:
    """Return a zip of one file under each of these names, as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("x" * len(name.encode()))
            info.external_attr = mode << 16
            archive.writestr(info, content, method)
    out = file.getvalue()
    for name in sorted(set(names), key=len):  # zipfile would mend them
        out = out.replace(b"x" * len(name.encode()), name.encode()) if len(names) == 1 else out
    return out


def several(*names: str) -> bytes:
    """Return a zip of these names; some of them may be the same."""
    return joined([(name.encode(), b"content") for name in names])


def joined(members: list[tuple[bytes, bytes]], *, flags: int = 0, overlap: bool = False) -> bytes:
    """Return a zip of stored members, written byte by byte; with `overlap` all of them are the first one's bytes."""
    out, central = b"", b""
    for name, content in members:
        common = struct.pack("<HHHHHIIIHH", 20, flags, 0, 0, 33, zlib.crc32(content), *[len(content)] * 2, len(name), 0)
        at = 0 if overlap else len(out)
        if not (overlap and out):
            out += b"PK\3\4" + common + name + content
        central += b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, at) + name
    number = len(members)
    return out + central + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, number, number, len(central), len(out), 0)


def nested(depth: int) -> bytes:
    content = b"the end"
    for _ in range(depth):
        content = zipped("inner.zip", content=content)
    return content


def tar(*members: tuple[str, bytes | tarfile.TarInfo], mode: str = "w") -> bytes:
    """Return a tar of contents, or of whatever a TarInfo says."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]  # the mode is text
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return file.getvalue()


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def claiming(size: int, kind: bytes = tarfile.REGTYPE, name: str = "raw.npy") -> bytes:
    """Return the header of a member of so many bytes, which do not follow."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


GOOD_TIFF = b"not looked at"
RAW = npy(smooth()[np.newaxis, ..., np.newaxis])
TRACKED = ("tracked.npy", RAW)
GOOD_TRACK = tar(("raw.npy", RAW), TRACKED)


def _zip(name: str, end: str, content: bytes) -> Case:
    return Case(f"zip: {name}", end, lambda: content)


def zips(outside: str) -> list[Case]:
    """Return archives; `outside` is an absolute path that none of them may touch."""
    slips = ["../planted.tif", "a/../../planted.tif", "..\\planted.tif", outside, "//" + outside, "C:\\planted.tif",
             "C:/planted.tif", "\\\\server\\share\\planted.tif", "a/./planted.tif", "a//planted.tif", "a\x01.tif",
             "a\n.tif", "a\x7f.tif", "x" * 300 + ".tif", "/".join(["deep"] * 400) + ".tif"]  # fmt: skip
    legal = ["CON", "NUL.tif", "aux.tif", "-rf.tif", "~.tif", "%2e%2e%2fplanted.tif", "....tif", ".hidden.tif",
             " .tif", "a:b.tif", "\u202efit.tif", "$(touch planted).tif", "a;b|c&d.tif", "ü核.tif"]  # fmt: skip
    return [
        *(_zip(f"name {name[:40]!r}", MEMBER, joined([(name.encode(), b"x")])) for name in slips),
        *(_zip(f"name {name!r}", DONE, joined([(name.encode(), b"x")], flags=0x800)) for name in legal),
        _zip("name that is not UTF-8, but says so", DAMAGED, joined([(b"\xff\xfe.tif", b"x")], flags=0x800)),
        _zip("name with NUL", DONE, joined([(b"a.tif\0../planted", b"x")])),
        _zip("empty name", r"cannot be unpacked", joined([(b"", b"x")])),
        _zip("link to /etc/passwd", MEMBER, zipped("link.tif", content=b"/etc/passwd", mode=0o120777)),
        _zip("device", DONE, zipped("sda.tif", mode=0o060666)),
        _zip("program that belongs to root", DONE, zipped("run.tif", mode=0o104777)),
        _zip("two of one name", DONE, several("a.tif", "a.tif")),
        Case("zip: 10^4 of one name", DONE, lambda: several(*["a.tif"] * 10**4)),
        _zip("two of one name, the longest", MEMBER, several("a" * 251 + ".tif", "a" * 251 + ".tif")),
        _zip("a file that is a folder too", r"both a file and a folder", several("a", "a/b.tif")),
        _zip("encrypted", MEMBER, joined([(b"a.tif", b"x")], flags=1)),
        _zip("encrypted strongly", DAMAGED, joined([(b"a.tif", b"x")], flags=0x40)),
        _zip("empty", DONE, zipped()),
        _zip("nothing", DAMAGED, b""),
        _zip("nothing but its end", DONE, zipped()[-22:]),
        _zip("cut", DAMAGED, zipped("a.tif", content=bytes(999))[:-30]),
        _zip("damaged data", DAMAGED, joined([(b"a.tif", b"abc")]).replace(b"abc", b"abd")),
        _zip("other zips, 20 deep", DONE, nested(20)),
        Case(
            "zip: bomb",
            r"grows more than 1100 times|allowed are",
            lambda: packed(b"", 8, zlib.compress(bytes(9)), 2**31),
        ),
        Case(
            "zip: says to be smaller than it is",
            DAMAGED,
            lambda: lying(zipped("a.tif", content=bytes(64 * MEGA)), size=9),
        ),
        Case("zip: says to be larger than it is", DONE, lambda: lying(zipped("a.tif", content=b"abc"), size=999)),
        Case(
            "zip: packed size of 4 GB", DONE, lambda: lying(zipped("a.tif", content=bytes(MEGA)), compressed=2**32 - 2)
        ),
        Case("zip: bzip2 bomb that claims 4 KB", MEMBER, lambda: packed(b"", 12, bzip2_bomb(2**31), 4096)),
        Case(
            "zip: lzma bomb that claims 4 KB",
            MEMBER,
            lambda: packed(
                b"", 14, b"\x09\x04\x05\0" + lzma.compress(bytes(32 * MEGA), lzma.FORMAT_ALONE, preset=0), 4096
            ),
        ),
        _zip("unknown method 99", MEMBER, lying(zipped("a.tif"), method=99)),
        Case(
            "zip: 2000 members that are the same 400 KB",
            r"grows more than 1100 times",
            lambda: joined([(b"%d.tif" % i, bytes(400_000)) for i in range(2000)], overlap=True),
        ),
        Case("zip: 10^6 entries", r"the list of members has 46000000 bytes", partial(many_entries, 10**6)),
        Case(
            "zip: 10^5 entries", r"it lists 100000 files and folders, allowed are 41000", partial(many_entries, 10**5)
        ),
        Case(
            "zip: list of members at the end of time",
            DAMAGED,
            lambda: zipped("a.tif")[:-22] + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 50, 2**32 - 2, 0),
        ),
        Case("zip: version 25.5", DAMAGED, lambda: _patched_version(zipped("a.tif"))),
    ]


def _patched_version(content: bytes) -> bytes:
    at = content.index(b"PK\1\2") + 6
    return content[:at] + b"\xff\0" + content[at + 2 :]


def _track(name: str, end: str, content: bytes) -> Case:
    return Case(f"track: {name}", end, lambda: content)


def _bomb(opener: Any) -> bytes:
    """Return a tar whose first member has an attribute of 1 GB, compressed."""
    return bytes(opener(claiming(2**30, tarfile.XHDTYPE))) + bytes(opener(bytes(2**24))) * 64


def tracks(outside: str) -> list[Case]:
    """Return track files; `outside` is an absolute path that none of them may touch."""
    both = [("raw.npy", RAW), TRACKED]
    return [
        _track("plain", DONE, GOOD_TRACK),
        _track("with members that lead out", DONE, tar(("../planted", b"x"), (outside, b"x"), *both)),
        _track("with a link beside the arrays", DONE, tar(("link", link("/etc")), *both)),
        _track(
            "devices and pipes beside the arrays",
            DONE,
            tar(("null", link("", tarfile.CHRTYPE)), ("pipe", link("", tarfile.FIFOTYPE)), *both),
        ),
        _track("movie that is a link", NO_FILE, tar(("raw.npy", link("/etc/passwd")), TRACKED)),
        _track("movie that is a link to itself", NO_FILE, tar(("raw.npy", link("raw.npy")), TRACKED)),
        _track("movie that is a hard link", NO_FILE, tar(("raw.npy", link("tracked.npy", tarfile.LNKTYPE)), TRACKED)),
        _track("links in a circle", NO_FILE, tar(("raw.npy", link("tracked.npy")), ("tracked.npy", link("raw.npy")))),
        _track("movie that is a folder", NO_FILE, tar(("raw.npy", link("", tarfile.DIRTYPE)), TRACKED)),
        _track("movie under another folder", TRACK + "has no member 'raw.npy'", tar(("../raw.npy", RAW), TRACKED)),
        _track("a pickle that writes a file", BROKEN, tar(("raw.npy", npy(TRAP)), TRACKED)),
        _track(
            "movie of 10^15 pixels",
            TRACK + "has 1000000000000000 values",
            tar(("raw.npy", declared((1, 10**8, 10**7, 1))), TRACKED),
        ),
        _track(
            "movie of pixels that are not there",
            TRACK + "cannot be read: 'raw.npy' is cut short",
            tar(("raw.npy", declared((1, 2048, 2048, 1))), TRACKED),
        ),
        _track("movie of no known format", BROKEN, tar(("raw.npy", b"RIFF"), TRACKED)),
        _track("member of 8 EB", TRACK, claiming(2**62)),
        _track("sparse member of 1 TB", TRACK, claiming(512, b"S").replace(b"\0" * 20, b"\0" * 20)),
        _track("name of 4 GB", BROKEN, claiming(2**32, tarfile.GNUTYPE_LONGNAME)),
        _track("nothing", BROKEN, b""),
        _track("no tar", BROKEN, b"x" * 2000),
        _track("cut", TRACK, GOOD_TRACK[:2000]),
        _track("cut gzip", TRACK, gzip.compress(GOOD_TRACK, mtime=0)[:200]),
        _track("damaged xz", TRACK, lzma.compress(GOOD_TRACK)[:300] + b"x" * 300),
        _track("damaged bzip2", TRACK, bz2.compress(GOOD_TRACK)[:200] + b"x" * 300),
        _track("zip that is called a track", BROKEN, zipped("raw.npy", content=RAW)),
        Case("track: attribute of 1 GB, gzip", BROKEN, lambda: _bomb(partial(gzip.compress, compresslevel=1, mtime=0))),
        Case("track: attribute of 1 GB, xz", BROKEN, lambda: _bomb(partial(lzma.compress, preset=0))),
        Case(
            "track: 200,000 members, gzip",
            TRACK + "has more than 1000 members",
            lambda: gzip.compress(claiming(0, name="x") * 200_000, 1, mtime=0),
        ),
        Case(
            "track: 256 MB in front of the arrays, gzip",
            DONE,
            lambda: (
                gzip.compress(claiming(2**28, name="x")) + gzip.compress(bytes(2**24)) * 16 + gzip.compress(GOOD_TRACK)
            ),
        ),
        Case("track: 1 EB in front of the arrays", BROKEN, lambda: claiming(2**60, name="x") + GOOD_TRACK),
    ]
