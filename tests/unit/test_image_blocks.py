"""An image by blocks: the same pixels as the image at once, and never much of it in memory."""

from __future__ import annotations

import io
import tracemalloc
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image as PillowImage
from tests.corpus import numbers, pictures
from tests.corpus.tiffs import tiffs

from redis_consumer.errors import JobRejected
from redis_consumer.images import ImageLimits, open_image, read_image

if TYPE_CHECKING:
    from redis_consumer.images import OpenImage

DATA = Path(__file__).parents[3] / "shared" / "data"
RNG = np.random.default_rng(5)
SMALL = 500
"""Values of a block in most of these tests: images are small, and are to come in many blocks all the same."""
CASES = [
    case
    for case in (*tiffs("/nowhere.tif"), *numbers.NUMBERS, *pictures.PICTURES)
    # tifffile takes an offset of 0 for the place where it happens to stand.
    if case.name != "TIFF: strip of the header's own bytes"
]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redis_consumer.images.blocks.BLOCK_VALUES", SMALL)


def joined(image: OpenImage) -> np.ndarray[Any, Any]:
    """Return the image put together from its blocks; each pixel comes once, and they come in order."""
    frames, height, width, channels = image.sizes
    whole: Any = None
    for frame, channel in product(range(frames), range(channels)):
        seen, corners = np.zeros((height, width), int), []
        for rows, columns, values in image.blocks(frame, channel):
            whole = np.zeros(image.sizes, values.dtype) if whole is None else whole
            assert values.dtype == whole.dtype
            assert values.shape == whole[frame, rows, columns, channel].shape
            whole[frame, rows, columns, channel] = values
            seen[rows, columns] += 1
            corners.append((rows.start, columns.start))
        assert (seen == 1).all()
        assert corners == sorted(corners)
    assert isinstance(whole, np.ndarray)
    return whole


def check(path: Path, *, axes: str = "", limits: ImageLimits | None = None) -> None:
    """Compare an image by blocks with the same image at once, what is known of it included."""
    expected = read_image(path, axes=axes, limits=limits)
    with open_image(path, axes=axes, limits=limits) as image:
        assert image.sizes == expected.sizes == expected.stored.shape
        np.testing.assert_array_equal(joined(image), expected.stored)
        assert image.is_color == expected.is_color
        np.testing.assert_array_equal(image.read().stored, expected.stored)  # also after its blocks
    known = ("axes", "axes_from", "shape", "dtype", "is_rgb", "name", "channel_names", "others")
    assert [getattr(image, name) for name in known] == [getattr(expected, name) for name in known]


def refused(path: Path, limits: ImageLimits | None = None) -> str:
    """Return why the image is not read at once; empty where it is."""
    try:
        read_image(path, limits=limits)
    except JobRejected as error:
        return str(error)
    return ""


def values(*shape: int, dtype: str = "uint16") -> np.ndarray[Any, Any]:
    return RNG.integers(0, 250, shape).astype(dtype)


