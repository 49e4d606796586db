"""TIFFs: cut short, cyclic, lying about sizes and counts, bombs of every codec, and metadata that promise too much."""

from __future__ import annotations

import io
import json
import lzma
import struct
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import tifffile
from tests.corpus.case import DONE, Case, unreadable, zeros_deflated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis_consumer.arrays import AnyArray

BYTE, ASCII, SHORT, LONG, LONG8 = 1, 2, 3, 4, 16
CODES = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I", LONG8: "Q"}
DATA = 1 << 62
"""In place of an offset: where the data begin.  ``DATA + 10`` is ten bytes further."""
HERE = 1 << 61
"""In place of an offset: where this directory begins."""
SIDE = 60
MEGA = 2**20

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION = 256, 257, 258, 259, 262, 270
OFFSETS, SAMPLES, ROWS, COUNTS, PLANAR, PREDICTOR, COLORMAP = 273, 277, 278, 279, 284, 317, 320
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS, SUB_IFDS, FORMAT = 322, 323, 324, 325, 330, 339
NONE, LZW, JPEG, DEFLATE, PACKBITS, JPEG2000, LERC, LZMA = 1, 5, 7, 8, 32773, 34712, 34887, 34925
PNG, JPEG_XR, ZSTD, WEBP, JPEG_XL = 34933, 34934, 50000, 50001, 50002

Tag = tuple[int, "Sequence[int]"]
Tags = dict[int, Tag]


def build(tags: Tags, data: bytes = b"", *, big: bool = False, order: str = "<", following: int = 0) -> bytes:
    """Return a TIFF of one directory, whatever its tags say, with `data` behind it."""
    start, pointer, size = (16, "Q", 8) if big else (8, "I", 4)
    magic = struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    directory_bytes = (8 if big else 2) + len(tags) * (20 if big else 12) + size
    values = {tag: struct.pack(f"{order}{len(v)}{CODES[kind]}", *(0 for _ in v)) for tag, (kind, v) in tags.items()}
    extra_at = start + directory_bytes
    data_at = extra_at + sum(len(value) for value in values.values() if len(value) > size)
    entries, extra = b"", b""
    for tag, (kind, given) in sorted(tags.items()):
        value = struct.pack(f"{order}{len(given)}{CODES[kind]}", *(_placed(v, data_at, start) for v in given))
        entries += struct.pack(f"{order}HH{pointer}", tag, kind, len(given))
        entries += (
            value.ljust(size, b"\0") if len(value) <= size else struct.pack(order + pointer, extra_at + len(extra))
        )
        extra += value if len(value) > size else b""
    head = (b"II" if order == "<" else b"MM") + magic + struct.pack(order + ("Q" if big else "H"), len(tags))
    return head + entries + struct.pack(order + pointer, _placed(following, data_at, start)) + extra + data


def _placed(value: int, data_at: int, start: int) -> int:
    if value >= DATA:
        return value - DATA + data_at
    return value - HERE + start if value >= HERE else value


def grey(data: bytes, width: int = SIDE, length: int = SIDE, **changes: Any) -> bytes:
    """Return a TIFF of one strip of 8 bits a pixel; `changes` are tags by number (``t278=...``), None to leave out."""
    options = {name: changes.pop(name) for name in ("big", "order", "following") if name in changes}
    tags: Tags = {
        WIDTH: (LONG, [width]), LENGTH: (LONG, [length]), BITS: (SHORT, [8]), COMPRESSION: (SHORT, [NONE]),
        PHOTOMETRIC: (SHORT, [1]), OFFSETS: (LONG, [DATA]), SAMPLES: (SHORT, [1]), ROWS: (LONG, [length]),
        COUNTS: (LONG, [len(data)]),
    }  # fmt: skip
    for name, value in changes.items():
        tag = int(name[1:])
        if value is None:
            tags.pop(tag, None)
        else:
            tags[tag] = value if isinstance(value, tuple) else (tags.get(tag, (LONG,))[0], [value])
    return build(tags, data, **options)


def tiled(data: bytes, side: int, tile: int, compression: int) -> bytes:
    """Return a TIFF of one tile, `tile` pixels wide and long, of an image of `side`."""
    gone: dict[str, Any] = {f"t{tag}": None for tag in (OFFSETS, ROWS, COUNTS)}
    return grey(
        data, side, side, **gone, t259=compression, t322=(LONG, [tile]), t323=(LONG, [tile]), t324=(LONG, [DATA]),
        t325=(LONG, [len(data)]),
    )  # fmt: skip


