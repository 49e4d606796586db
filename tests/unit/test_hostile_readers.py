"""What readers refuse before it costs anything, and what they do not open; the whole corpus goes through a worker."""

from __future__ import annotations

import errno
import io
import struct
import tarfile
import zipfile
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
from tests.corpus import archives as zips, numbers, pictures, tiffs

from redis_consumer.archives import ArchiveLimits, iter_archive
from redis_consumer.errors import JobRejected, RetryJob
from redis_consumer.images import ImageLimits, read_image
from redis_consumer.images.embedded import jpeg_2000_pixels, jpeg_pixels, png_pixels, webp_pixels
from redis_consumer.images.gif import frame_pixels
from redis_consumer.images.ome import promised_planes
from redis_consumer.images.tracks import read_track_file
from redis_consumer.zips import TooManyMembers, open_zip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.corpus.case import Case

IMAGE = np.zeros((30, 40), np.uint8)


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def by_name(cases: list[Case], name: str) -> bytes:
    (case,) = (case for case in cases if case.name == name)
    return case.make()


class TestTiff:
    def test_no_other_file_of_the_disk_is_read_whatever_the_metadata_name(self, tmp_path: Path) -> None:
        secret = put(tmp_path / "secret.tif", tiffs.wrote(np.full((60, 60), 77, np.uint8)))
        path = put(tmp_path / "x.tif", tiffs.described(tiffs.ome_xml(file_name=str(secret))))
        assert 77 not in read_image(path).pixels[0, :3, :3]  # the corner is 0 to 4

    @pytest.mark.parametrize(
        "name",
        ["deflate bomb in a tile of 65535 x 65535", "JPEG of 65500 x 65500 in a strip", "WebP of 5000 x 5000"],
    )
    def test_what_would_grow_is_refused_by_its_header(self, tmp_path: Path, name: str) -> None:
        path = put(tmp_path / "x.tif", by_name(tiffs.BOMBS, f"TIFF: {name}"))
        with pytest.raises(JobRejected, match=r"has a tile of \d+ values: allowed are 16777216"):
            read_image(path)

    def test_rare_codecs_of_unknown_size_are_refused_by_name(self, tmp_path: Path) -> None:
        content = bytes(imagecodecs.jpegxl_encode(IMAGE))
        path = put(tmp_path / "x.tif", tiffs.bomb(tiffs.JPEG_XL, content))
        with pytest.raises(JobRejected, match="is compressed with JPEGXL, which is not read"):
            read_image(path)

    def test_a_palette_is_looked_at_without_its_pixels(self, tmp_path: Path) -> None:
        huge = pictures.png(
            pictures.header(30_000, 30_000, colour=pictures.PALETTE), pictures.chunk(b"PLTE", bytes(range(6))),
            pictures.data(pictures.rows()), pictures.END,
        )  # fmt: skip
        with pytest.raises(JobRejected, match="30000 x 30000 pixels: allowed are 2048"):
            read_image(put(tmp_path / "x.png", huge), limits=ImageLimits())


class TestDeclaredSizes:
    def test_of_pictures_inside_tiffs(self) -> None:
        assert jpeg_pixels(bytes(imagecodecs.jpeg_encode(IMAGE))) == 1200
        assert jpeg_2000_pixels(bytes(imagecodecs.jpeg2k_encode(IMAGE, codecformat="j2k"))) == 1200
        assert jpeg_2000_pixels(bytes(imagecodecs.jpeg2k_encode(IMAGE, codecformat="jp2"))) == 1200
        assert png_pixels(bytes(imagecodecs.png_encode(IMAGE))) == 1200
        colour = np.zeros((30, 40, 3), np.uint8)
        for lossless in (True, False):
            assert webp_pixels(bytes(imagecodecs.webp_encode(colour, lossless=lossless))) == 1200
        canvas = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (39).to_bytes(3, "little") + (29).to_bytes(3, "little")
        assert webp_pixels(canvas) == 1200

    @pytest.mark.parametrize("read", [jpeg_pixels, jpeg_2000_pixels, png_pixels])
    @pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", bytes(40), b"\0\0\0\1jP  " + bytes(20)])
    def test_of_none(self, read: Callable[[bytes], int], data: bytes) -> None:
        with pytest.raises((ValueError, struct.error)):
            read(data)

    def test_of_ome(self) -> None:
        assert promised_planes(tiffs.ome_xml(), 3600) == 1
        assert promised_planes(tiffs.ome_xml(T=5, C=2), 3600) == 10
        assert promised_planes(tiffs.ome_xml(X=10**6, Y=10**6), 3600) == 10**12 // 3600
        assert promised_planes('<OME><TiffData PlaneCount="77"/></OME>', 3600) == 77
        assert promised_planes('<OME><ModuloAlongT Start="0" End="1e9" Step="0.5"/></OME>', 3600) == 2 * 10**9 + 1
        assert promised_planes("<OME>", 3600) == 0

    def test_of_the_first_frame_of_a_gif(self) -> None:
        assert frame_pixels(io.BytesIO(pictures.GOOD_GIF)) == 3600
        assert frame_pixels(io.BytesIO(pictures.gif(2, 2, (0, 0, 300, 400), dispose=2))) == 120_000
        comment, loop = b"!\xfe\3abc\2de\0", b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0"
        plain = pictures.gif(2, 2, (0, 0, 3, 4))
        assert frame_pixels(io.BytesIO(plain[:19] + comment + loop + plain[19:])) == 12
        assert frame_pixels(io.BytesIO(b"GIF89a")) == 0


