"""The wire format of protobuf, as far as it takes to pass large fields by without copying them.

protobuf itself copies a tensor three times on its way out and twice on its way in.  But messages that stand
one after the other merge into one (https://protobuf.dev/programming-guides/encoding): so a message here is
its small fields, which protobuf reads and writes, followed by its large ones, which are joined and split by
hand.  Knows no tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

Buffer: TypeAlias = bytes | memoryview

MAX_MESSAGE_BYTES = 2**31 - 1
"""No protobuf message is larger, whatever gRPC is told."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BITS = 64


class MalformedMessage(ValueError):
    """These bytes are not a message of the expected kind."""


def frame(number: int, pieces: Sequence[Buffer]) -> list[Buffer]:
    """Return the field `number` that holds `pieces`, one after the other, as a list of buffers to join."""
    size = sum(memoryview(piece).nbytes for piece in pieces)
    return [_varint(number << 3 | _BYTES) + _varint(size), *pieces]


def split(data: Buffer, large: Collection[int]) -> tuple[bytes, list[tuple[int, memoryview]]]:
    """Cut a message into the bytes of its small fields and views of its fields with a number in `large`.

    A field in `large` that is not length-delimited (an unpacked number) stays with the small ones.
    MalformedMessage where a field is cut off, or is a group, which no message of ours has.
    """
    view = memoryview(data)
    small: list[memoryview] = []
    found: list[tuple[int, memoryview]] = []
    position = start = 0
    while position < len(view):
        begin = position
        tag, position = read_varint(view, position)
        value_at, position = _value(view, position, tag & 7)
        if tag >> 3 in large and tag & 7 == _BYTES:
            small.append(view[start:begin])
            found.append((tag >> 3, view[value_at:position]))
            start = position
    small.append(view[start:])
    return b"".join(small), found


def _value(view: memoryview, position: int, wire_type: int) -> tuple[int, int]:
    """Return where the value of a field begins and ends."""
    end = position
    if wire_type == _VARINT:
        _, end = read_varint(view, position)
    elif wire_type == _BYTES:
        size, position = read_varint(view, position)
        end = position + size
    elif wire_type in (_FIXED32, _FIXED64):
        end = position + (4 if wire_type == _FIXED32 else 8)
    else:
        raise MalformedMessage(f"field of wire type {wire_type}")
    if end > len(view):
        raise MalformedMessage("cut off in the middle of a field")
    return position, end


def read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """Return the number that begins at `position`, and where it ends."""
    value = 0
    for shift in range(0, _VARINT_BITS + 6, 7):
        if position >= len(view):
            break
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says "more"
            return value, position
    raise MalformedMessage("cut off or overlong varint")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits to a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