@pytest.mark.usefixtures("small_blocks")
class TestSamePixels:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        shape=st.tuples(st.integers(2, 70), st.integers(2, 70)),
        samples=st.sampled_from([1, 1, 3, 4]),
        pages=st.sampled_from([1, 1, 3]),
        planar=st.sampled_from(["contig", "separate"]),
        layout=st.sampled_from([{}, {"tile": (16, 32)}, {"tile": (32, 16)}, {"rowsperstrip": 7}, {"rowsperstrip": 1}]),
        codec=st.sampled_from(
            [
                {},
                {"compression": "lzw"},
                {"compression": "zlib", "predictor": True},
                {"compression": "zstd"},
                {"compression": "packbits"},
            ]
        ),
        dtype=st.sampled_from(["uint8", "uint16", "int16", "uint32", "float32", "float64"]),
        order=st.sampled_from(["<", ">"]),
        bigtiff=st.booleans(),
        metadata=st.sampled_from([{}, None]),
    )
    def test_of_any_tiff(
        self,
        tmp_path: Path,
        shape: tuple[int, int],
        samples: int,
        pages: int,
        planar: str,
        layout: dict[str, Any],
        codec: dict[str, Any],
        dtype: str,
        order: Literal["<", ">"],
        bigtiff: bool,  # noqa: FBT001 - drawn
        metadata: dict[str, Any] | None,
    ) -> None:
        array = values(pages, *shape, samples, dtype=dtype)
        if samples == 1:
            array = array[..., 0]
        elif planar == "separate":
            array = np.moveaxis(array, -1, 1)
        array = array[0] if pages == 1 else array
        options: dict[str, Any] = {"planarconfig": planar} if samples > 1 else {}
        options["photometric"] = "rgb" if samples > 1 else "minisblack"
        file = io.BytesIO()
        tifffile.imwrite(file, array, byteorder=order, bigtiff=bigtiff, metadata=metadata, **options, **layout, **codec)
        (tmp_path / "x.tif").write_bytes(file.getvalue())
        check(tmp_path / "x.tif")

    @pytest.mark.parametrize(
        ("shape", "options"),
        [
            ((2, 3, 40, 50), {"ome": True, "metadata": {"axes": "TCYX"}}),
            ((2, 3, 40, 50), {"ome": True, "metadata": {"axes": "CTYX"}, "tile": (16, 16), "compression": "zlib"}),
            ((3, 40, 50), {"ome": True, "metadata": {"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}}}),
            (
                (2, 40, 50, 3),
                {
                    "ome": True,
                    "photometric": "rgb",
                    "compression": "lzw",
                    "rowsperstrip": 9,
                    "metadata": {"axes": "TYXS"},
                },
            ),
            ((3, 1, 2, 40, 50), {"imagej": True, "metadata": {"axes": "TZCYX"}}),
            ((4, 40, 50), {"imagej": True, "metadata": {"axes": "TYX"}}),
            ((40, 50, 6), {"metadata": {"axes": "YXC"}, "photometric": "minisblack", "planarconfig": "contig"}),
            ((2, 40, 50, 5), {"photometric": "minisblack", "planarconfig": "contig", "tile": (16, 16)}),
            ((40, 50), {"compression": "jpeg"}),
            ((40, 50, 3), {"compression": "jpeg", "photometric": "rgb", "tile": (16, 16)}),
            ((40, 50), {"compression": "jpeg2000", "compressionargs": {"reversible": True}, "tile": (16, 16)}),
            ((40, 50), {"compression": "png", "rowsperstrip": 13}),
            ((40, 50, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"], "tile": (32, 32)}),
        ],
        ids=str,
    )
    def test_of_series_and_pictures_inside(
        self, tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any]
    ) -> None:
        lossy = options.get("compression") in ("jpeg", "png") or "extrasamples" in options
        tifffile.imwrite(tmp_path / "x.tif", values(*shape, dtype="uint8" if lossy else "uint16"), **options)
        check(tmp_path / "x.tif")

    @pytest.mark.parametrize("bits", [1, 2, 4, 10, 12])
    def test_of_bits(self, tmp_path: Path, bits: int) -> None:
        array = RNG.integers(0, 2**bits, (40, 51)).astype("bool" if bits == 1 else "uint8" if bits < 8 else "uint16")
        options: dict[str, Any] = {} if bits == 1 else {"bitspersample": bits}
        tifffile.imwrite(tmp_path / "x.tif", array, rowsperstrip=7, **options)
        check(tmp_path / "x.tif")

    @pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}], ids=str)
    def test_of_a_palette(self, tmp_path: Path, options: dict[str, Any]) -> None:
        colors = RNG.integers(0, 2**16, (3, 256)).astype("uint16")
        array = values(2, 40, 50, dtype="uint8")
        tifffile.imwrite(tmp_path / "x.tif", array, photometric="palette", colormap=colors, **options)
        check(tmp_path / "x.tif")

    def test_of_a_pyramid(self, tmp_path: Path) -> None:
        array = values(4, 90, 80)
        with tifffile.TiffWriter(tmp_path / "x.ome.tif", ome=True) as file:
            file.write(array, subifds=1, tile=(32, 32), metadata={"axes": "CYX"}, compression="zlib")
            file.write(array[:, ::2, ::2], subfiletype=1, tile=(32, 32), compression="zlib")
        check(tmp_path / "x.ome.tif")

    def test_of_tiles_that_were_left_out(self, tmp_path: Path) -> None:
        tiles = [values(16, 16), None, values(16, 16), None, None, values(16, 16)]
        tifffile.imwrite(tmp_path / "x.tif", iter(tiles), shape=(32, 48), dtype="uint16", tile=(16, 16), compression=8)
        check(tmp_path / "x.tif")

    @pytest.mark.parametrize("axes", ["", "XYC", "BXY"])
    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("dtype", ["<u2", ">f4"])
    def test_of_arrays(self, tmp_path: Path, axes: str, order: str, dtype: str) -> None:
        np.save(tmp_path / "x.npy", np.asarray(values(40, 50, 4), dtype=dtype, order="F" if order == "F" else "C"))
        np.savez(tmp_path / "x.npz", values(40, 50, 4))
        for name in ("x.npy", "x.npz"):
            check(tmp_path / name, axes=axes)

    @pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "webp"])
    def test_of_pictures(self, tmp_path: Path, kind: str) -> None:
        PillowImage.fromarray(values(40, 50, 3, dtype="uint8")).save(tmp_path / f"x.{kind}")
        check(tmp_path / f"x.{kind}")

    @pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
    @pytest.mark.filterwarnings("ignore")  # decoders' own
    def test_of_what_is_strange_or_its_refusal(self, tmp_path: Path, case: Any) -> None:
        """Damaged, hostile and odd files: refused alike, or read alike."""
        path, limits = tmp_path / "x", ImageLimits(pixels=2**22)
        path.write_bytes(case.make())
        refusal = refused(path, limits)
        if not refusal:
            with open_image(path, limits=limits) as image:
                np.testing.assert_array_equal(joined(image), read_image(path, limits=limits).stored)
            return
        with pytest.raises(JobRejected) as caught, open_image(path, limits=limits) as image:
            joined(image)
        assert str(caught.value).partition("(")[0] == refusal.partition("(")[0]


