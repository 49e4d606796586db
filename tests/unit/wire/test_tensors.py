"""How TensorFlow decodes a TensorProto, case by case, and how we write one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from redis_consumer.wire import serving_pb2 as pb
from redis_consumer.wire.framing import MalformedMessage
from redis_consumer.wire.tensors import (
    MAX_FILLED_BYTES,
    UnsupportedType,
    data_type_of,
    decode_tensor,
    dtype_of,
    encode_tensor,
)

DTYPES = ["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"]


def tensor(data_type: str, shape: tuple[int, ...] | None, **fields: Any) -> bytes:
    message = pb.TensorProto(dtype=data_type, **fields)
    if shape is not None:
        dims = [pb.TensorShapeProto.Dim(size=size) for size in shape]
        message.tensor_shape.CopyFrom(pb.TensorShapeProto(dim=dims))
    return message.SerializeToString()


def decoded(data_type: str, shape: tuple[int, ...] | None, **fields: Any) -> list[Any]:
    values: list[Any] = decode_tensor(tensor(data_type, shape, **fields)).tolist()
    return values


@pytest.mark.parametrize("as_values", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_as_it_was_sent(dtype: str, as_values: bool) -> None:  # noqa: FBT001 - a parameter
    array = (np.arange(-6, 6).reshape(2, 3, 2) * 0.5).astype(dtype)
    back = decode_tensor(b"".join(encode_tensor(array, as_values=as_values)))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_protobuf_reads_the_typed_values_that_we_write(dtype: str) -> None:
    array = np.arange(5).astype(dtype)
    message = pb.TensorProto.FromString(b"".join(encode_tensor(array, as_values=True)))
    assert not message.tensor_content
    assert message.dtype == data_type_of(array.dtype)
    np.testing.assert_array_equal(decode_tensor(message.SerializeToString()), array)


def test_strings_of_every_kind_are_sent_as_bytes() -> None:
    for array in (np.array(["a", "öl"]), np.array([b"a", "öl".encode()]), np.array([b"a", "öl"], object)):
        back = decode_tensor(b"".join(encode_tensor(array)))
        assert back.tolist() == [b"a", "öl".encode()]


def test_an_object_that_is_no_string_is_refused() -> None:
    with pytest.raises(UnsupportedType, match="int"):
        encode_tensor(np.array([1, 2], object))


def test_big_endian_and_strided_arrays_are_sent_right() -> None:
    array = np.arange(24, dtype=">f4").reshape(4, 6)[::2, ::-3]
    np.testing.assert_array_equal(decode_tensor(b"".join(encode_tensor(array))), array)


def test_a_contiguous_array_is_sent_from_its_own_memory() -> None:
    array = np.zeros((3, 4), np.float32)
    assert any(np.shares_memory(np.frombuffer(piece, np.uint8), array) for piece in encode_tensor(array))


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1)])
def test_scalars_and_empty_arrays_keep_their_shape(shape: tuple[int, ...]) -> None:
    array = np.ones(shape, np.float32)
    for as_values in (False, True):
        back = decode_tensor(b"".join(encode_tensor(array, as_values=as_values)))
        assert back.shape == shape
        assert back.sum() == array.sum()


def test_a_decoded_array_is_writable_and_native() -> None:
    back = decode_tensor(tensor("DT_FLOAT", (2,), float_val=[1.0, 2.0]))
    assert back.flags.writeable
    assert back.dtype.isnative
    assert back.flags.aligned


def test_bfloat16_is_widened_to_float32() -> None:
    assert decoded("DT_BFLOAT16", (2,), half_val=[0x3F80, 0xC000]) == [1.0, -2.0]
    assert decoded("DT_BFLOAT16", (2,), tensor_content=b"\x80\x3f\x00\xc0") == [1.0, -2.0]


def test_bfloat16_in_int_val_is_ignored() -> None:
    assert decoded("DT_BFLOAT16", (2,), int_val=[0x3F80]) == [0.0, 0.0]


def test_float32_is_rounded_to_the_nearest_bfloat16() -> None:
    array = np.array([1.0, 1.00390625, 1.01171875, np.nan, np.inf, -np.inf, 3.4e38], np.float32)
    back = decode_tensor(b"".join(encode_tensor(array, pb.DT_BFLOAT16)))
    np.testing.assert_array_equal(back, np.array([1, 1, 1.015625, np.nan, np.inf, -np.inf, np.inf], np.float32))


def test_half_travels_as_its_sixteen_bits() -> None:
    assert decoded("DT_HALF", (1,), half_val=[0x3C00]) == [1.0]
    message = pb.TensorProto.FromString(b"".join(encode_tensor(np.ones(1, np.float16), as_values=True)))
    assert list(message.half_val) == [0x3C00]


def test_quantized_types_are_plain_integers() -> None:
    assert decoded("DT_QUINT8", (2,), int_val=[3, 255]) == [3, 255]
    assert decode_tensor(tensor("DT_QINT32", (1,), int_val=[7])).dtype == np.int32


@pytest.mark.parametrize(
    ("data_type", "value", "expected"),
    [("DT_UINT8", 256, 0), ("DT_INT8", 128, -128), ("DT_UINT16", -1, 65535)],
)
def test_values_out_of_range_wrap(data_type: str, value: int, expected: int) -> None:
    assert decoded(data_type, (1,), int_val=[value]) == [expected]


def test_content_is_used_alone() -> None:
    assert decoded("DT_INT32", (1,), tensor_content=b"\x05\0\0\0", int_val=[7]) == [5]


def test_content_of_another_length_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="8 bytes of content, 3 elements of 4 bytes"):
        decoded("DT_FLOAT", (3,), tensor_content=bytes(8))


def test_strings_in_content_are_lengths_and_then_bytes() -> None:
    assert decoded("DT_STRING", (2,), tensor_content=b"\x01\x02abc") == [b"a", b"bc"]


@pytest.mark.parametrize("content", [b"\x01\x02ab", b"\x01\x02abcd", b"\x80", b"\x80\x80"])
def test_strings_that_do_not_fit_their_lengths_are_refused(content: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decoded("DT_STRING", (2,), tensor_content=content)


@pytest.mark.parametrize(
    ("data_type", "fields", "expected"),
    [
        ("DT_FLOAT", {"float_val": [1, 2]}, [1, 2, 2, 2]),
        ("DT_FLOAT", {"float_val": [3]}, [3, 3, 3, 3]),
        ("DT_FLOAT", {}, [0, 0, 0, 0]),
        ("DT_FLOAT", {"double_val": [9]}, [0, 0, 0, 0]),
        ("DT_STRING", {}, [b""] * 4),
        ("DT_STRING", {"string_val": [b"a", b"b"]}, [b"a", b"b", b"b", b"b"]),
        ("DT_BOOL", {"bool_val": [True]}, [True] * 4),
        ("DT_INT64", {"int64_val": [1, 2, 3, 4, 5]}, [1, 2, 3, 4]),
        ("DT_COMPLEX64", {"scomplex_val": [1, 2, 3]}, [1 + 2j] * 4),
    ],
)
def test_missing_values_are_filled_in_and_surplus_ones_dropped(
    data_type: str, fields: dict[str, Any], expected: list[Any]
) -> None:
    assert decoded(data_type, (4,), **fields) == expected


def test_no_shape_and_an_unknown_rank_are_scalars() -> None:
    assert decode_tensor(tensor("DT_FLOAT", None, float_val=[4.0])).shape == ()
    unknown = pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=pb.TensorShapeProto(unknown_rank=True))
    assert decode_tensor(unknown.SerializeToString()).shape == ()


def test_a_zero_size_ignores_the_values() -> None:
    assert decode_tensor(tensor("DT_FLOAT", (0, 5), float_val=[1.0])).shape == (0, 5)


@pytest.mark.parametrize("shape", [(-1,), (2**40, 2**40), (1,) * 255, (0, 2**62, 2**62)])
def test_impossible_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MalformedMessage):
        decoded("DT_FLOAT", shape, float_val=[1.0])


def test_one_value_does_not_fill_the_memory() -> None:
    assert decode_tensor(tensor("DT_UINT8", (MAX_FILLED_BYTES,), int_val=[1])).nbytes == MAX_FILLED_BYTES
    with pytest.raises(MalformedMessage, match="1 values for 1000000000000 elements"):
        decoded("DT_FLOAT", (10**6, 10**6), float_val=[1.0])


@pytest.mark.parametrize("data_type", [0, 20, 21, 24, 101, 9999])
def test_unknown_types_are_refused_by_name_or_number(data_type: int) -> None:
    with pytest.raises(UnsupportedType, match="DataType"):
        decode_tensor(pb.TensorProto(dtype=data_type).SerializeToString())  # type: ignore[arg-type] # on purpose
    with pytest.raises(UnsupportedType, match="DataType"):
        dtype_of(data_type)


def test_a_dtype_without_counterpart_is_refused() -> None:
    with pytest.raises(UnsupportedType, match="datetime64"):
        data_type_of(np.dtype("M8[s]"))


def test_values_sent_one_by_one_or_in_chunks_are_read_in_order() -> None:
    head = tensor("DT_FLOAT", (4,))
    first, second = np.array([[1, 2], [3, 4]], np.float32)
    chunks = head + b"\x2a\x08" + first.tobytes() + b"\x2a\x08" + second.tobytes()
    loose = head + b"\x2a\x08" + first.tobytes() + b"\x2d" + second[:1].tobytes() + b"\x2d" + second[1:].tobytes()
    assert decode_tensor(chunks).tolist() == [1, 2, 3, 4]
    assert decode_tensor(loose).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("data", [b"\x2a\x05", b"\x08", b"\xff" * 12, b"\x0b\x0c", b"\x08\x01\x2a\x03abc"])
def test_bytes_that_are_no_tensor_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_tensor(data)
