"""Real files that readers stumble over, and what the original's reader made of others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from redis_consumer.errors import JobRejected
from redis_consumer.images import ImageLimits, read_image, read_image_seed

SHARED = Path(__file__).resolve().parents[2] / "../shared"
ODD, PARITY = SHARED / "data/odd", SHARED / "parity"

pytestmark = pytest.mark.skipif(not ODD.is_dir(), reason="the shared reference data are not beside the checkout")

Reading = tuple[tuple[int, ...], str, str, str, bool, tuple[float, float, float]]
"""Layout (T, Y, X, C), type in the file, its axes, who named them, colours; mean, least and greatest value."""
READ: dict[str, Reading] = {
    "16_bit_binary_pgm.tiff": ((1, 100, 20, 1), "int32", "YX", "metadata", False, (32767.5, 0, 65535)),
    "MetamorphImage.tif": ((1, 520, 696, 1), "uint16", "YX", "metadata", False, (375.1770, 158, 4078)),
    "bigtiff_ome_czyx.ome.tif": ((3, 128, 128, 2), "uint16", "CZYX", "metadata", False, (4660.274, 2313, 47031)),
    "bool_mask.tif": ((1, 256, 256, 1), "bool", "YX", "metadata", False, (0.0617, 0, 1)),
    "chessboard_GRAY_U16B.tif": ((1, 200, 200, 1), "uint16", "YX", "metadata", False, (127.5, 0, 255)),
    "constant.tif": ((1, 128, 128, 1), "uint8", "YX", "metadata", False, (7, 7, 7)),
    "float32_nan_inf.tif": ((1, 256, 256, 1), "float32", "YX", "metadata", False, (np.inf, 0.035294119, np.inf)),
    "hopper_bigtiff.tif": ((1, 128, 128, 3), "uint8", "YXS", "metadata", True, (88.3911, 0, 255)),
    "int16_negative.tif": ((1, 256, 256, 1), "int16", "YX", "metadata", False, (-81.8495, -91, 83)),
    "interleaved_channels_YXC.tif": ((1, 256, 256, 3), "uint8", "YXS", "metadata", True, (10.8985, 3, 183)),
    "jpeg2000_16bit.tif": ((1, 256, 256, 1), "uint16", "YX", "metadata", False, (4664.678, 2313, 47031)),
    "lzw_16bit.tif": ((1, 256, 256, 1), "uint16", "YX", "metadata", False, (4664.678, 2313, 47031)),
    "multipage.tiff": ((1, 20, 20, 3), "bool", "YXS", "metadata", True, (21845, 0, 65535)),
    "multipage_3.tif": ((1, 256, 256, 3), "uint16", "SYX", "metadata", True, (4664.678, 2313, 47031)),
    "one_pixel.tif": ((1, 1, 1, 1), "uint8", "YX", "metadata", False, (14, 14, 14)),
    "png_named.tif": ((1, 360, 360, 1), "uint8", "YX", "metadata", False, (10.9671, 3, 40)),
    "pyramid.ome.tif": ((1, 256, 256, 1), "uint16", "YX", "metadata", False, (4664.678, 2313, 47031)),
    "tiff_tiled_planar_lzw.tiff": ((1, 374, 278, 3), "uint8", "SYX", "metadata", True, (161.7796, 0, 255)),
    "uint32.tif": ((1, 256, 256, 1), "uint32", "YX", "metadata", False, (1270534.82, 630000, 12810000)),
    "very_thin.tif": ((1, 3, 256, 1), "uint8", "YX", "metadata", False, (13.0391, 9, 21)),
    "zstd_tiled.tif": ((1, 256, 256, 1), "uint16", "YX", "metadata", False, (4664.678, 2313, 47031)),
}
NOT_AS_PILLOW = {
    "bool_mask.tif": "Pillow inverts what is marked as white for 0; tifffile writes and reads the values themselves",
    "jpeg2000_16bit.tif": "Pillow does not read JPEG 2000 in TIFF",
    "multipage.tiff": "three pages, of which the first two are smaller than the third: the third is the image",
    "multipage_3.tif": "Pillow cuts colours to 8 bits",
}
REJECTED = {
    "huge_declared.tif": "has 200000 x 200000 pixels: allowed are 2048 x 2048",
    "itxt_chunks.png": "has 2000 x 2400 pixels: allowed are 2048 x 2048",
    "not_an_image.tif": "cannot be read: allowed are TIFF, PNG, JPEG",
    "three_images.zip": "is an archive with 0 arrays",
    "total-pages-zero.tif": "has 2156 x 1728 pixels",
    "truncated_half.tif": "cannot be read: parts of it are missing, the file is cut short",
    "truncated_image.png": "cannot be read: it is damaged or no image",
    "zero_bytes.tif": "cannot be read: it is empty",
    "zip_slip.zip": "is an archive with 0 arrays",
}


def test_every_odd_file_has_an_expectation() -> None:
    assert {path.name for path in ODD.iterdir()} == {*READ, *REJECTED}


@pytest.mark.parametrize("name", READ)
def test_odd_files_that_are_images(name: str) -> None:
    image = read_image(ODD / name, limits=ImageLimits())
    *expected, statistics = READ[name]
    found = image.pixels.shape, str(image.dtype), image.axes, image.axes_from, image.is_color
    assert found == tuple(expected)
    values = image.pixels.astype(np.float64)
    assert (np.nanmean(values), np.nanmin(values), np.nanmax(values)) == pytest.approx(statistics, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("name", sorted(READ.keys() - NOT_AS_PILLOW.keys()))
def test_odd_files_hold_what_another_reader_finds(name: str) -> None:
    """The first plane, value by value."""
    with Image.open(ODD / name) as other:
        plane = np.asarray(other, np.float32)
    ours = read_image(ODD / name).pixels[0]
    np.testing.assert_array_equal(ours if plane.ndim == 3 else ours[..., 0], plane)


def test_a_lossless_codec_is_one() -> None:
    lzw, jpeg2000 = (read_image(ODD / name).pixels for name in ("lzw_16bit.tif", "jpeg2000_16bit.tif"))
    np.testing.assert_array_equal(lzw, jpeg2000)


@pytest.mark.parametrize(
    ("name", "shape", "channels"),
    [
        ("IXMtest_A02_s9.tif", (1, 395, 695, 3), ()),
        ("fly_POS002.ome.tif", (1, 1006, 1000, 3), ("DNA", "FITC_actin", "PH3")),
    ],
)
@pytest.mark.parametrize("order", ["", "XYB", "CXY", "CXYB"])
def test_stains_are_channels_whatever_the_form_says(
    name: str, shape: tuple[int, ...], channels: tuple[str, ...], order: str
) -> None:
    image = read_image(ODD.parent / "multichannel" / name, axes=order, limits=ImageLimits())
    assert (image.pixels.shape, image.axes, image.axes_from) == (shape, "CYX", "metadata")
    assert image.channel_names == channels
    with Image.open(ODD.parent / "multichannel" / name) as other:
        for index in range(3):
            other.seek(index)
            np.testing.assert_array_equal(image.channels([index])[0, ..., 0], np.asarray(other, np.float32))


def test_stained_tissue_is_a_colour_picture() -> None:
    pictures = [path for path in (ODD.parent / "histology_rgb").iterdir() if not path.stem.endswith("_labels")]
    assert pictures
    for path in pictures:
        for order in ("", "XYB"):
            image = read_image(path, axes=order)
            assert (image.is_color, image.pixels.shape[0], image.pixels.shape[-1]) == (True, 1, 3)


@pytest.mark.parametrize("name", REJECTED)
def test_odd_files_that_are_refused(name: str) -> None:
    with pytest.raises(JobRejected) as caught:
        read_image(ODD / name, limits=ImageLimits())
    assert str(caught.value).startswith(f"The image {name!r} {REJECTED[name]}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["huge_declared.tif", "truncated_half.tif", "zero_bytes.tif"])
def test_no_limits_are_no_licence(name: str) -> None:
    with pytest.raises(JobRejected):
        read_image(ODD / name)


def test_frames_are_all_there() -> None:
    limits = ImageLimits(height=3000, width=3000)
    assert read_image(ODD / "total-pages-zero.tif", limits=limits).pixels.shape == (3, 2156, 1728, 1)


def _expectations() -> dict[str, dict[str, Any]]:
    path = PARITY / "files.json"
    return dict(json.loads(path.read_text())["get_image"]) if path.is_file() else {}


@pytest.mark.parametrize(("name", "expected"), _expectations().items())
def test_get_image_reads_what_the_original_read(name: str, expected: dict[str, Any]) -> None:
    """Values as the later original; TIFFs with the trailing axis of the earlier; palettes as colours."""
    array = read_image_seed(PARITY / "files" / name)
    assert array.dtype == np.float32
    if name == "palette.png":
        assert array.shape == (*expected["shape"][:2], 3)
        return
    is_tiff = name.lower().endswith((".tif", ".tiff"))
    assert list(array.shape) == ([*expected["shape"], 1] if is_tiff else expected["shape"])
    if expected["exact"]:
        assert hashlib.sha256(array.tobytes()).hexdigest()[:32] == expected["sha256_32"]
    else:
        assert abs(float(array.mean()) - expected["mean"]) <= 2  # JPEG decoders differ a little
