from __future__ import annotations

import io
import itertools
import logging
import random
import subprocess
import sys
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from redis_consumer.errors import JobRejected
from redis_consumer.images import ImageFile, ImageLimits, read_image, read_image_seed
from redis_consumer.images.axes import rows_first

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(0)


def tiff(path: Path, array: np.ndarray[Any, Any], **options: Any) -> Path:
    tifffile.imwrite(path, array, **options)
    return path


def numbers(*shape: int, dtype: str = "uint16") -> np.ndarray[Any, Any]:
    return RNG.integers(0, 255, shape).astype(dtype)


def test_no_decoder_is_imported_before_the_first_file() -> None:
    code = (
        "import redis_consumer.images, sys; print([m for m in ('tifffile', 'PIL', 'imagecodecs') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"


class TestTiff:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"bigtiff": True},
            {"byteorder": ">"},
            {"compression": "lzw"},
            {"compression": "zlib", "predictor": True},
            {"compression": "zstd"},
            {"compression": "jpeg2000", "compressionargs": {"reversible": True}},
            {"tile": (32, 32), "compression": "zlib"},
            {"rowsperstrip": 7},
        ],
        ids=str,
    )
    def test_every_usual_codec_and_layout(self, tmp_path: Path, options: dict[str, Any]) -> None:
        array = numbers(50, 70)
        image = read_image(tiff(tmp_path / "x.tif", array, **options))
        np.testing.assert_array_equal(image.pixels[0, :, :, 0], array)
        assert image.pixels.dtype == np.float32
        assert (image.axes, image.axes_from, image.shape) == ("YX", "metadata", (50, 70))
        assert image.dtype == np.uint16

    def test_jpeg_in_tiff(self, tmp_path: Path) -> None:
        smooth = np.add.outer(np.arange(48), np.arange(64)).astype("uint8")
        image = read_image(tiff(tmp_path / "x.tif", smooth, compression="jpeg"))
        assert float(np.abs(image.pixels[0, :, :, 0] - smooth).max()) <= 4

    @pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32", "int32", "float16", "float32", "float64"])
    def test_every_usual_type(self, tmp_path: Path, dtype: str) -> None:
        array = numbers(9, 11, dtype=dtype)
        image = read_image(tiff(tmp_path / "x.tif", array))
        np.testing.assert_array_equal(image.pixels[0, :, :, 0], array.astype(np.float32))
        assert image.dtype == np.dtype(dtype)

    @pytest.mark.parametrize(
        ("options", "shape", "layout"),
        [
            ({"metadata": {"axes": "TYX"}}, (5, 9, 11), (5, 9, 11, 1)),
            ({"metadata": {"axes": "CYX"}, "photometric": "minisblack"}, (3, 9, 11), (1, 9, 11, 3)),
            ({"ome": True, "metadata": {"axes": "CYX"}}, (5, 9, 11), (1, 9, 11, 5)),
            ({"ome": True, "metadata": {"axes": "TCYX"}}, (5, 2, 9, 11), (5, 9, 11, 2)),
            ({"ome": True, "metadata": {"axes": "ZYX"}}, (5, 9, 11), (5, 9, 11, 1)),
            ({"imagej": True, "metadata": {"axes": "TZCYX"}}, (4, 1, 2, 9, 11), (4, 9, 11, 2)),
            ({"imagej": True, "metadata": {"axes": "ZCYX"}}, (4, 2, 9, 11), (4, 9, 11, 2)),
            ({"imagej": True, "metadata": {"axes": "TYX"}}, (4, 9, 11), (4, 9, 11, 1)),
        ],
        ids=str,
    )
    def test_axes_of_the_metadata(
        self, tmp_path: Path, options: dict[str, Any], shape: tuple[int, ...], layout: tuple[int, ...]
    ) -> None:
        path = tiff(tmp_path / "x.tif", numbers(*shape), **options)
        for axes in ("", "XYB", " xyb "):  # the file knows better than a form's default
            image = read_image(path, axes=axes)
            assert image.pixels.shape == layout
            assert image.axes_from == "metadata"

    def test_channels_of_a_hyperstack_are_not_mixed_up(self, tmp_path: Path) -> None:
        array = numbers(3, 2, 9, 11)
        image = read_image(tiff(tmp_path / "x.tif", array, imagej=True, metadata={"axes": "TCYX"}))
        np.testing.assert_array_equal(image.pixels, array.transpose(0, 2, 3, 1))

    def test_time_and_depth_together_are_refused(self, tmp_path: Path) -> None:
        path = tiff(tmp_path / "x.tif", numbers(3, 4, 9, 11), ome=True, metadata={"axes": "TZYX"})
        with pytest.raises(
            JobRejected, match=r"'x\.tif' has the axes TZYX \(3 x 4 x 9 x 11\): allowed are.*one of T, Z"
        ):
            read_image(path)
        assert read_image(path, axes="BCXY").pixels.shape == (3, 9, 11, 4)

    def test_pages_without_a_word_are_frames_unless_the_job_says_channels(self, tmp_path: Path) -> None:
        array = numbers(3, 30, 40)
        with tifffile.TiffWriter(tmp_path / "x.tif") as file:
            for page in array:
                file.write(page, metadata=None, contiguous=False)
        by_rule = read_image(tmp_path / "x.tif")
        assert (by_rule.pixels.shape, by_rule.axes_from) == ((3, 30, 40, 1), "rule")
        for axes in ("CXY", "CYX", "XYC"):  # where the pages are is known; only what they are is asked
            image = read_image(tmp_path / "x.tif", axes=axes)
            assert image.axes_from == "job"
            np.testing.assert_array_equal(image.pixels[0], array.transpose(1, 2, 0))

    def test_a_pyramid_is_read_at_its_first_level(self, tmp_path: Path) -> None:
        array = numbers(128, 96)
        with tifffile.TiffWriter(tmp_path / "x.tif") as file:
            file.write(array, subifds=2, tile=(32, 32))
            file.write(array[::2, ::2], subfiletype=1, tile=(32, 32))
            file.write(array[::4, ::4], subfiletype=1, tile=(32, 32))
        np.testing.assert_array_equal(read_image(tmp_path / "x.tif").pixels[0, :, :, 0], array)

    def test_a_pyramid_of_channels_is_read_at_its_first_level(self, tmp_path: Path) -> None:
        array = numbers(3, 128, 96)
        with tifffile.TiffWriter(tmp_path / "x.ome.tif", ome=True) as file:
            file.write(array, subifds=1, tile=(32, 32), metadata={"axes": "CYX"})
            file.write(array[:, ::2, ::2], subfiletype=1, tile=(32, 32))
        image = read_image(tmp_path / "x.ome.tif")
        np.testing.assert_array_equal(image.pixels[0], np.moveaxis(array, 0, -1))
        assert image.others == 0

    @pytest.mark.parametrize(("first", "marked", "others"), [(0, True, 0), (0, False, 0), (1, True, 0), (1, False, 1)])
    def test_a_thumbnail_is_not_the_image(self, tmp_path: Path, first: int, marked: bool, others: int) -> None:  # noqa: FBT001 - a row of the table
        array = numbers(128, 96)
        planes = [(array, 0), (array[::4, ::4], int(marked))]
        with tifffile.TiffWriter(tmp_path / "x.tif") as file:
            for plane, kind in (planes[first], planes[1 - first]):
                file.write(plane, subfiletype=kind, metadata=None)
        image = read_image(tmp_path / "x.tif")
        np.testing.assert_array_equal(image.pixels[0, :, :, 0], array)
        assert image.others == others
        assert read_image_seed(tmp_path / "x.tif").shape == (*planes[first][0].shape, 1)  # as it always did

    def test_of_equal_images_the_first_is_read_and_the_others_are_counted(self, tmp_path: Path) -> None:
        arrays = [numbers(9, 11) for _ in range(3)]
        with tifffile.TiffWriter(tmp_path / "x.ome.tif", ome=True) as file:
            for i, array in enumerate(arrays):
                file.write(array, metadata={"Channel": {"Name": f"stain {i}"}})
        image = read_image(tmp_path / "x.ome.tif")
        np.testing.assert_array_equal(image.pixels[0, :, :, 0], arrays[0])
        assert (image.others, image.channel_names) == (2, ("stain 0",))

    def test_lsm(self, tmp_path: Path) -> None:
        """Zeiss's files have a thumbnail behind every plane."""
        array, thumbnail = numbers(4, 3, 16, 20), numbers(8, 10, 3, dtype="uint8")
        sizes = {"MagicNumber": 67127628, "DimensionX": 20, "DimensionY": 16, "DimensionZ": 4, "DimensionChannels": 3}
        sizes |= {"StructureSize": 500, "DimensionTime": 1, "DataType": 2}
        info = b"".join(
            np.full(1, sizes.get(name, 0)).astype(np.dtype(code)).tobytes()
            if code[:1].isalpha()
            else bytes(np.dtype(code).itemsize)
            for name, code in tifffile.TIFF.CZ_LSMINFO
        )
        with tifffile.TiffWriter(tmp_path / "x.lsm") as file:
            for number, plane in enumerate(array):
                tag = [] if number else [(34412, "B", len(info), info, True)]
                file.write(plane, photometric="minisblack", planarconfig="separate", metadata=None, extratags=tag)
                file.write(thumbnail, photometric="rgb", metadata=None, subfiletype=1)
        image = read_image(tmp_path / "x.lsm")
        assert (image.axes, image.others) == ("ZCYX", 0)
        np.testing.assert_array_equal(image.pixels, np.moveaxis(array, 1, -1))

    @pytest.mark.parametrize("samples", [3, 5])
    def test_interleaved_stains_are_channels_and_no_colours(self, tmp_path: Path, samples: int) -> None:
        array = numbers(9, 11, samples)
        path = tiff(tmp_path / "x.tif", array, photometric="minisblack", planarconfig="contig")
        for axes in ("", "XYB", "XYC"):
            image = read_image(path, axes=axes)
            np.testing.assert_array_equal(image.pixels[0], array)
            assert not image.is_rgb

    @pytest.mark.parametrize(
        ("photometric", "samples", "called"),
        [("separated", 4, "SEPARATED"), ("cielab", 3, "CIELAB"), ("cfa", 1, "CFA"), ("ycbcr", 3, "YCBCR")],
    )
    def test_colours_that_are_neither_grey_nor_rgb_are_refused(
        self, tmp_path: Path, photometric: str, samples: int, called: str
    ) -> None:
        array = numbers(9, 11, samples, dtype="uint8")
        path = tiff(tmp_path / "x.tif", array[..., 0] if samples == 1 else array, photometric=photometric)
        with pytest.raises(
            JobRejected, match=rf"'x\.tif' has colours of the kind {called}: allowed are grey values and RGB"
        ):
            read_image(path)

    def test_jpeg_in_ycbcr_is_rgb(self, tmp_path: Path) -> None:
        array = np.full((16, 16, 3), (200, 30, 60), np.uint8)
        image = read_image(tiff(tmp_path / "x.tif", array, photometric="rgb", compression="jpeg"))
        assert float(np.abs(image.pixels[0] - array).max()) <= 6

    @pytest.mark.parametrize("planar", ["contig", "separate"])
    def test_rgb_is_flagged(self, tmp_path: Path, planar: str) -> None:
        array = numbers(9, 11, 3, dtype="uint8")
        stored = array if planar == "contig" else np.moveaxis(array, -1, 0)
        image = read_image(tiff(tmp_path / "x.tif", stored, photometric="rgb", planarconfig=planar))
        np.testing.assert_array_equal(image.pixels[0], array)
        assert image.is_rgb
        assert image.is_color

    def test_alpha_is_dropped_and_other_extra_samples_are_kept(self, tmp_path: Path) -> None:
        array = numbers(9, 11, 4, dtype="uint8")
        options = {"photometric": "rgb", "planarconfig": "contig"}
        alpha = read_image(tiff(tmp_path / "a.tif", array, extrasamples=["unassalpha"], **options))
        np.testing.assert_array_equal(alpha.pixels[0], array[..., :3])
        extra = read_image(tiff(tmp_path / "b.tif", array, extrasamples=["unspecified"], **options))
        np.testing.assert_array_equal(extra.pixels[0], array)

    def test_grey_stored_as_rgb_is_no_colour_picture(self, tmp_path: Path) -> None:
        grey = np.repeat(numbers(9, 11, 1, dtype="uint8"), 3, axis=-1)
        image = read_image(tiff(tmp_path / "x.tif", grey, photometric="rgb"))
        assert image.is_rgb
        assert not image.is_color

    def test_a_palette_of_colours_becomes_rgb(self, tmp_path: Path) -> None:
        array, colors = numbers(9, 11, dtype="uint8"), RNG.integers(0, 2**16, (3, 256)).astype("uint16")
        image = read_image(tiff(tmp_path / "x.tif", array, photometric="palette", colormap=colors))
        np.testing.assert_array_equal(image.pixels[0], np.moveaxis(colors[:, array], 0, -1).astype(np.float32))
        assert image.is_color

    @pytest.mark.parametrize("hue", [(1, 1, 1), (0, 1, 0), (1, 0, 1), (0.5, 0.25, 1)])
    def test_a_palette_of_one_hue_only_paints_intensities(self, tmp_path: Path, hue: tuple[float, ...]) -> None:
        array = numbers(9, 11, dtype="uint8")
        colors = (np.outer(hue, np.arange(256)) * 257).astype("uint16")
        image = read_image(tiff(tmp_path / "x.tif", array, photometric="palette", colormap=colors))
        np.testing.assert_array_equal(image.pixels[0, :, :, 0], array)
        assert not image.is_color

    def test_nan_and_infinity_are_passed_on(self, tmp_path: Path) -> None:
        array = np.array([[np.nan, np.inf], [-np.inf, 1]], dtype=np.float32)
        np.testing.assert_array_equal(read_image(tiff(tmp_path / "x.tif", array)).pixels[0, :, :, 0], array)

    def test_one_pixel_is_an_image(self, tmp_path: Path) -> None:
        assert read_image(tiff(tmp_path / "x.tif", numbers(1, 1))).pixels.shape == (1, 1, 1, 1)

    def test_complex_numbers_are_refused(self, tmp_path: Path) -> None:
        path = tiff(tmp_path / "x.tif", np.ones((4, 4), dtype=np.complex64))
        with pytest.raises(JobRejected, match="type complex64: allowed are real numbers"):
            read_image(path)

    def test_warnings_of_the_reader_stay_out_of_the_log(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tiff(tmp_path / "x.tif", numbers(2, 8, 8), ome=True, metadata={"axes": "CYX"})
        path.write_bytes(path.read_bytes().replace(b"</Pixels>", b"</Pixelz>"))
        logging.getLogger("tifffile").setLevel(logging.NOTSET)
        with tifffile.TiffFile(path) as file:
            assert len(file.series) == 1
        assert "ome" in caplog.text.lower()  # it does warn
        caplog.clear()
        capfd.readouterr()
        assert isinstance(read_image(path), ImageFile)
        assert (capfd.readouterr().err, caplog.records) == ("", [])


class TestAxesOfArrays:
    """NPY files say nothing about their axes; so do stacks that tifffile wrote from a bare array."""

    @staticmethod
    def npy(path: Path, array: np.ndarray[Any, Any]) -> Path:
        np.save(path, array)
        return path

    @pytest.mark.parametrize(
        ("shape", "layout", "origin"),
        [
            ((9, 11), (1, 9, 11, 1), "rule"),
            ((9, 11, 3), (1, 9, 11, 3), "rule"),
            ((3, 9, 11), (3, 9, 11, 1), "rule"),
            ((9, 11, 5), (9, 11, 5, 1), "rule"),
            ((6, 9, 11, 2), (6, 9, 11, 2), "rule"),
            ((1, 9, 11, 1), (1, 9, 11, 1), "rule"),
            ((1, 6, 9, 11, 2), (6, 9, 11, 2), "rule"),
        ],
        ids=str,
    )
    def test_the_rule(self, tmp_path: Path, shape: tuple[int, ...], layout: tuple[int, ...], origin: str) -> None:
        array = numbers(*shape)
        image = read_image(self.npy(tmp_path / "x.npy", array))
        assert (image.pixels.shape, image.axes_from) == (layout, origin)
        np.testing.assert_array_equal(image.pixels.ravel(), array.ravel())

    @pytest.mark.parametrize("shape", [(2, 6, 9, 11), (2, 3, 6, 9, 11), (7,)], ids=str)
    def test_what_the_rule_does_not_know_is_asked_for(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        with pytest.raises(JobRejected, match=r"does not say what its axes are: name them in 'dimension_order'"):
            read_image(self.npy(tmp_path / "x.npy", numbers(*shape)))

    @pytest.mark.parametrize(
        ("axes", "shape", "order"),
        [
            ("XYB", (9, 11, 6), (2, 0, 1)),
            ("BXY", (6, 9, 11), (0, 1, 2)),
            ("cxy", (6, 9, 11), (1, 2, 0)),
            ("YXC", (9, 11, 6), (0, 1, 2)),
            ("XYBC", (9, 11, 6, 5), (2, 0, 1, 3)),
            ("CXYB", (5, 9, 11, 6), (3, 1, 2, 0)),
            ("BCXY", (6, 5, 9, 11), (0, 2, 3, 1)),
        ],
        ids=str,
    )
    def test_the_word_of_the_job(
        self, tmp_path: Path, axes: str, shape: tuple[int, ...], order: tuple[int, ...]
    ) -> None:
        array = numbers(*shape)
        image = read_image(self.npy(tmp_path / "x.npy", array), axes=axes)
        assert image.axes_from == "job"
        np.testing.assert_array_equal(np.squeeze(image.pixels), array.transpose(order))

    @pytest.mark.parametrize("order", ["XY", "XYB", "BXY", "CXY", "XYC", "BXYC", "CXYB", "ZYXC"])
    def test_a_plain_picture_is_one_whatever_the_form_says(self, tmp_path: Path, order: str) -> None:
        """Axes that the job names and the image lacks have length 1."""
        array = numbers(9, 11)
        paths = (self.npy(tmp_path / "x.npy", array), tiff(tmp_path / "x.tif", array))
        for path in paths:
            np.testing.assert_array_equal(read_image(path, axes=order).pixels[0, :, :, 0], array)

    @pytest.mark.parametrize("order", ["".join(letters) for letters in itertools.permutations("XYBC")])
    def test_every_order_of_the_letters(self, tmp_path: Path, order: str) -> None:
        """The first of X and Y are the rows: each order finds the same image."""
        image = numbers(2, 9, 11, 3)
        rows, columns = sorted("XY", key=order.index)
        array = image.transpose([["B", rows, columns, "C"].index(letter) for letter in order])
        for given in (order, order.replace("B", "T"), order.lower()):
            np.testing.assert_array_equal(read_image(self.npy(tmp_path / "x.npy", array), axes=given).pixels, image)

    def test_axes_of_another_rank_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(JobRejected, match=r"'XYB' names 3 axes, the image 'x\.npy' has 4: shape \(2, 3, 9, 11\)"):
            read_image(self.npy(tmp_path / "x.npy", numbers(2, 3, 9, 11)), axes="XYB")

    def test_a_stack_of_a_bare_array_follows_the_job(self, tmp_path: Path) -> None:
        array = numbers(9, 11, 6)
        image = read_image(tiff(tmp_path / "x.tif", array), axes="XYB")
        np.testing.assert_array_equal(image.pixels[..., 0], array.transpose(2, 0, 1))

    @pytest.mark.parametrize(
        ("shape", "layout"),
        [
            ((3, 60, 50), (3, 60, 50, 1)),
            ((30, 64, 64), (30, 64, 64, 1)),
            ((6, 9, 6), (6, 9, 6, 1)),
            ((9, 6, 6), (9, 6, 6, 1)),
            ((3, 3, 3), (1, 3, 3, 3)),
            ((1, 60, 50), (1, 60, 50, 1)),
            ((60, 1, 50), (1, 60, 50, 1)),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("kind", ["npy", "tif"])
    def test_the_form_s_default_holds_for_no_array_that_does_not_end_in_few(
        self, tmp_path: Path, kind: str, shape: tuple[int, ...], layout: tuple[int, ...]
    ) -> None:
        write = self.npy if kind == "npy" else partial(tiff, photometric="minisblack")
        path = write(tmp_path / f"x.{kind}", numbers(*shape))
        image, silent = read_image(path, axes="XYB"), read_image(path)
        assert image.pixels.shape == layout
        assert (image.axes, image.axes_from) == (silent.axes, silent.axes_from)
        np.testing.assert_array_equal(image.pixels, silent.pixels)

    @pytest.mark.parametrize("shape", [(70, 64, 50), (9, 11, 3), (9, 11, 8)], ids=str)
    def test_the_form_s_default_holds_where_the_last_axis_is_the_shortest(
        self, tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        array = numbers(*shape)
        for path in (self.npy(tmp_path / "x.npy", array), tiff(tmp_path / "x.tif", array, photometric="minisblack")):
            image = read_image(path, axes="XYB")
            assert image.axes_from == "job"
            np.testing.assert_array_equal(image.pixels[..., 0], array.transpose(2, 0, 1))

    def test_rows_come_first_whatever_their_letter(self) -> None:
        assert [rows_first(text) for text in (" xyb", "YXB", "CXY", "B", "")] == ["YXB", "YXB", "CYX", "B", ""]

    def test_one_array_of_an_archive(self, tmp_path: Path) -> None:
        array = numbers(9, 11)
        np.savez_compressed(tmp_path / "one.npz", anything=array)
        np.savez(tmp_path / "two.npz", X=array, y=array + 1)
        np.savez(tmp_path / "bad.npz", a=array, b=array)
        for name in ("one.npz", "two.npz"):
            np.testing.assert_array_equal(read_image(tmp_path / name).pixels[0, :, :, 0], array)
        with pytest.raises(JobRejected, match="archive with 2 arrays: expected is one array, or one named 'X'"):
            read_image(tmp_path / "bad.npz")

    def test_pickles_are_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.array([{}, None], dtype=object), allow_pickle=True)
        with pytest.raises(JobRejected, match="Python objects"):
            read_image(tmp_path / "x.npy")


class TestWhoWins:
    """The file's metadata, the job's `dimension_order`, and what the Kiosk's form sends with everything."""

    @pytest.mark.parametrize(
        ("stored", "order", "axes", "origin"),
        [
            ("CYX", "", "CYX", "metadata"),
            ("CYX", "XYB", "CYX", "metadata"),
            ("CYX", "XYC", "CYX", "metadata"),
            ("CYX", "CXYB", "CYX", "metadata"),
            ("CYX", "BXY", "BYX", "job"),
            ("TYX", "CXY", "CYX", "job"),
            ("TYX", "XYC", "CYX", "job"),
            ("ZYX", "BXY", "ZYX", "metadata"),
            ("ZYX", "TYXC", "ZYX", "metadata"),
            ("TCYX", "BXYC", "TCYX", "metadata"),
            ("TCYX", "XYB", "TCYX", "metadata"),
            ("TZYX", "CXYB", "BZYX", ""),
            ("TZYX", "BCXY", "TCYX", "job"),
        ],
    )
    def test_ome(self, tmp_path: Path, stored: str, order: str, axes: str, origin: str) -> None:
        """Rows and columns stay where they are; a contradiction about the others is the job's to win."""
        array = numbers(*{"T": 4, "C": 3, "Z": 5, "Y": 9, "X": 11}.values())
        array = array[tuple(slice(None) if letter in stored else 0 for letter in "TCZYX")]
        stored_as = sorted(stored, key="TCZYX".index)
        array = array.transpose([stored_as.index(letter) for letter in stored])
        path = tiff(tmp_path / "x.ome.tif", array, ome=True, metadata={"axes": stored})
        if not origin:
            origin, axes = "job", "TCYX"
        image = read_image(path, axes=order)
        assert (image.axes, image.axes_from) == (axes, origin)
        np.testing.assert_array_equal(np.squeeze(image.pixels), array.transpose([axes.index(a) for a in kinds(axes)]))

    @pytest.mark.parametrize(
        ("stored", "order"), [("CYX", "XY"), ("TYX", "XY"), ("TCYX", "CXY"), ("TCYX", "BXY"), ("TZCYX", "BXYC")]
    )
    def test_a_job_that_names_too_few_axes_is_told_both(self, tmp_path: Path, stored: str, order: str) -> None:
        array = numbers(*(3,) * len(stored))
        path = tiff(tmp_path / "x.tif", array, ome=True, photometric="minisblack", metadata={"axes": stored})
        with pytest.raises(JobRejected) as caught:
            read_image(path, axes=order)
        assert str(caught.value) == (
            f"'dimension_order' {order!r} names {len(order)} axes, the image 'x.tif' has {len(stored)}: "
            f"shape {(3,) * len(stored)}, its metadata say {stored}: leave the field blank to follow them"
        )

    @pytest.mark.parametrize(
        "order", ["XYY", "XYQ", "AB", "X", "XYBT", "XYCS", "XYBCT", "X Y B", "XYXY", "YXXC", "[1]"]
    )
    def test_an_order_that_no_image_has_is_refused_even_where_it_is_not_needed(
        self, tmp_path: Path, order: str
    ) -> None:
        with pytest.raises(JobRejected) as caught:
            read_image(tiff(tmp_path / "x.tif", numbers(9, 11)), axes=order)
        assert str(caught.value) == (
            f"The field 'dimension_order' is {order!r}: allowed are X and Y, one of B, T, Z, and C, each once and in "
            "any order, for example XY, BXY or CXYB"
        )

    @pytest.mark.parametrize("order", ["", "XYB", "BXY", "XYC", "CXY", "XY"])
    @pytest.mark.parametrize("planar", ["contig", "separate"])
    def test_a_picture_in_colours_is_never_three_batches_by_default(
        self, tmp_path: Path, planar: str, order: str
    ) -> None:
        array = numbers(9, 11, 3, dtype="uint8")
        stored = array if planar == "contig" else np.moveaxis(array, -1, 0)
        path = tiff(tmp_path / "x.tif", stored, photometric="rgb", planarconfig=planar)
        image = read_image(path, axes=order)
        if (planar, order) == ("separate", "BXY"):  # letter for letter what is stored: such stacks are no colours
            assert (image.pixels.shape, image.is_rgb, image.axes) == ((3, 9, 11, 1), False, "BYX")
        else:
            assert (image.pixels.shape, image.is_rgb) == ((1, 9, 11, 3), True)

    @pytest.mark.parametrize("order", ["", "XYB", "BXY", "BXYC", "CXYB"])
    def test_pages_in_colours_are_frames_in_colours(self, tmp_path: Path, order: str) -> None:
        with tifffile.TiffWriter(tmp_path / "x.tif") as file:
            for _ in range(5):
                file.write(numbers(9, 11, 3, dtype="uint8"), metadata=None, contiguous=False, photometric="rgb")
        image = read_image(tmp_path / "x.tif", axes=order)
        assert (image.pixels.shape, image.is_rgb) == ((5, 9, 11, 3), True)

    def test_frames_that_were_once_rows_say_why(self, tmp_path: Path) -> None:
        path = tiff(tmp_path / "x.tif", numbers(3, 64, 80), photometric="minisblack")
        with pytest.raises(JobRejected, match=r"has 80 frames: .*; its shape \(3, 64, 80\) was taken for YXT"):
            read_image(path, axes="XYT", limits=ImageLimits())


def kinds(axes: str) -> str:
    """Return the letters of `axes` in the order of the layout: frames, rows, columns, channels."""
    return "".join(letter for kind in ("TZB", "Y", "X", "CS") for letter in axes if letter in kind)


class TestChannelNames:
    XML = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="11" SizeY="9" '
        'SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" {0}/><Channel ID="Channel:0:1" {1}/>{2}</Pixels>'
        "</Image></OME>"
    )

    def ome(self, path: Path, first: str, second: str, data: str = '<TiffData PlaneCount="2"/>') -> Path:
        return tiff(path, numbers(2, 9, 11), metadata=None, description=self.XML.format(first, second, data))

    def test_names_are_those_of_the_channels_or_of_their_dyes(self, tmp_path: Path) -> None:
        image = read_image(self.ome(tmp_path / "x.tif", 'Name=" DAPI "', 'Fluor="Cy3"'))
        assert image.channel_names == ("DAPI", "Cy3")
        assert read_image(self.ome(tmp_path / "y.tif", "", "")).channel_names == ()

    def test_what_a_writer_wrote_is_read(self, tmp_path: Path) -> None:
        names = {"Name": ["DAPI", "CD45", "a, b"]}
        array = numbers(4, 3, 9, 11)
        path = tiff(tmp_path / "x.ome.tif", array, ome=True, metadata={"axes": "TCYX", "Channel": names})
        assert read_image(path).channel_names == ("DAPI", "CD45", "a, b")
        assert read_image(path, axes="XYB").channel_names == ("DAPI", "CD45", "a, b")

    def test_channels_that_are_frames_have_no_names(self, tmp_path: Path) -> None:
        path = self.ome(tmp_path / "x.tif", 'Name="DAPI"', 'Name="CD45"')
        assert read_image(path, axes="BXY").channel_names == ()

    def test_an_image_in_several_files_is_refused(self, tmp_path: Path) -> None:
        data = "".join(
            f'<TiffData FirstC="{c}" PlaneCount="1"><UUID FileName="{c}.ome.tif">urn:uuid:{c + 1}</UUID></TiffData>'
            for c in (0, 1)
        )
        (tmp_path / "1.ome.tif").write_bytes(self.ome(tmp_path / "0.ome.tif", "", "", data).read_bytes())
        with pytest.raises(JobRejected) as caught:
            read_image(tmp_path / "0.ome.tif")
        reason = "The image '0.ome.tif' is one of 2 files of an OME-TIFF: save it as a single file"
        assert str(caught.value) == reason

    def test_channels_are_taken_without_copying_the_others(self, tmp_path: Path) -> None:
        image = read_image(self.ome(tmp_path / "x.tif", "", ""))
        taken = image.channels([1])
        assert taken.shape == (1, 9, 11, 1)
        assert taken.dtype == np.float32
        assert taken.base is None
        np.testing.assert_array_equal(taken, image.pixels[..., [1]])
        np.testing.assert_array_equal(image.channels([0, 1]), image.pixels)


class TestPictures:
    @pytest.mark.parametrize(
        ("mode", "kind", "channels", "rgb"),
        [
            ("L", "png", 1, False),
            ("L", "bmp", 1, False),
            ("LA", "png", 1, False),
            ("RGB", "png", 3, True),
            ("RGBA", "png", 3, True),
            ("RGB", "gif", 3, True),
            ("RGB", "webp", 3, True),
            ("CMYK", "jpg", 3, True),
            ("L", "jpg", 1, False),
            ("1", "png", 1, False),
            ("I;16", "png", 1, False),
        ],
    )
    def test_every_usual_mode(self, tmp_path: Path, mode: str, kind: str, channels: int, rgb: bool) -> None:  # noqa: FBT001 - a row of the table
        picture = PillowImage.fromarray(numbers(12, 14, 3, dtype="uint8")).convert(mode if mode != "I;16" else "I")
        if mode == "I;16":
            picture = PillowImage.fromarray(numbers(12, 14))
        picture.save(tmp_path / f"x.{kind}")
        image = read_image(tmp_path / f"x.{kind}")
        assert image.pixels.shape == (1, 12, 14, channels)
        assert (image.axes_from, image.is_rgb) == ("metadata", rgb)

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_png_of_sixteen_bits_keeps_them(self, tmp_path: Path, channels: int) -> None:
        import imagecodecs

        array = RNG.integers(0, 2**16, (12, 14, channels)).astype("uint16")
        (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(array if channels > 1 else array[..., 0]))
        image = read_image(tmp_path / "x.png")
        np.testing.assert_array_equal(image.pixels[0], array[..., : {1: 1, 2: 1, 3: 3, 4: 3}[channels]])

    def test_a_grey_palette_is_grey(self, tmp_path: Path) -> None:
        array = numbers(12, 14, dtype="uint8")
        picture = PillowImage.fromarray(255 - array, mode=None)
        picture.putpalette([255 - i // 3 for i in range(768)])
        picture.save(tmp_path / "x.png")
        image = read_image(tmp_path / "x.png")
        np.testing.assert_array_equal(image.pixels[0, :, :, 0], array)

    def test_transparency_of_a_palette_is_dropped(self, tmp_path: Path) -> None:
        array = numbers(12, 14, 3, dtype="uint8")
        picture = PillowImage.fromarray(array).quantize(16)
        picture.save(tmp_path / "x.png", transparency=bytes(range(16)), bits=4)
        image = read_image(tmp_path / "x.png")
        np.testing.assert_array_equal(image.pixels[0], np.asarray(picture.convert("RGB")))
        assert image.is_color

    def test_the_name_says_nothing(self, tmp_path: Path) -> None:
        PillowImage.fromarray(numbers(5, 6, dtype="uint8")).save(tmp_path / "x", format="PNG")
        (tmp_path / "x").rename(tmp_path / "x.tif")
        assert read_image(tmp_path / "x.tif").pixels.shape == (1, 5, 6, 1)


class TestLimits:
    def test_rows_columns_and_frames(self, tmp_path: Path) -> None:
        path = tiff(tmp_path / "x.tif", numbers(5, 9, 11), metadata={"axes": "TYX"})
        read_image(path, limits=ImageLimits(height=9, width=11, frames=5))
        with pytest.raises(
            JobRejected, match=r"'x\.tif' has 9 x 11 pixels: allowed are 8 x 11 \(MAX_IMAGE_HEIGHT, MAX"
        ):
            read_image(path, limits=ImageLimits(height=8, width=11, frames=5))
        with pytest.raises(JobRejected, match=r"has 9 x 11 pixels: allowed are 9 x 10"):
            read_image(path, limits=ImageLimits(height=9, width=10, frames=5))
        with pytest.raises(JobRejected, match=r"has 5 frames: allowed are 4 \(MAX_IMAGE_FRAMES\)"):
            read_image(path, limits=ImageLimits(frames=4))
        with pytest.raises(JobRejected, match=r"has 495 values \(5 x 9 x 11\): allowed are 494 \(MAX_IMAGE_PIXELS\)"):
            read_image(path, limits=ImageLimits(pixels=494))

    @pytest.mark.parametrize("limits", [None, ImageLimits()])
    def test_a_small_file_that_declares_a_huge_image_costs_nothing(
        self, tmp_path: Path, limits: ImageLimits | None
    ) -> None:
        """The header alone decides: were it decoded, 100,000 x 100,000 pixels would need 40 GB."""
        header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (100_000).to_bytes(4) * 2 + b"\x08\0\0\0\0"
        crc = zlib.crc32(header[12:]).to_bytes(4)
        (tmp_path / "x.png").write_bytes(header + crc)
        npy = io.BytesIO()
        np.lib.format.write_array_header_1_0(npy, {"descr": "<f4", "fortran_order": False, "shape": (100_000,) * 2})
        (tmp_path / "x.npy").write_bytes(npy.getvalue())
        for name in ("x.png", "x.npy"):
            with pytest.raises(JobRejected, match="allowed are"):
                read_image(tmp_path / name, limits=limits)

    def test_a_huge_strip_that_is_not_there_is_not_allocated(self, tmp_path: Path) -> None:
        path = tiff(tmp_path / "x.tif", numbers(100, 100), rowsperstrip=100)
        path.write_bytes(path.read_bytes()[:-5_000])
        with pytest.raises(JobRejected, match="cut short"):
            read_image(path)


class TestDamage:
    @pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"II*\0", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04"])
    def test_no_image_at_all(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x.tif").write_bytes(content)
        with pytest.raises(JobRejected, match=r"The image 'x\.tif' cannot be read: ") as caught:
            read_image(tmp_path / "x.tif")
        assert str(tmp_path) not in str(caught.value)

    def test_a_missing_file_is_a_bug(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_image(tmp_path / "missing.tif")

    def test_missing_parts_of_an_ome_file_are_not_filled_with_zeros(self, tmp_path: Path) -> None:
        path = tiff(tmp_path / "x.tif", numbers(2, 8, 8), ome=True, metadata={"axes": "CYX"})
        data = path.read_bytes()
        path.write_bytes(data.replace(b'SizeC="2"', b'SizeC="4"'))
        with pytest.raises(JobRejected, match="parts of it are missing"):
            read_image(path)

    @pytest.mark.parametrize(
        "options",
        [{}, {"compression": "zlib"}, {"compression": "zstd", "tile": (16, 16)}, {"ome": True}, {"imagej": True}],
        ids=str,
    )
    def test_a_damaged_file_is_read_or_rejected_in_one_line(self, tmp_path: Path, options: dict[str, Any]) -> None:
        """A flipped byte anywhere never ends in another error, an empty image or a huge allocation."""
        whole = tiff(tmp_path / "x.tif", numbers(2, 40, 48, dtype="uint8"), **options).read_bytes()
        chance, lines = random.Random(7), []
        for _ in range(150):
            data = bytearray(whole)
            for _ in range(chance.choice((1, 1, 3))):
                data[chance.randrange(min(len(data), 600))] = chance.randrange(256)
            path = tmp_path / "damaged.tif"
            path.write_bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data))))])
            try:
                assert read_image(path, limits=ImageLimits()).pixels.size
            except JobRejected as error:
                lines.append(str(error))
        assert lines
        assert not [line for line in lines if "\n" in line or str(tmp_path) in line or "(error)" in line]

    def test_a_tiff_of_a_few_bytes_is_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "x.tif").write_bytes(b"II*\0\x08")
        with pytest.raises(JobRejected, match=r"cannot be read: it is damaged or no image$"):
            read_image(tmp_path / "x.tif")
