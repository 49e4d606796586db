"""Outlines as GeoJSON, the way QuPath reads it (File > Import objects from file).

RFC 7946 in its form, pixels in its coordinates.  What QuPath adds: `objectType`, `name`, `classification` and
`measurements` among the properties, and the `plane` of a geometry, an index of time or depth.  Knows no jobs.
"""

from __future__ import annotations

import json
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from redis_consumer.results.outlines import outlines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from redis_consumer.results.label_images import LabelImages
    from redis_consumer.results.outlines import Polygon


def write_geojson(labels: LabelImages, path: Path, *, frame_axis: str = "t") -> None:
    """Write a FeatureCollection of every object of every frame and feature, frames first, labels ascending.

    Of several frames each is a plane of its own, along `frame_axis`, ``t`` or ``z``.  Peak memory is that of one
    block of a label image and its outlines.
    """
    with path.open("wb") as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        for number, text in enumerate(_texts(labels, frame_axis, path.parent)):
            file.write(b",\n" if number else b"\n")
            file.write(text)
        file.write(b"\n]}\n")


def _texts(labels: LabelImages, frame_axis: str, folder: Path) -> Iterator[bytes]:
    several = labels.shape[0] > 1
    for frame, feature, plane in labels.planes():
        place = {"plane": {"c": -1, "z": 0, "t": 0, frame_axis: frame}} if several else {}
        name = labels.name_of(feature)
        texts = (
            (label, _text(label, geometry(polygons) | place, name, frame, feature))
            for label, polygons in outlines(plane)
        )
        yield from _in_order(texts, folder)


def _text(label: int, shape: dict[str, Any], name: str, frame: int, feature: int) -> bytes:
    properties = {
        "objectType": "detection",
        "name": str(label),
        "classification": {"name": name},
        "measurements": {"label": label, "frame": frame, "feature": feature},
    }
    found = {"type": "Feature", "geometry": shape, "properties": properties}
    return json.dumps(found, separators=(",", ":")).encode()


def _in_order(texts: Iterable[tuple[int, bytes]], folder: Path) -> Iterator[bytes]:
    """Yield texts by the numbers that stand before them; in memory are where they lie in a file of `folder`."""
    places, end = [], 0
    with TemporaryFile(dir=folder) as file:
        for number, text in texts:
            file.write(text)
            places.append((number, end, len(text)))
            end += len(text)
        for _, start, size in sorted(places):
            file.seek(start)
            yield file.read(size)


def geometry(polygons: list[Polygon]) -> dict[str, Any]:
    """Return an object's geometry: a Polygon, or a MultiPolygon where it is in pieces."""
    coordinates = [[ring.tolist() for ring in polygon] for polygon in polygons]
    if len(coordinates) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}