def ascii_tag(text: str) -> Tag:
    return ASCII, text.encode() + b"\0"


def described(text: str, *, pixels: int = SIDE * SIDE) -> bytes:
    """Return a plain TIFF with this ImageDescription."""
    return grey(PIXELS[:pixels], t270=ascii_tag(text))


def wrote(array: AnyArray, **options: Any) -> bytes:
    """Return the bytes of a TIFF as tifffile writes it."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def smooth(side: int = SIDE) -> AnyArray:
    return (np.add.outer(np.arange(side), np.arange(side)) % 251).astype(np.uint8)


PIXELS = smooth().tobytes()


def pages(number: int) -> bytes:
    """Return a TIFF of `number` directories of one pixel that share it, linked one behind the other."""
    entry = struct.pack("<HHIIHHIIHHII", 256, LONG, 1, 1, 257, LONG, 1, 1, 273, LONG, 1, 4)
    entry += struct.pack("<HHIIHHII", 279, LONG, 1, 1, 258, SHORT, 1, 8)
    size = 2 + len(entry) + 4
    parts = [b"II*\0" + struct.pack("<I", 8)]
    for i in range(number):
        parts += [struct.pack("<H", 5), entry, struct.pack("<I", 8 + (i + 1) * size if i + 1 < number else 0)]
    return b"".join(parts)


def bomb(compression: int, compressed: bytes, side: int = SIDE) -> bytes:
    """Return a TIFF of one strip that unpacks to far more than `side` x `side` pixels."""
    return grey(compressed, side, side, t259=compression)


def zeros(number: int) -> AnyArray:
    return np.zeros(number, np.uint8)


def jpeg_of(side: int) -> bytes:
    """Return a JPEG whose header says `side` x `side` pixels, over the data of a small one."""
    content = bytearray(imagecodecs.jpeg_encode(smooth()))
    at = next(i for i in range(len(content)) if bytes(content[i : i + 2]) in (b"\xff\xc0", b"\xff\xc1"))
    content[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(content)


def jpeg2000_of(side: int) -> bytes:
    """Return a JPEG 2000 codestream of one tile of `side` x `side` pixels, over the data of a small one."""
    content = bytearray(imagecodecs.jpeg2k_encode(smooth(), codecformat="j2k"))
    at = content.index(b"\xff\x51") + 6
    content[at : at + 8] = struct.pack(">II", side, side)
    content[at + 16 : at + 24] = struct.pack(">II", side, side)
    return bytes(content)


def webp_of(side: int) -> bytes:
    return bytes(imagecodecs.webp_encode(np.zeros((side, side, 3), np.uint8), lossless=True))


def png_of(side: int) -> bytes:
    """Return a PNG whose header says `side` x `side` pixels, over the data of a small one."""
    content = bytes(imagecodecs.png_encode(smooth()))
    return content[:16] + struct.pack(">II", side, side) + content[24:]


def nested_xml() -> str:
    """Return OME-XML with the entities that grow a billion times."""
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    return f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a0 "lol">{entities}]>{ome_xml("&a9;")}'


def ome_xml(comment: str = "", *, file_name: str = "", **sizes: int) -> str:
    """Return OME-XML of one image, with the pixels in another file if `file_name` is given."""
    size = {"X": SIDE, "Y": SIDE, "Z": 1, "C": 1, "T": 1, **sizes}
    text = " ".join(f'Size{axis}="{n}"' for axis, n in size.items())
    other = f'<UUID FileName="{file_name}">urn:uuid:1</UUID>' if file_name else ""
    return (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Description>{comment}</Description><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" {text}>'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="1">{other}</TiffData>'
        "</Pixels></Image></OME>"
    )


def imagej(**lines: str) -> str:
    return "ImageJ=1.54\n" + "".join(f"{name}={value}\n" for name, value in lines.items())


GOOD = wrote(smooth().astype(np.uint16))
BAD = unreadable("damaged")
CUT = unreadable("cut short")
HUGE = r"has \d+ x \d+ pixels: allowed are 2048 x 2048"
PAGES = r"has \d+ pages: allowed are 65536"
NO_IMAGE = unreadable("holds no image")
NOT_READ = r"is compressed with .*, which is not read$"
ANY = r"^The image '"
"""Refused as an image, in words of its own."""


def _case(name: str, end: str, content: bytes) -> Case:
    return Case(f"TIFF: {name}", end, lambda: content)


CUTS = [
    Case(f"TIFF: cut after {size} bytes", end, lambda size=size: GOOD[:size])  # type: ignore[misc]  # a default binds it
    for size, end in {
        4: BAD,
        7: BAD,
        8: NO_IMAGE,
        11: BAD,
        60: ANY,
        300: ANY,
        len(GOOD) // 2: CUT,
        len(GOOD) - 1: CUT,
    }.items()
]

STRUCTURE = [
    _case("a directory that follows itself", DONE, grey(PIXELS, following=HERE)),
    _case("next directory beyond the end", DONE, grey(PIXELS, following=2**31)),
    _case("next directory inside the pixels", DONE, grey(bytes(SIDE * SIDE), following=DATA + 5)),
    _case("a SubIFD that is its own parent", DONE, grey(PIXELS, t330=(LONG, [HERE]))),
    _case("many SubIFDs that are their own parent", DONE, grey(PIXELS, t330=(LONG, [HERE] * 2000))),
    _case("SubIFD beyond the end", DONE, grey(PIXELS, t330=(LONG, [2**31]))),
    _case("first directory beyond the end", NO_IMAGE, b"II*\0\xff\xff\xff\x7f" + PIXELS),
    _case("first directory inside the header", BAD, b"II*\0\4\0\0\0" + PIXELS),
    _case("no tags at all", BAD, build({})),
    _case("65535 tags that are not there", BAD, b"II*\0\x08\0\0\0\xff\xff"),
    _case("bytes of the other order", NO_IMAGE, b"MM\0*" + GOOD[4:]),
    _case(
        "a tag of 2^31 values",
        DONE,
        grey(PIXELS, t40000=(LONG, [1])).replace(
            struct.pack("<HHI", 40000, LONG, 1), struct.pack("<HHI", 40000, LONG, 2**31)
        ),
    ),
    _case(
        "a tag of an unknown type",
        DONE,
        grey(PIXELS, t40000=(LONG, [1])).replace(
            struct.pack("<HHI", 40000, LONG, 1), struct.pack("<HHI", 40000, 99, 1)
        ),
    ),
    _case("100,000 pages", PAGES, pages(100_000)),
    Case("TIFF: 300,000 pages", PAGES, partial(pages, 300_000)),
]

SIZES = [
    _case("10^6 x 10^6 pixels in one byte", HUGE, grey(b"x", 10**6, 10**6)),
    _case("2^32 - 1 pixels wide", HUGE, grey(b"x", 2**32 - 1, 1)),
    _case("2048 x 2048 pixels in one byte", CUT, grey(b"x", 2048, 2048)),
    _case("2048 x 2048 pixels in one byte, said to be more", CUT, grey(b"x", 2048, 2048, t279=2048 * 2048)),
    _case("no width", unreadable("."), grey(PIXELS, t256=None)),
    _case("no length", unreadable("."), grey(PIXELS, t257=None)),
    _case("width 0", unreadable("."), grey(PIXELS, 0)),
    _case("length 0", unreadable("."), grey(PIXELS, SIDE, 0)),
    _case("no offsets", unreadable("."), grey(PIXELS, t273=None)),
    _case("no byte counts", DONE, grey(PIXELS, t279=None)),
    _case("strips of 0 rows", DONE, grey(PIXELS, t278=0)),
    _case("strips of 2^32 - 1 rows", DONE, grey(PIXELS, t278=2**32 - 1)),
    _case("strip of 0 bytes", CUT, grey(b"", SIDE, SIDE)),
    _case("strip beyond the end", CUT, grey(PIXELS, t273=2**32 - 1)),
    _case("strip of 4 GB", DONE, grey(PIXELS, t279=2**32 - 1)),
    _case("fewer offsets than strips", DONE, grey(PIXELS, t278=10)),
    _case("more offsets than strips", DONE, grey(PIXELS, t273=(LONG, [DATA] * 9), t279=(LONG, [SIDE * SIDE] * 9))),
    _case("fewer counts than offsets", DONE, grey(PIXELS, t278=30, t273=(LONG, [DATA, DATA + 1800]))),
    _case(
        "all strips the same bytes", DONE, grey(PIXELS, t278=1, t273=(LONG, [DATA] * SIDE), t279=(LONG, [SIDE] * SIDE))
    ),
    _case("strip of the header's own bytes", DONE, grey(PIXELS, t273=0)),
    _case("0 bits per sample", unreadable("."), grey(PIXELS, t258=0)),
    _case("1000 bits per sample", ANY, grey(PIXELS, t258=1000)),
    _case("65535 bits per sample", ANY, grey(PIXELS, t258=65535)),
    _case("33 bits per sample", ANY, grey(PIXELS, t258=33)),
    _case("samples of mixed sizes", ANY, grey(PIXELS * 8, t277=3, t258=(SHORT, [8, 16, 8]))),
    _case("no samples", DONE, grey(PIXELS, t277=0)),
    _case("65535 samples", ANY, grey(PIXELS, t277=65535)),
    _case("unknown sample format", ANY, grey(PIXELS, t339=(SHORT, [77]))),
    _case("complex numbers of 8 bits", ANY, grey(PIXELS, t339=(SHORT, [6]))),
    _case("unknown compression", BAD, grey(PIXELS, t259=9999)),
    _case("unknown predictor", ANY, grey(PIXELS, t317=(SHORT, [99]))),
    _case("unknown photometric", DONE, grey(PIXELS, t262=99)),
    _case("unknown planar configuration", DONE, grey(PIXELS, t284=(SHORT, [9]))),
    _case("palette without colours", BAD, grey(PIXELS, t262=3)),
    _case("palette of one colour", ANY, grey(PIXELS, t262=3, t320=(SHORT, [1, 2, 3]))),
    _case("tile of 0 x 0", ANY, tiled(PIXELS, SIDE, 0, NONE)),
    _case("BigTIFF with offsets of 3 bytes", BAD, grey(PIXELS, big=True).replace(b"\x2b\0\x08", b"\x2b\0\x03", 1)),
    _case("BigTIFF of 2^63 tags", BAD, grey(PIXELS, big=True)[:16] + b"\xff" * 8),
    _case("BigTIFF cut in its directory", BAD, grey(PIXELS, big=True)[:100]),
    _case("BigTIFF of 2^40 x 2^40 pixels", HUGE, grey(b"x", big=True, t256=(LONG8, [2**40]), t257=(LONG8, [2**40]))),
    _case("BigTIFF with a strip at 2^60", CUT, grey(PIXELS, big=True, t273=(LONG8, [2**60]))),
    _case("BigTIFF of the other order", DONE, grey(PIXELS, big=True, order=">")),
]

BOMBS = [
    Case("TIFF: deflate bomb in a strip", ANY, lambda: bomb(DEFLATE, zeros_deflated(256 * MEGA))),
    Case("TIFF: LZW bomb in a strip", DONE, lambda: bomb(LZW, bytes(imagecodecs.lzw_encode(bytes(16 * MEGA))))),
    Case("TIFF: packbits bomb in a strip", ANY, lambda: bomb(PACKBITS, b"\x81\0" * MEGA)),
    Case("TIFF: zstd bomb in a strip", ANY, lambda: bomb(ZSTD, bytes(imagecodecs.zstd_encode(bytes(256 * MEGA))))),
    Case("TIFF: lzma bomb in a strip", DONE, lambda: bomb(LZMA, lzma.compress(bytes(32 * MEGA), preset=0))),
    Case(
        "TIFF: deflate bomb in a tile of 65535 x 65535",
        ANY,
        lambda: tiled(zeros_deflated(1024 * MEGA), SIDE, 65535, DEFLATE),
    ),
    Case(
        "TIFF: zstd bomb in a tile of 46336 x 46336",
        ANY,
        lambda: tiled(bytes(imagecodecs.zstd_encode(bytes(256 * MEGA))), SIDE, 46336, ZSTD),
    ),
    Case("TIFF: JPEG of 65500 x 65500 in a strip", ANY, lambda: bomb(JPEG, jpeg_of(65500))),
    Case("TIFF: JPEG of 30000 x 30000 in a tile", ANY, lambda: tiled(jpeg_of(30000), SIDE, 64, JPEG)),
    Case("TIFF: JPEG 2000 of 40000 x 40000", ANY, lambda: bomb(JPEG2000, jpeg2000_of(40000))),
    Case("TIFF: PNG of 30000 x 30000", ANY, lambda: bomb(PNG, png_of(30000))),
    Case("TIFF: WebP of 5000 x 5000", ANY, lambda: bomb(WEBP, webp_of(5000))),
    Case("TIFF: LERC", NOT_READ, lambda: bomb(LERC, bytes(imagecodecs.lerc_encode(smooth())))),
    Case("TIFF: JPEG XL", NOT_READ, lambda: bomb(JPEG_XL, bytes(imagecodecs.jpegxl_encode(smooth())))),
    Case("TIFF: JPEG XR", NOT_READ, lambda: bomb(JPEG_XR, bytes(imagecodecs.jpegxr_encode(smooth())))),
    Case("TIFF: deflate stream with trailing rubbish", DONE, lambda: bomb(DEFLATE, zlib.compress(PIXELS) + bytes(9))),
    Case("TIFF: deflate that is no deflate", BAD, lambda: bomb(DEFLATE, PIXELS)),
]


def metadata(outside: str) -> list[Case]:
    """Return TIFFs whose metadata lie; `outside` is a TIFF on the worker's disk that is none of their business."""
    return [
        _case("ImageJ says 10^9 images", DONE, described(imagej(images="1000000000", frames="1000000000"))),
        _case("ImageJ says -5 images", DONE, described(imagej(images="-5", frames="-5"))),
        _case("ImageJ says 'many' images", BAD, described(imagej(images="many", hyperstack="true"))),
        _case(
            "ImageJ metadata of 4 GB",
            DONE,
            grey(
                PIXELS, t270=ascii_tag(imagej(images="1")), t50838=(LONG, [2**32 - 1, 28]), t50839=(BYTE, b"IJIJ" * 9)
            ),
        ),
        _case("OME says 10^6 x 10^6", ANY, described(ome_xml(X=10**6, Y=10**6))),
        _case("OME says 10^6 frames", ANY, described(ome_xml(T=10**6))),
        _case("OME says 10^18 frames", ANY, described(ome_xml(T=10**18))),
        _case("OME says -1 channels", DONE, described(ome_xml(C=-1))),
        _case("OME that is no XML", DONE, described("<OME xmlns='x'><Image></OME>")),
        _case("OME that grows a billion times", DONE, described(nested_xml())),
        _case("OME with 50,000 nested elements", DONE, described("<OME>" + "<Image>" * 50_000 + "</OME>")),
        _case("OME with its pixels in another file of the disk", DONE, described(ome_xml(file_name=outside))),
        _case("OME with its pixels in a device", DONE, described(ome_xml(file_name="/dev/zero"))),
        _case("shape of 10^6 x 10^6 in JSON", DONE, described(json.dumps({"shape": [10**6, 10**6]}))),
        _case("shape of negative numbers in JSON", DONE, described(json.dumps({"shape": [-60, -60]}))),
        _case("shape of text in JSON", ANY, described(json.dumps({"shape": "sixty"}))),
        _case("shape of 10^5 brackets in JSON", ANY, described('{"shape": ' + "[" * 10**5)),
        _case("description of 1 MB of NUL", DONE, described("\0" * MEGA)),
        _case("LSM info of rubbish", ANY, grey(PIXELS, t34412=(BYTE, b"\xff" * 500))),
        _case(
            "MetaMorph info of 2^32 planes",
            ANY,
            grey(PIXELS, t33628=(LONG, [2**32 - 1] * 4), t33629=(LONG, [2**32 - 1] * 12)),
        ),
        _case("Micro-Manager header of rubbish", DONE, grey(PIXELS, t51123=(ASCII, b'{"Summary": [' * 50 + b"\0"))),
        _case(
            "slide of Hamamatsu",
            ANY,
            grey(jpeg_of(30000), t259=JPEG, t65420=(LONG, [1]), t271=ascii_tag("Hamamatsu"), t65426=(LONG, [0] * 9)),
        ),
    ]


def tiffs(outside: str) -> list[Case]:
    """Return all of them."""
    return [*CUTS, *STRUCTURE, *SIZES, *BOMBS, *metadata(outside)]
