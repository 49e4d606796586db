"""What we write by hand and what protobuf writes mean the same, both ways round."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as nps

from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.framing import MalformedMessage, split
from redis_consumer.wire.tensors import decode_tensor, encode_tensor

dtypes = st.sampled_from(["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"])
arrays = dtypes.flatmap(
    lambda dtype: nps.arrays(np.dtype(dtype), nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
names = st.text(st.characters(codec="utf-8"), max_size=5)


def same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    """Bit for bit, NaNs included."""
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@given(arrays, st.booleans())
def test_an_array_survives_the_trip(array: np.ndarray[Any, Any], as_values: bool) -> None:  # noqa: FBT001 - drawn
    assert same(decode_tensor(b"".join(encode_tensor(array, as_values=as_values))), array)


@given(arrays, st.booleans())
def test_protobuf_can_rewrite_it(array: np.ndarray[Any, Any], as_values: bool) -> None:  # noqa: FBT001 - drawn
    ours = b"".join(encode_tensor(array, as_values=as_values))
    assert same(decode_tensor(pb.TensorProto.FromString(ours).SerializeToString()), array)


@given(st.dictionaries(names, arrays, max_size=3), names, st.one_of(st.none(), st.integers(0, 2**63 - 1)))
def test_a_whole_request_means_the_same_to_protobuf(
    inputs: dict[str, np.ndarray[Any, Any]], name: str, version: int | None
) -> None:
    head = pb.PredictRequest(model_spec=messages.model_spec(name, version))
    ours = messages.write(head, {key: encode_tensor(array) for key, array in inputs.items()})
    theirs = pb.PredictRequest.FromString(ours)
    assert theirs.model_spec == head.model_spec
    again, tensors = messages.read(pb.PredictRequest, theirs.SerializeToString())
    assert again == head
    assert {key: decode_tensor(tensor).tobytes() for key, tensor in tensors.items()} == {
        key: array.tobytes() for key, array in inputs.items()
    }


@given(st.binary(max_size=60))
def test_no_bytes_break_the_reader_in_an_unforeseen_way(data: bytes) -> None:
    for read in (decode_tensor, lambda data: messages.read(pb.PredictResponse, data)):
        try:
            read(data)
        except MalformedMessage:
            continue


@given(st.binary(max_size=60), st.sets(st.integers(1, 15)))
def test_splitting_loses_no_field(data: bytes, large: set[int]) -> None:
    try:
        small, found = split(data, large)
    except MalformedMessage:
        return
    assert len(small) + sum(view.nbytes for _, view in found) <= len(data)
    assert split(small, large) == (small, [])
