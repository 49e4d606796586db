from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from redis_consumer.images.pixel_size import pixel_size_um

if TYPE_CHECKING:
    from pathlib import Path

PLANE = np.zeros((5, 6), np.uint16)


@pytest.mark.parametrize(
    ("metadata", "size"),
    [
        ({"PhysicalSizeX": 0.65, "PhysicalSizeY": 0.5}, (0.5, 0.65)),
        ({"PhysicalSizeX": 9, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 8, "PhysicalSizeYUnit": "nm"}, (8e-3, 9e-3)),
        ({"PhysicalSizeX": 2, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 3, "PhysicalSizeYUnit": "µm"}, (3, 2)),
        ({"PhysicalSizeX": 2, "PhysicalSizeXUnit": "pixel", "PhysicalSizeY": 3, "PhysicalSizeYUnit": "pixel"}, None),
        ({"PhysicalSizeX": 0.65}, None),
        ({"PhysicalSizeX": 0, "PhysicalSizeY": 0}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_ome_says_it_in_its_unit(tmp_path: Path, metadata: dict[str, Any], size: tuple[float, float] | None) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANE, metadata={"axes": "YX", **metadata})
    assert pixel_size_um(tmp_path / "a.ome.tif") == (pytest.approx(size) if size else None)


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        ("um", (0.25, 0.5)),
        ("micron", (0.25, 0.5)),
        ("\\u00B5m", (0.25, 0.5)),
        ("mm", (250, 500)),
        ("pixel", None),
        ("", None),
    ],
)
def test_imagej_says_it_by_resolution_and_unit(tmp_path: Path, unit: str, size: tuple[float, float] | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLANE, imagej=True, resolution=(2, 4), metadata={"unit": unit} if unit else {})
    assert pixel_size_um(path) == (pytest.approx(size) if size else None)


def test_imagej_without_a_resolution_says_nothing(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLANE, imagej=True, resolution=(0, 0), metadata={"unit": "um"})
    assert pixel_size_um(tmp_path / "a.tif") is None


def test_what_a_printer_needs_is_no_pixel_size(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLANE, resolution=(72, 72), resolutionunit="INCH")
    Picture.fromarray(PLANE.astype(np.uint8)).save(tmp_path / "a.png", dpi=(300, 300))
    np.save(tmp_path / "a.npy", PLANE)
    assert [pixel_size_um(tmp_path / name) for name in ("a.tif", "a.png", "a.npy")] == [None] * 3


def test_damaged_xml_says_nothing(tmp_path: Path) -> None:
    text = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image></OME>'
    tifffile.imwrite(tmp_path / "a.tif", PLANE, description=text, metadata=None)
    assert pixel_size_um(tmp_path / "a.tif") is None