@pytest.mark.skipif(not DATA.is_dir(), reason="the collection of images is not part of the repository")
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("folder", ["odd", "multichannel", "histology_rgb", "movies", "spots"])
def test_of_real_images(folder: str) -> None:
    for path in sorted(path for path in (DATA / folder).rglob("*") if path.suffix in {".tif", ".tiff", ".png", ".npy"}):
        refusal = refused(path)
        if not refusal:
            check(path)
            continue
        with pytest.raises(JobRejected) as caught, open_image(path) as image:
            joined(image)
        assert str(caught.value) == refusal


class TestRefusals:
    def test_a_cut_file_is_refused_before_any_pixel_is_handed_out(self, tmp_path: Path) -> None:
        for options in ({}, {"tile": (16, 16), "compression": "zlib"}, {"rowsperstrip": 5}):
            tifffile.imwrite(tmp_path / "x.tif", values(60, 70), **options)
            content = (tmp_path / "x.tif").read_bytes()
            (tmp_path / "x.tif").write_bytes(content[:-100])
            with pytest.raises(JobRejected, match="the file is cut short"), open_image(tmp_path / "x.tif"):
                pytest.fail("it was opened")

    def test_a_plane_that_is_not_there_is_the_callers_bug(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", values(9, 11, 2))
        with open_image(tmp_path / "x.npy") as image:
            for frame, channel in ((0, 2), (1, 0), (-1, 0), (0, -1)):
                with pytest.raises(IndexError, match=r"sizes are \(1, 9, 11, 2\)"):
                    image.blocks(frame, channel)

    def test_an_error_of_the_caller_stays_what_it_is(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", values(9, 11))
        with pytest.raises(ZeroDivisionError), open_image(tmp_path / "x.npy"):
            _ = 1 / 0


class TestMemory:
    """Counted, not timed: of 64 MB no more than a few blocks are held at once."""

    SIDE = 4096
    BYTES = SIDE * SIDE * 4

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"rowsperstrip": 64},
            {"tile": (256, 256), "compression": "zlib"},
            {"tile": (1024, 2048), "compression": "zstd"},
            {"rowsperstrip": 16, "compression": "lzw"},
            {"byteorder": ">", "bigtiff": True},
        ],
        ids=str,
    )
    def test_of_a_tiff(self, tmp_path: Path, options: dict[str, Any]) -> None:
        path = tmp_path / "x.tif"
        array = np.tile(np.arange(self.SIDE, dtype=np.float32), (self.SIDE, 1))
        tifffile.imwrite(path, array, **options)
        self.check(path, array)

    def test_of_an_array(self, tmp_path: Path) -> None:
        array = np.tile(np.arange(self.SIDE, dtype=np.float32), (self.SIDE, 1))
        np.save(tmp_path / "x.npy", array)
        self.check(tmp_path / "x.npy", array)

    def check(self, path: Path, array: np.ndarray[Any, Any]) -> None:
        with traced() as peak, open_image(path) as image:
            total = sum(float(block.sum(dtype=np.float64)) for _, _, block in image.blocks(0, 0))
            most = peak()
        assert total == float(array.sum(dtype=np.float64))
        assert most < self.BYTES * 0.7  # three blocks of 16 MB

    def test_a_colour_picture_is_recognised_by_its_first_blocks(self, tmp_path: Path) -> None:
        array = np.broadcast_to(np.arange(3, dtype=np.uint8), (self.SIDE, self.SIDE, 3))
        tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", tile=(256, 256), compression="zlib")
        with traced() as peak, open_image(tmp_path / "x.tif") as image:
            assert image.is_color
            assert peak() < array.nbytes * 0.7


class traced:  # noqa: N801 - a context manager
    def __enter__(self) -> Any:
        tracemalloc.start()
        return lambda: tracemalloc.get_traced_memory()[1]

    def __exit__(self, *_: object) -> None:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["png", "npz", "strip"])
def test_what_is_only_decoded_together_may_not_be_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A small file may declare a plane of gigabytes: where that is not read by blocks, nothing is decoded."""
    image, path = np.zeros((100, 120), np.uint8), tmp_path / "image"
    if kind == "png":
        PillowImage.fromarray(image).save(path, "png")
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez_compressed(file, image)
    else:
        tifffile.imwrite(path, image, compression="zlib", rowsperstrip=100)
    monkeypatch.setattr("redis_consumer.images.blocks.MOST_TOGETHER", 11_999)
    expected = "has 12000 values that are decoded only together: allowed are 11999; save it as a TIFF with tiles"
    with open_image(path) as opened, pytest.raises(JobRejected, match=expected):
        list(opened.blocks(0, 0))
