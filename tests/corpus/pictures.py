"""PNG, JPEG, GIF, WebP and the few others: cut, lying about their sizes, bombs; and files that are no images."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
from PIL import Image
from tests.corpus.case import DONE, Case, unreadable, zeros_deflated
from tests.corpus.tiffs import ANY, BAD, HUGE, MEGA, jpeg2000_of, jpeg_of, smooth

if TYPE_CHECKING:
    from redis_consumer.arrays import AnyArray

GREY, RGB, PALETTE = 0, 2, 3
NO_KIND = unreadable("allowed are TIFF, PNG")
SIDE = 60


def written(array: AnyArray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int = SIDE, height: int = SIDE, depth: int = 8, colour: int = GREY, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def rows(height: int = SIDE, row_bytes: int = SIDE) -> bytes:
    return zlib.compress((b"\0" + bytes(range(row_bytes))) * height)


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def data(content: bytes) -> bytes:
    return chunk(b"IDAT", content)


END = chunk(b"IEND", b"")
GOOD_PNG = png(header(), data(rows()), END)
GOOD_JPEG = bytes(imagecodecs.jpeg_encode(smooth()))
GOOD_GIF = written(smooth(), "GIF")
GOOD_BMP = written(smooth(), "BMP")
GOOD_WEBP = written(np.dstack([smooth()] * 3), "WEBP", lossless=True)
GOOD_JP2 = bytes(imagecodecs.jpeg2k_encode(smooth(), codecformat="jp2"))


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def patched(content: bytes, at: int, form: str, *values: int) -> bytes:
    packed = struct.pack(form, *values)
    return content[:at] + packed + content[at + len(packed) :]


def gif(width: int, height: int, frame: tuple[int, int, int, int], *, dispose: int = 0) -> bytes:
    """Return a GIF of a screen and one frame (left, top, width, height) with hardly any data."""
    control = b"\x21\xf9\x04" + bytes([dispose << 2, 0, 0, 0]) + b"\0"
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return screen + control + b"," + struct.pack("<HHHHB", *frame, 0) + b"\x02\x02\x44\x01\0;"


def _case(name: str, end: str, content: bytes) -> Case:
    return Case(name, end, lambda: content)


PNGS = [
    _case("PNG: signature alone", NO_KIND, GOOD_PNG[:8]),
    _case("PNG: cut in its header", ANY, GOOD_PNG[:20]),
    _case("PNG: cut in its data", BAD, GOOD_PNG[:60]),
    _case("PNG: without its end", DONE, GOOD_PNG[:-12]),
    _case("PNG: wrong sum of the header", ANY, flipped(GOOD_PNG, 30)),
    _case("PNG: wrong sum of the data", DONE, flipped(GOOD_PNG, len(GOOD_PNG) - 13)),
    _case("PNG: damaged data", BAD, flipped(GOOD_PNG, 50)),
    _case("PNG: width 0", ANY, png(header(width=0), data(rows()), END)),
    _case("PNG: 2^31 - 1 pixels wide", HUGE, png(header(width=2**31 - 1), data(rows()), END)),
    _case("PNG: 2^32 - 1 pixels wide", ANY, png(header(width=2**32 - 1), data(rows()), END)),
    _case("PNG: 2048 x 2048 pixels over data of 60 x 60", BAD, png(header(2048, 2048), data(rows()), END)),
    _case("PNG: 100,000 x 100,000 pixels of 16 bits", HUGE, png(header(10**5, 10**5, 16), data(rows()), END)),
    _case("PNG: 16 bits, data for 8", BAD, png(header(depth=16), data(rows()), END)),
    _case("PNG: 16 bits, cut", BAD, png(header(depth=16), data(rows(row_bytes=120)))[:60]),
    _case("PNG: colour type 5", ANY, png(header(colour=5), data(rows()), END)),
    _case("PNG: 3 bits", ANY, png(header(depth=3), data(rows()), END)),
    _case("PNG: interlace 9", ANY, png(header(interlace=9), data(rows()), END)),
    _case("PNG: palette without colours", DONE, png(header(colour=PALETTE), data(rows()), END)),
    _case("PNG: no data", BAD, png(header(), END)),
    _case("PNG: two headers", ANY, png(header(), header(2000, 2000), data(rows()), END)),
    _case("PNG: unknown critical chunk", DONE, png(header(), chunk(b"XXXX", b"x"), data(rows()), END)),
    _case("PNG: chunk of 2^31 bytes", DONE, png(header(), b"\x7f\xff\xff\xffIDAT", rows())),
    Case(
        "PNG: data for a thousand times the pixels",
        DONE,
        lambda: png(header(), data(zeros_deflated(256 * MEGA)), END),
    ),
    Case(
        "PNG: bomb of text",
        ANY,
        lambda: png(header(), chunk(b"zTXt", b"k\0\0" + zeros_deflated(512 * MEGA)), data(rows()), END),
    ),
    Case(
        "PNG: bomb of a colour profile",
        ANY,
        lambda: png(header(), chunk(b"iCCP", b"k\0\0" + zeros_deflated(512 * MEGA)), data(rows()), END),
    ),
    Case(
        "PNG: 16 bits and a bomb of text",
        DONE,
        lambda: png(
            header(depth=16),
            chunk(b"zTXt", b"k\0\0" + zeros_deflated(512 * MEGA)),
            data(zlib.compress((b"\0" + bytes(2 * SIDE)) * SIDE)),
            END,
        ),
    ),
    _case(
        "PNG: animation of 2^31 frames",
        DONE,
        png(
            header(),
            chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
            chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, SIDE, SIDE, 0, 0, 1, 1, 0, 0)),
            data(rows()),
            END,
        ),
    ),
    _case(
        "PNG: animation with a frame of 2^31 pixels",
        ANY,
        png(
            header(),
            chunk(b"acTL", struct.pack(">II", 1, 0)),
            chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 2**31 - 1, 2**31 - 1, 0, 0, 1, 1, 0, 0)),
            data(rows()),
            END,
        ),
    ),
]

OTHERS = [
    _case("JPEG: first bytes alone", ANY, GOOD_JPEG[:3]),
    _case("JPEG: cut in its header", ANY, GOOD_JPEG[:100]),
    _case("JPEG: cut in its data", BAD, GOOD_JPEG[:-200]),
    _case("JPEG: 65500 x 65500 pixels over a small one", HUGE, jpeg_of(65500)),
    _case("JPEG: 600 x 600 pixels over a small one", DONE, jpeg_of(600)),
    _case("JPEG: 0 x 0 pixels", ANY, jpeg_of(0)),
    _case("JPEG: no tables", ANY, b"\xff\xd8" + GOOD_JPEG[GOOD_JPEG.index(b"\xff\xc0") :]),
    _case("JPEG: nothing but its end", ANY, b"\xff\xd8\xff\xd9"),
    _case("JPEG: a thousand empty comments", DONE, GOOD_JPEG[:2] + b"\xff\xfe\0\2" * 1000 + GOOD_JPEG[2:]),
    _case(
        "JPEG: lying list of several pictures",
        DONE,
        GOOD_JPEG[:2] + b"\xff\xe2\0\x40MPF\0II*\0\x08\0\0\0" + b"\xff" * 50 + GOOD_JPEG[2:],
    ),
    _case("GIF: cut", ANY, GOOD_GIF[:900]),
    _case("GIF: no frame", ANY, GOOD_GIF[:13] + b";"),
    _case("GIF: screen of 65535 x 65535", HUGE, gif(65535, 65535, (0, 0, 2, 2))),
    _case(
        "GIF: frame far beyond the screen",
        r"has 4294836225 pixels: allowed are \d+ in a GIF",
        gif(2, 2, (0, 0, 65535, 65535)),
    ),
    _case(
        "GIF: frame of 65535 x 65535 to be wiped out",
        r"has 4294836225 pixels: allowed",
        gif(2, 2, (0, 0, 65535, 65535), dispose=2),
    ),
    _case("GIF: codes of 255 bits", ANY, gif(2, 2, (0, 0, 2, 2)).replace(b"\x02\x02\x44\x01", b"\xff\x02\x44\x01")),
    _case("WebP: cut", ANY, GOOD_WEBP[: len(GOOD_WEBP) // 2]),
    _case(
        "WebP: canvas of 16384 x 16384",
        ANY,
        b"RIFF\x24\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0VP8L\x0a\0\0\0\x2f\0\0\0\0\0\0\0\0\0",
    ),
    Case(
        "WebP: 5000 x 5000 pixels of nothing",
        ANY,
        lambda: bytes(imagecodecs.webp_encode(np.zeros((5000, 5000, 3), np.uint8), lossless=True)),
    ),
    _case("BMP: 2^31 - 1 pixels wide", HUGE, patched(GOOD_BMP, 18, "<i", 2**31 - 1)),
    _case("BMP: negative width", ANY, patched(GOOD_BMP, 18, "<i", -60)),
    _case("BMP: data beyond the end", ANY, patched(GOOD_BMP, 10, "<I", 2**32 - 1)),
    _case("BMP: 77 bits", ANY, patched(GOOD_BMP, 28, "<H", 77)),
    _case("BMP: run lengths that never end", ANY, patched(GOOD_BMP, 30, "<I", 1)[:1100]),
    _case("JPEG 2000: 40000 x 40000 pixels over a small one", ANY, jpeg2000_of(40000)),
    _case(
        "JPEG 2000: header and stream of different sizes",
        ANY,
        GOOD_JP2.replace(
            struct.pack(">II", 60, 60) + bytes(8) + struct.pack(">II", 60, 60),
            struct.pack(">II", 40000, 40000) + bytes(8) + struct.pack(">II", 40000, 40000),
        ),
    ),
    _case("JPEG 2000: cut", ANY, GOOD_JP2[: len(GOOD_JP2) // 2]),
    _case("PPM: 10^9 x 10^9 pixels", HUGE, b"P5 1000000000 1000000000 255 x"),
    _case("PPM: negative size", ANY, b"P5 -60 -60 255 " + bytes(3600)),
    _case("PPM: greatest value 0", ANY, b"P5 60 60 0 " + bytes(3600)),
    _case("PPM: text that is too short", ANY, b"P2 60 60 255 1 2 3"),
    _case("PPM: a number of a million digits", ANY, b"P5 " + b"9" * MEGA),
]

NO_IMAGES = [
    _case("no image: empty", unreadable("it is empty"), b""),
    _case("no image: one byte", NO_KIND, b"x"),
    _case("no image: 1 MB of NUL", NO_KIND, bytes(MEGA)),
    _case(
        "no image: EPS that runs a program",
        NO_KIND,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 60\n(%pipe%touch planted) (w) file\n",
    ),
    _case("no image: PDF", NO_KIND, b"%PDF-1.7\n1 0 obj\n<</Type/Catalog>>\n"),
    _case(
        "no image: SVG with an entity",
        NO_KIND,
        b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
    ),
    _case("no image: HTML", NO_KIND, b"<html><body>404</body></html>"),
    _case("no image: pickle", NO_KIND, b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0dtouch planted\x85R."),
    _case("no image: program", NO_KIND, b"\x7fELF\x02\x01\x01" + bytes(500)),
    _case("no image: gzip of a PNG", NO_KIND, gzip.compress(GOOD_PNG, mtime=0)),
    _case("no image: icon", NO_KIND, b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0\x68\4\0\0\x16\0\0\0" + bytes(1128)),
    _case(
        "no image: PSD of 30000 x 30000", NO_KIND, b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30000, 30000, 8, 3)
    ),
]

PICTURES = [*PNGS, *OTHERS, *NO_IMAGES]