class TestNumbers:
    def test_an_array_that_is_not_all_there_is_said_to_be_cut_short(self, tmp_path: Path) -> None:
        with pytest.raises(JobRejected, match=r"image 'x\.npy' cannot be read: the file is cut short"):
            read_image(put(tmp_path / "x.npy", numbers.GOOD[:-1]))

    def test_only_deflate_is_undone(self, tmp_path: Path) -> None:
        path = put(tmp_path / "x.npz", numbers.npz(zipfile.ZIP_BZIP2, X=numbers.GOOD))
        with pytest.raises(JobRejected, match="allowed are arrays stored or deflated"):
            read_image(path)


class TestZips:
    def test_a_list_of_members_that_is_too_long_is_not_read(self, tmp_path: Path) -> None:
        path = put(tmp_path / "x.zip", numbers.many_entries(30_000))
        with pytest.raises(TooManyMembers, match="1380000 bytes: allowed are 1048576"), open_zip(path, 1000):
            pass
        with open_zip(path, 2000) as archive:
            assert len(archive.namelist()) == 30_000

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_only_deflate_is_undone(self, tmp_path: Path, method: int) -> None:
        path = put(tmp_path / "x.zip", zips.zipped("a.tif", method=method))
        with pytest.raises(JobRejected, match=rf"method of compression is {method}, allowed are 0 \(stored\) and 8"):
            iter_archive(path, tmp_path / "out")

    @pytest.mark.parametrize(
        ("name", "fault"), [("", "not relative"), ("x" * 256, "too long"), ("/".join(["deep"] * 300), "too long")]
    )
    def test_names_that_no_disk_takes(self, tmp_path: Path, name: str, fault: str) -> None:
        path = put(tmp_path / "x.zip", zips.joined([(name.encode(), b"x")]))
        with pytest.raises(JobRejected, match=fault):
            iter_archive(path, tmp_path / "out")

    def test_a_name_that_is_not_the_utf_8_it_says(self, tmp_path: Path) -> None:
        path = put(tmp_path / "x.zip", zips.joined([(b"\xff\xfe", b"x")], flags=0x800))
        with pytest.raises(JobRejected, match="damaged or no zip"):
            iter_archive(path, tmp_path / "out")

    def test_a_member_before_the_beginning(self, tmp_path: Path) -> None:
        path = put(tmp_path / "x.zip", zips.joined([(b"a.tif", b"x")])[1:])
        with pytest.raises(JobRejected, match="damaged or no zip"):
            list(iter_archive(path, tmp_path / "out"))

    def test_a_full_disk_is_the_workers_fault(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        path = put(tmp_path / "x.zip", zips.zipped("a.tif"))
        monkeypatch.setattr("redis_consumer.archives.shutil.copyfileobj", full)
        with pytest.raises(RetryJob, match="cannot unpack the archive: No space left"):
            list(iter_archive(path, tmp_path / "out", ArchiveLimits()))


class TestTracks:
    def test_links_are_not_followed(self, tmp_path: Path) -> None:
        path = put(tmp_path / "x.trk", zips.tar(("raw.npy", zips.link("raw.npy")), zips.TRACKED))
        with pytest.raises(JobRejected, match=r"member 'raw\.npy' that is no plain file"):
            read_track_file(path)

    def test_headers_are_read_up_to_a_limit(self, tmp_path: Path) -> None:
        path = put(tmp_path / "x.trk", zips.claiming(2**21, tarfile.XHDTYPE) + bytes(2**21) + zips.GOOD_TRACK)
        with pytest.raises(JobRejected, match="damaged or no track file"):
            read_track_file(path)

    def test_what_stands_behind_the_arrays_is_not_looked_at(self, tmp_path: Path) -> None:
        path = put(tmp_path / "x.trk", zips.GOOD_TRACK[:-1024] + b"x" * 5000)
        assert set(read_track_file(path)) == {"X", "y"}
