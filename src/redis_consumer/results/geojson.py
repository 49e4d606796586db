"""Outlines as GeoJSON, the way QuPath reads it (File > Import objects from file).

RFC 7946 in its form, pixels in its coordinates.  What QuPath adds: `objectType`, `name`, `classification` and
`measurements` among the properties, and the `plane` of a geometry, an index of time or depth.  Knows no jobs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from redis_consumer.results.outlines import outlines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from redis_consumer.arrays import Labels
    from redis_consumer.results.outlines import Polygon


def write_geojson(labels: Labels, path: Path, *, frame_axis: str = "t") -> None:
    """Write a FeatureCollection of every object of every frame and feature, frames first, labels ascending.

    Of several frames each is a plane of its own, along `frame_axis`, ``t`` or ``z``.  Peak memory is that of one
    label image and its outlines.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type":"FeatureCollection","features":[')
        for number, found in enumerate(_features(labels, frame_axis)):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(found, separators=(",", ":")))
        file.write("\n]}\n")


def _features(labels: Labels, frame_axis: str) -> Iterator[dict[str, Any]]:
    several = len(labels.array) > 1
    for frame, feature, plane in labels.planes():
        for label, polygons in outlines(plane).items():
            shape = geometry(polygons)
            if several:
                shape["plane"] = {"c": -1, "z": 0, "t": 0, frame_axis: frame}
            properties = {
                "objectType": "detection",
                "name": str(label),
                "classification": {"name": labels.name_of(feature)},
                "measurements": {"label": label, "frame": frame, "feature": feature},
            }
            yield {"type": "Feature", "geometry": shape, "properties": properties}


def geometry(polygons: list[Polygon]) -> dict[str, Any]:
    """Return an object's geometry: a Polygon, or a MultiPolygon where it is in pieces."""
    coordinates = [[ring.tolist() for ring in polygon] for polygon in polygons]
    if len(coordinates) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}
