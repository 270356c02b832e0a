"""Is a TFLite file what it claims to be: every table, vector and string of the flatbuffer inside the file.

The generated readers follow whatever offset they find. So each reference is checked before they are used, and what
they will unpack is counted, as overlapping tables can make a small file unfold into a huge model. The layout of the
tables is asked of the generated writers: they name a field's slot and size when they write it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any

from .schema import names, schema

IDENTIFIER = b"TFL3"

MAX_TABLES = 200_000
"""Tensors, operators, buffers and what belongs to them; large networks have thousands."""

MAX_ELEMENTS = 1 << 24
"""Elements of shapes, names, scales and options together, without the bytes of weights."""

_TABLE_VECTORS = {
    "OperatorCodes": "OperatorCode",
    "Subgraphs": "SubGraph",
    "Buffers": "Buffer",
    "Metadata": "Metadata",
    "SignatureDefs": "SignatureDef",
    "ExternalBufferGroups": "ExternalBufferGroup",
    "ExternalBuffers": "ExternalBuffer",
    "Tensors": "Tensor",
    "Operators": "Operator",
    "Inputs": "TensorMap",
    "Outputs": "TensorMap",
    "DimMetadata": "DimensionMetadata",
    "VariantTensors": "VariantSubType",
}
_TABLES = {"Quantization": "QuantizationParameters", "Sparsity": "SparsityParameters"}
_UNIONS = {
    "Details": "QuantizationDetails",
    "BuiltinOptions": "BuiltinOptions",
    "BuiltinOptions2": "BuiltinOptions2",
    "ArraySegments": "SparseIndexVector",
    "ArrayIndices": "SparseIndexVector",
}
_WEIGHTS = ("Buffer.Data", "Operator.CustomOptions")
"""Vectors that are looked at in place, never unpacked."""

_Visit = Callable[["_Verifier", int, int], None]
"""Checks a field, given where it lies and where the number of its union's member lies (0: none)."""


def verify(data: bytes) -> None:
    """ValueError says what in the file cannot be; passing means that the generated readers stay inside it."""
    if data[4:8] != IDENTIFIER:
        raise ValueError("it lacks the identifier TFL3")
    try:
        _Verifier(data).reference("Model", 0)
    except struct.error:
        raise ValueError("an offset points outside") from None


class _Verifier:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._size = len(data)
        self._tables = 0
        self._elements = 0

    def number(self, form: str, position: int) -> int:
        # struct counts negative offsets from the end; none is ever legal here.
        if position < 0:
            raise ValueError("an offset points outside")
        return int(struct.unpack_from(form, self._data, position)[0])

    def reference(self, table: str, position: int) -> None:
        """The table whose offset lies at `position`."""
        start = position + self.number("<I", position)
        self._tables += 1
        if self._tables > MAX_TABLES:
            raise ValueError(f"it has more than {MAX_TABLES} tables")
        vtable = start - self.number("<i", start)
        vtable_size, table_size = self.number("<H", vtable), self.number("<H", vtable + 2)
        if vtable_size < 4 or vtable_size % 2 or vtable + vtable_size > self._size or start + table_size > self._size:
            raise ValueError("a table reaches beyond the end")
        type_position = 0
        for slot, (size, visit) in _layout(table).items():
            entry = 4 + 2 * slot
            offset = self.number("<H", vtable + entry) if entry < vtable_size else 0
            if offset == 0:
                type_position = 0
                continue
            if offset + size > table_size:
                raise ValueError("a field reaches beyond its table")
            if visit is not None:
                visit(self, start + offset, type_position)
            type_position = start + offset

    def vector(self, position: int, element_bytes: int, *, unpacked: bool = True) -> tuple[int, int]:
        """(position of the first element, number of elements) of the vector whose offset lies at `position`."""
        start = position + self.number("<I", position)
        count = self.number("<I", start)
        if start + 4 + count * element_bytes > self._size:
            raise ValueError("a vector reaches beyond the end")
        if unpacked:
            self._elements += count
            if self._elements > MAX_ELEMENTS:
                raise ValueError(f"its tables hold more than {MAX_ELEMENTS} elements")
        return start + 4, count

    def tables(self, table: str, position: int) -> None:
        """A vector of offsets of tables."""
        start, count = self.vector(position, 4)
        for index in range(count):
            self.reference(table, start + 4 * index)


@cache
def _layout(table: str) -> dict[int, tuple[int, _Visit | None]]:
    """Slot -> (bytes inside the table, check of what it refers to), in the order of the slots."""
    module = schema()
    found: dict[int, tuple[int, _Visit | None]] = {}
    prefix = f"{table}Add"
    for name in vars(module):
        if name.startswith(prefix):
            recorder = _Recorder()
            getattr(module, name)(recorder, 0)
            found[recorder.slot] = _field(table, name.removeprefix(prefix), recorder)
    return dict(sorted(found.items()))


def _field(table: str, field: str, recorder: _Recorder) -> tuple[int, _Visit | None]:
    if recorder.scalar_bytes:
        return recorder.scalar_bytes, None
    start = getattr(schema(), f"{table}Start{field}Vector", None)
    if start is not None and hasattr(getattr(schema(), table), f"{field}AsNumpy"):
        start(recorder, 0)
        return 4, _scalars(recorder.element_bytes, unpacked=f"{table}.{field}" not in _WEIGHTS)
    if start is not None:
        return 4, lambda verifier, position, _: verifier.tables(_TABLE_VECTORS[field], position)
    if member := _TABLES.get(field):
        return 4, lambda verifier, position, _: verifier.reference(member, position)
    if union := _UNIONS.get(field):
        return 4, _member(union)
    return 4, _scalars(1)  # a string


def _scalars(element_bytes: int, *, unpacked: bool = True) -> _Visit:
    def visit(verifier: _Verifier, position: int, _: int) -> None:
        verifier.vector(position, element_bytes, unpacked=unpacked)

    return visit


def _member(union: str) -> _Visit:
    def visit(verifier: _Verifier, position: int, type_position: int) -> None:
        number = verifier.number("<B", type_position) if type_position else 0
        member = names(union).get(number, "NONE")
        if member != "NONE":  # the generated readers leave members alone that they do not know
            verifier.reference(member, position)

    return visit


class _Recorder:
    """Stands in for a flatbuffer builder and remembers what the generated code asked of it last."""

    slot = 0
    scalar_bytes = 0
    """Size of a scalar field; 0 for an offset."""
    element_bytes = 0

    def __getattr__(self, method: str) -> Callable[..., int]:
        if method == "StartVector":
            return self._start_vector
        bits = "".join(letter for letter in method if letter.isdigit())
        self.scalar_bytes = int(bits) // 8 if bits else int("Bool" in method)
        return self._prepend

    def _prepend(self, slot: int, *_: Any) -> int:
        self.slot = slot
        return 0

    def _start_vector(self, element_bytes: int, *_: Any) -> int:
        self.element_bytes = element_bytes
        return 0
