"""Counting the fields of a protobuf message before it is parsed: a file of two-byte messages grows seventyfold."""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

PACKED_BYTES = 64
"""Packed integers count as one field for so many bytes: each takes 8 bytes of memory, though one in the file."""
_SMALL_BYTES = 1 << 16
_MAX_NESTING = 100
"""Parsers refuse what is nested more deeply."""
_INTEGERS = (
    *(FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT32),
    *(FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_BOOL, FieldDescriptor.CPPTYPE_ENUM),
)
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


def field_count(data: bytes, kind: type[Message], enough: int) -> int:
    """How many fields `data` has as a message of this kind, at most; counting ends beyond `enough`.

    Each takes up to 160 bytes of memory beside its own (protobuf 7). Malformed data is counted up to where it breaks:
    the parser refuses it.
    """
    count = _Counter(data, enough, _SMALL_BYTES).message(0, len(data), kind.DESCRIPTOR)
    # Small messages were taken for full of the smallest fields: look into them only if that is too much.
    return count if count <= enough else _Counter(data, enough, 0).message(0, len(data), kind.DESCRIPTOR)


@cache
def _children(descriptor: Any) -> dict[int, Any]:
    """By field number: the descriptor of the message in it, or whether it holds integers."""
    return {field.number: field.message_type or field.cpp_type in _INTEGERS for field in descriptor.fields}


class _Counter:
    def __init__(self, data: bytes, enough: int, small_bytes: int) -> None:
        self._data = data
        self._enough = enough
        self._small_bytes = small_bytes
        self._count = 0

    def message(self, position: int, end: int, descriptor: Any, depth: int = 0) -> int:
        children = _children(descriptor)
        while position < end and self._count <= self._enough:
            tag, position = self._varint(position, end)
            self._count += 1
            kind = tag & 7
            if kind == _VARINT:
                _, position = self._varint(position, end)
            elif kind in (_FIXED32, _FIXED64):
                position += 4 if kind == _FIXED32 else 8
            elif kind == _DELIMITED:
                size, position = self._varint(position, end)
                child = children.get(tag >> 3, False)
                if isinstance(child, bool):
                    self._count += child * size // PACKED_BYTES
                elif size <= self._small_bytes or depth == _MAX_NESTING:
                    self._count += size // 2
                else:
                    self.message(position, min(position + size, end), child, depth + 1)
                position += size
        return self._count

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """Value and position behind it; the end where there is none."""
        value = shift = 0
        while position < end and shift < 64:
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
        return 0, end
