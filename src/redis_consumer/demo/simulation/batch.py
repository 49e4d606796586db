"""A simulated batch: fields of view in folders, as people pack them into an archive."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from redis_consumer.demo.simulation.microscope import Microscope
from redis_consumer.demo.simulation.nuclei import Cells, simulate

if TYPE_CHECKING:
    from redis_consumer.demo.simulation.nuclei import FieldOfView


def builtin_batch() -> dict[str, FieldOfView]:
    """Return fields by their names in the archive: always the same six, two of one base name in two folders."""
    cells = Cells(count=40, clustering=0.3, texture=0.12, defocused=0, debris=2)
    plate = {
        "plate 1/A01/field 1.tif": cells,
        "plate 1/A01/field 2.tif": replace(cells, count=70, clustering=0.6),
        "plate 1/B02/field 1.tif": replace(cells, count=16, diameter=44),
        "plate 2/untreated.png": replace(cells, count=55, spots=0.3),
        "plate 2/treated, 10 uM.png": replace(cells, count=12, brightness_spread=0.5),
        "blank.tif": replace(cells, count=0, debris=0),
    }
    microscope = Microscope(unevenness=0.1)
    return {
        name: simulate((384, 384), cells=slide, microscope=microscope, seed=51 + number, name=name)
        for number, (name, slide) in enumerate(plate.items())
    }
