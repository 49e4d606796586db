"""Real files that readers stumble over, and what the original's reader made of others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redis_consumer.errors import JobRejected
from redis_consumer.images import ImageLimits, read_image, read_image_seed

SHARED = Path(__file__).resolve().parents[2] / "../shared"
ODD, PARITY = SHARED / "data/odd", SHARED / "parity"

pytestmark = pytest.mark.skipif(not ODD.is_dir(), reason="the shared reference data are not beside the checkout")

Reading = tuple[tuple[int, ...], str, str, bool]
READ: dict[str, Reading] = {
    "16_bit_binary_pgm.tiff": ((1, 100, 20, 1), "int32", "metadata", False),
    "MetamorphImage.tif": ((1, 520, 696, 1), "uint16", "metadata", False),
    "bigtiff_ome_czyx.ome.tif": ((3, 128, 128, 2), "uint16", "metadata", False),
    "bool_mask.tif": ((1, 256, 256, 1), "bool", "metadata", False),
    "chessboard_GRAY_U16B.tif": ((1, 200, 200, 1), "uint16", "metadata", False),
    "constant.tif": ((1, 128, 128, 1), "uint8", "metadata", False),
    "float32_nan_inf.tif": ((1, 256, 256, 1), "float32", "metadata", False),
    "hopper_bigtiff.tif": ((1, 128, 128, 3), "uint8", "metadata", True),
    "int16_negative.tif": ((1, 256, 256, 1), "int16", "metadata", False),
    "interleaved_channels_YXC.tif": ((1, 256, 256, 3), "uint8", "metadata", True),
    "jpeg2000_16bit.tif": ((1, 256, 256, 1), "uint16", "metadata", False),
    "lzw_16bit.tif": ((1, 256, 256, 1), "uint16", "metadata", False),
    "multipage.tiff": ((2, 10, 10, 3), "bool", "rule", True),
    "multipage_3.tif": ((1, 256, 256, 3), "uint16", "metadata", True),
    "one_pixel.tif": ((1, 1, 1, 1), "uint8", "metadata", False),
    "png_named.tif": ((1, 360, 360, 1), "uint8", "metadata", False),
    "pyramid.ome.tif": ((1, 256, 256, 1), "uint16", "metadata", False),
    "tiff_tiled_planar_lzw.tiff": ((1, 374, 278, 3), "uint8", "metadata", True),
    "uint32.tif": ((1, 256, 256, 1), "uint32", "metadata", False),
    "very_thin.tif": ((1, 3, 256, 1), "uint8", "metadata", False),
    "zstd_tiled.tif": ((1, 256, 256, 1), "uint16", "metadata", False),
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
    assert (image.pixels.shape, str(image.dtype), image.axes_from, image.is_color) == READ[name]


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
