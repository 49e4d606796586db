from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from redis_consumer.arrays import Labels
from redis_consumer.results.geojson import write_geojson

if TYPE_CHECKING:
    from pathlib import Path


def written(labels: Labels, path: Path, **options: str) -> list[dict[str, Any]]:
    write_geojson(labels, path / "o.geojson", **options)
    collection = json.loads((path / "o.geojson").read_text("utf-8"))
    assert collection.keys() == {"type", "features"}
    assert collection["type"] == "FeatureCollection"
    features: list[dict[str, Any]] = collection["features"]
    assert all(feature["type"] == "Feature" for feature in features)
    return features


def test_an_object_is_a_detection_that_qupath_understands(tmp_path: Path) -> None:
    array = np.zeros((1, 3, 4, 1), np.int32)
    array[0, 1, 2] = 5
    assert written(Labels(array, ("nuclei",)), tmp_path) == [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[2, 1], [3, 1], [3, 2], [2, 2], [2, 1]]]},
            "properties": {
                "objectType": "detection",
                "name": "5",
                "classification": {"name": "nuclei"},
                "measurements": {"label": 5, "frame": 0, "feature": 0},
            },
        }
    ]


def test_pieces_are_one_object_of_several_polygons_and_holes_stay(tmp_path: Path) -> None:
    array = np.array([[1, 1, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0]])
    (feature,) = written(Labels(array[None, ..., None]), tmp_path)
    assert feature["geometry"]["type"] == "MultiPolygon"
    assert sorted(len(polygon) for polygon in feature["geometry"]["coordinates"]) == [1, 2]


@pytest.mark.parametrize(("axis", "other"), [("t", "z"), ("z", "t")])
def test_every_frame_and_feature_is_there_each_frame_on_its_plane(tmp_path: Path, axis: str, other: str) -> None:
    array = np.tile(np.array([[0, 1], [2, 0]]), (3, 1, 1))[..., None].repeat(2, axis=-1)
    features = written(Labels(array), tmp_path, frame_axis=axis)
    places = [tuple(feature["properties"]["measurements"].values()) for feature in features]
    assert places == [(label, frame, c) for frame in range(3) for c in range(2) for label in (1, 2)]
    assert [feature["geometry"]["plane"] for feature in features] == [
        {"c": -1, axis: frame, other: 0} for frame in range(3) for _ in range(4)
    ]
    assert {feature["properties"]["classification"]["name"] for feature in features} == {"feature_0", "feature_1"}


def test_without_objects_the_collection_is_empty(tmp_path: Path) -> None:
    assert written(Labels(np.zeros((2, 5, 5, 1), np.uint8)), tmp_path) == []
