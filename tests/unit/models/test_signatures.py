from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st
from tests.scripted_serving import metadata

from redis_consumer.job import ModelId
from redis_consumer.models.signatures import read_copy, read_signature
from redis_consumer.wire import serving_pb2 as pb

MODEL = ModelId("Nuclei", 3)
TYPES = st.sampled_from([int(t) for t in (pb.DT_FLOAT, pb.DT_HALF, pb.DT_BFLOAT16, pb.DT_UINT8, pb.DT_INT64)])
SHAPES = st.none() | st.lists(st.integers(-1, 2**40), max_size=5).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["DT_FLOAT", "-1", "a", "9" * 30]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "dtype", "tensorShape", "dim", "size", "name"]), inner, max_size=3)
    ),
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), st.tuples(TYPES, SHAPES), min_size=1))
def test_a_copy_says_what_the_server_said(inputs: dict[str, tuple[int, tuple[int, ...] | None]]) -> None:
    told = read_signature(MODEL, metadata({"serving_default": inputs}))
    copy = read_copy(told.metadata)
    assert copy == told
    assert copy is not None
    assert (copy.copied, told.copied) == (True, False)


def test_it_is_written_as_all_consumers_of_a_kiosk_do() -> None:
    told = read_signature(MODEL, metadata({"serving_default": {"image": (int(pb.DT_FLOAT), (-1, 256, 256, 2))}}))
    assert json.loads(told.metadata) == {
        "image": {
            "name": "serving_default_x:0",
            "dtype": "DT_FLOAT",
            "tensorShape": {"dim": [{"size": size} for size in ("-1", "256", "256", "2")]},
        }
    }


def test_a_copy_with_defaults_and_fields_of_later_releases_is_read() -> None:
    shape = {"dim": [{"size": "-1", "name": ""}], "unknownRank": False, "later": 1}
    copy = read_copy(json.dumps({"image": {"dtype": "DT_FLOAT", "tensorShape": shape, "later": {}}}))
    assert copy is not None
    assert [(spec.name, str(spec.dtype), spec.shape) for spec in copy.inputs] == [("image", "float32", (None,))]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "null",
        "{}",
        "[]",
        "5",
        '{"x": 5}',
        '{"x": {}}',
        '{"x": {"dtype": "DT_NEW"}}',
        '{"x": {"dtype": 1e400}}',
        '{"x": {"dtype": "DT_RESOURCE"}}',
        '{"x": {"dtype": "DT_FLOAT", "tensorShape": {"dim": [{"size": 1e30}]}}}',
        '{"\\ud800": {"dtype": "DT_FLOAT"}}',
        "[" * 100_000,
        "\udcff",
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_nonsense_is_no_copy(text: str) -> None:
    assert read_copy(text) is None


@given(JSON)
def test_whatever_stands_there_nothing_is_raised(value: object) -> None:
    read_copy(json.dumps(value))
    read_copy(json.dumps({"x": value}))
