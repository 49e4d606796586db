"""Arrays in and out of tensorflow.TensorProto: one table of dtypes and its inverse.

What numpy has no name for is widened: bfloat16 becomes float32, quantized types their plain integers.
Strings are object arrays of bytes.  float8, int4, resources and variants are refused.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError

from redis_consumer.wire import serving_pb2 as pb
from redis_consumer.wire.framing import MalformedMessage, frame, read_varint, split

if TYPE_CHECKING:
    from redis_consumer.arrays import AnyArray
    from redis_consumer.wire.framing import Buffer

_TABLE: dict[int, tuple[str, str]] = {
    # DataType: numpy dtype on the wire (little-endian), typed field
    pb.DT_FLOAT: ("<f4", "float_val"),
    pb.DT_DOUBLE: ("<f8", "double_val"),
    pb.DT_INT32: ("<i4", "int_val"),
    pb.DT_UINT8: ("u1", "int_val"),
    pb.DT_INT16: ("<i2", "int_val"),
    pb.DT_INT8: ("i1", "int_val"),
    pb.DT_STRING: ("O", "string_val"),
    pb.DT_COMPLEX64: ("<c8", "scomplex_val"),
    pb.DT_INT64: ("<i8", "int64_val"),
    pb.DT_BOOL: ("?", "bool_val"),
    pb.DT_UINT16: ("<u2", "int_val"),
    pb.DT_COMPLEX128: ("<c16", "dcomplex_val"),
    pb.DT_HALF: ("<f2", "half_val"),
    pb.DT_UINT32: ("<u4", "uint32_val"),
    pb.DT_UINT64: ("<u8", "uint64_val"),
    # From here on the way back is ambiguous: an array is sent as one of these only when asked for.
    pb.DT_BFLOAT16: ("<u2", "half_val"),
    pb.DT_QINT8: ("i1", "int_val"),
    pb.DT_QUINT8: ("u1", "int_val"),
    pb.DT_QINT32: ("<i4", "int_val"),
    pb.DT_QINT16: ("<i2", "int_val"),
    pb.DT_QUINT16: ("<u2", "int_val"),
}
_INVERSE: dict[np.dtype[Any], int] = {np.dtype(dtype): data_type for data_type, (dtype, _) in reversed(_TABLE.items())}
_NUMBERS: dict[str, int] = {field.name: field.number for field in pb.TensorProto.DESCRIPTOR.fields}
# Typed fields whose packed bytes are the array's own.
_RAW: dict[str, np.dtype[Any]] = {
    "float_val": np.dtype("<f4"),
    "double_val": np.dtype("<f8"),
    "scomplex_val": np.dtype("<f4"),
    "dcomplex_val": np.dtype("<f8"),
}
_CONTENT = pb.TensorProto.TENSOR_CONTENT_FIELD_NUMBER
_LARGE = frozenset({_CONTENT, *(_NUMBERS[name] for name in _RAW)})

MAX_FILLED_BYTES = 64 * 2**20
"""How much memory a tensor may take that carries fewer values than it has elements: one value may fill a
float32 image of 4096 x 4096, not 10^12 elements."""
_MAX_COUNT = 2**63 - 1


class UnsupportedType(MalformedMessage):
    """A dtype that has no counterpart on the other side."""


def dtype_of(data_type: int) -> np.dtype[Any]:
    """Return the dtype in which a tensor of this DataType is read, and to which it is cast to be sent."""
    if data_type not in _TABLE:
        raise UnsupportedType(f"DataType {type_name(data_type)} is not supported")
    return np.dtype("<f4") if data_type == pb.DT_BFLOAT16 else np.dtype(_TABLE[data_type][0])


def data_type_of(dtype: np.dtype[Any]) -> int:
    """Return the DataType of a numpy dtype of any byte order; str, bytes and object are DT_STRING."""
    key = np.dtype("O") if dtype.kind in "SUO" else dtype.newbyteorder("<")
    if key not in _INVERSE:
        raise UnsupportedType(f"arrays of dtype {dtype} cannot be sent")
    return _INVERSE[key]


def type_name(data_type: int) -> str:
    """Return ``DT_FLOAT`` for 1 and so on, the bare number for one that is not known."""
    known: list[int] = pb.DataType.values()
    return pb.DataType.Name(data_type) if data_type in known else str(data_type)


def encode_tensor(array: AnyArray, data_type: int | None = None, *, as_values: bool = False) -> list[Buffer]:
    """Return a serialized TensorProto as buffers to join.

    A contiguous array of the right dtype is not copied.  `data_type` is by default the array's own; another one
    casts.  The elements travel as `tensor_content`, or, with `as_values`, in the typed field, as TensorFlow
    Serving replies.
    """
    kind = data_type_of(array.dtype) if data_type is None else data_type
    dims = [pb.TensorShapeProto.Dim(size=size) for size in array.shape]
    head = pb.TensorProto(dtype=kind, tensor_shape=pb.TensorShapeProto(dim=dims))  # type: ignore[arg-type] # enums are open
    large: list[Buffer] = []
    if kind == pb.DT_STRING:
        head.string_val.extend(_as_bytes(value) for value in array.ravel().tolist())
    elif array.size:
        flat = np.asarray(array, dtype_of(kind), order="C").reshape(-1)
        flat = _to_bfloat16(flat) if kind == pb.DT_BFLOAT16 else flat
        large = _write_values(head, flat) if as_values else frame(_CONTENT, [_bytes_of(flat)])
    return [head.SerializeToString(), *large]


def decode_tensor(data: Buffer) -> AnyArray:
    """Return the array of a serialized TensorProto: a fresh, writable copy in the machine's byte order.

    `tensor_content` is used alone where it stands.  Else fewer values than elements repeat the last one, none
    are zeros, and surplus ones are ignored, as TensorFlow does; up to MAX_FILLED_BYTES.  MalformedMessage
    otherwise.
    """
    small, large = split(data, _LARGE)
    head = _parse(small)
    if head.dtype not in _TABLE:
        raise UnsupportedType(f"DataType {type_name(head.dtype)} is not supported")
    shape = _shape_of(head)
    count = math.prod(shape)
    content = next((view for number, view in reversed(large) if number == _CONTENT), memoryview(b""))
    dtype = np.dtype(_TABLE[head.dtype][0])
    if not count:
        flat = np.zeros(0, dtype)
    elif content.nbytes:
        flat = _from_content(content, dtype, count)
    else:
        flat = _filled(_values(data, head, large), dtype, count)
    flat = _from_bfloat16(flat) if head.dtype == pb.DT_BFLOAT16 else flat
    try:
        return flat.reshape(shape)
    except ValueError as error:  # more axes than numpy has, or a size beyond its limits beside a zero
        raise MalformedMessage(f"shape {list(shape)}: {error}") from error


def _parse(data: Buffer) -> pb.TensorProto:
    try:
        return pb.TensorProto.FromString(bytes(data))
    except DecodeError as error:
        raise MalformedMessage(f"not a TensorProto: {error}") from error


def _shape_of(head: pb.TensorProto) -> tuple[int, ...]:
    """Return the sizes; no shape, and an unknown rank without sizes, are a scalar."""
    shape = tuple(dim.size for dim in head.tensor_shape.dim)
    if any(size < 0 for size in shape) or math.prod(shape) > _MAX_COUNT:
        raise MalformedMessage(f"shape {list(shape)}: sizes are negative or too large")
    return shape


def _from_content(content: memoryview, dtype: np.dtype[Any], count: int) -> AnyArray:
    if dtype.kind == "O":
        return _strings_from_content(content, count)
    if content.nbytes != count * dtype.itemsize:
        raise MalformedMessage(f"{content.nbytes} bytes of content, {count} elements of {dtype.itemsize} bytes")
    if dtype.kind == "b":
        return np.frombuffer(content, np.uint8).astype(np.bool_)
    return np.frombuffer(content, dtype).copy()


def _strings_from_content(content: memoryview, count: int) -> AnyArray:
    """Read all lengths as varints, then all bytes.  Each string costs a byte of its length at least."""
    if count > content.nbytes:
        raise MalformedMessage(f"{content.nbytes} bytes of content, {count} strings")
    sizes, start = [], 0
    for _ in range(count):
        size, start = read_varint(content, start)
        sizes.append(size)
    if start + sum(sizes) != content.nbytes:
        raise MalformedMessage("the lengths of the strings do not fit the content")
    out = np.empty(count, object)
    for i, size in enumerate(sizes):
        out[i] = bytes(content[start : start + size])
        start += size
    return out


def _values(data: Buffer, head: pb.TensorProto, large: list[tuple[int, memoryview]]) -> AnyArray:
    """Return what stands in the typed field, in the tensor's dtype."""
    dtype, field = _TABLE[head.dtype]
    values: AnyArray
    if field == "string_val":
        values = np.empty(len(head.string_val), object)
        values[:] = list(head.string_val)
        return values
    if field in _RAW:
        values = _raw_values(data, head, large, field)
        pairs = len(values) // 2 * 2 if dtype[1] == "c" else len(values)
        return values[:pairs].view(dtype)
    numbers = np.array(getattr(head, field), dtype=_integers(field))
    return numbers.astype(np.uint16).view(dtype) if field == "half_val" else numbers.astype(dtype)


def _integers(field: str) -> type[np.generic]:
    types = {"int64_val": np.int64, "uint32_val": np.uint32, "uint64_val": np.uint64, "bool_val": np.bool_}
    return types.get(field, np.int32)


def _raw_values(data: Buffer, head: pb.TensorProto, large: list[tuple[int, memoryview]], field: str) -> AnyArray:
    chunks = [view for number, view in large if number == _NUMBERS[field]]
    if getattr(head, field):  # some values came one by one: let protobuf put all of them in order
        return np.array(getattr(_parse(data), field), dtype=_RAW[field])
    if any(chunk.nbytes % _RAW[field].itemsize for chunk in chunks):
        raise MalformedMessage(f"{field} is cut off in the middle of a number")
    return np.frombuffer(chunks[0] if len(chunks) == 1 else b"".join(chunks), _RAW[field])


def _filled(values: AnyArray, dtype: np.dtype[Any], count: int) -> AnyArray:
    if len(values) >= count:
        return values[:count].copy()
    if count * dtype.itemsize > MAX_FILLED_BYTES:
        raise MalformedMessage(
            f"{len(values)} values for {count} elements: at most {MAX_FILLED_BYTES} bytes are filled in"
        )
    filler = values[-1] if len(values) else b"" if dtype.kind == "O" else dtype.type(0)
    flat = np.full(count, filler, dtype)
    flat[: len(values)] = values
    return flat


def _write_values(head: pb.TensorProto, flat: AnyArray) -> list[Buffer]:
    """Put the elements into the typed field of `head`, or return that field as buffers where it is raw."""
    _, field = _TABLE[head.dtype]
    if field in _RAW or field == "bool_val":  # a true is the byte 1 here and there
        return frame(_NUMBERS[field], [_bytes_of(flat)])
    numbers = flat.view(np.uint16) if field == "half_val" else flat
    getattr(head, field).extend(numbers.tolist())
    return []


def _bytes_of(flat: AnyArray) -> memoryview:
    return flat.view(np.uint8).data


def _as_bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise UnsupportedType(f"a tensor of strings holds a {type(value).__name__}")


def _to_bfloat16(flat: AnyArray) -> AnyArray:
    """Round float32 to the nearest bfloat16, ties to even; returned as its 16 bits.  A NaN stays a NaN."""
    bits = flat.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(flat.view(np.float32)), bits >> 16 | 0x40, rounded).astype(np.uint16)


def _from_bfloat16(bits: AnyArray) -> AnyArray:
    return (bits.astype(np.uint32) << 16).view(np.float32)
