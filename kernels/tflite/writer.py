"""Writing TFLite files: tensors, then operators on them, then the bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from .schema import NO_TENSOR, members, options_table, schema, tensor_type

_FILE_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3
_DATA_ALIGNMENT = 16
"""Kernels read weights with vector instructions: the schema asks for this alignment."""

_LAST_SMALL_CODE = 127
"""Operators beyond it have this number in the field that old readers look at."""


@dataclass(frozen=True)
class Quantisation:
    """real = scale x (integer - zero_point); several scales are one per slice along `axis`."""

    scales: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0


class TFLiteWriter:
    """One subgraph under construction; tensors are known by their numbers.

    >>> writer = TFLiteWriter()
    >>> x, y = writer.tensor((1, 8)), writer.tensor((1, 8))
    >>> writer.operator("RELU", [x], [y])
    >>> data = writer.finish([x], [y])
    """

    def __init__(self) -> None:
        self._schema = schema()
        self._subgraph = self._schema.SubGraphT(tensors=[], operators=[], name="main")
        self._buffers: list[np.ndarray[Any, np.dtype[np.uint8]]] = [np.empty(0, np.uint8)]  # number 0 means no data
        self._codes: dict[tuple[str, str, int], int] = {}

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str = "float32",
        data: np.ndarray[Any, np.dtype[Any]] | bytes | None = None,
        quantisation: Quantisation | None = None,
        name: str = "",
    ) -> int:
        """Number of a new tensor: a constant when it has `data`, else an input or made by an operator.

        dtype: numpy's name, or `int4` and the like; `data` as an array is converted to it. elements of an array
        that are smaller than a byte are packed, the first lowest; bytes are taken as they are.
        """
        kind = tensor_type(dtype)
        if kind is None:
            raise ValueError(f"TFLite has no tensors of {dtype}")
        tensors = self._subgraph.tensors
        tensor = self._schema.TensorT(shape=np.array(shape, np.int32), type=kind, name=name or f"t{len(tensors)}")
        if data is not None:
            tensor.buffer = len(self._buffers)
            self._buffers.append(_raw(data, dtype))
        if quantisation is not None:
            tensor.quantization = self._schema.QuantizationParametersT(
                scale=np.array(quantisation.scales, np.float32),
                zeroPoint=np.full(len(quantisation.scales), quantisation.zero_point, np.int64),
                quantizedDimension=quantisation.axis,
            )
        tensors.append(tensor)
        return len(tensors) - 1

    def operator(
        self,
        op_type: str,
        inputs: Sequence[int | None],
        outputs: Sequence[int | None],
        options: Mapping[str, Any] | None = None,
        version: int = 1,
        custom_code: str = "",
        custom_options: bytes = b"",
    ) -> None:
        """Append an operator by its builtin name (`CONV_2D`); None stands for a tensor that is left out.

        options: fields of its options table under the schema's names (`strideH`); enumerations as numbers, see
        `tflite_schema.members`; fields left out have the schema's defaults.
        """
        code = self._codes.setdefault((op_type, custom_code, version), len(self._codes))
        operator = self._schema.OperatorT(
            opcodeIndex=code,
            inputs=_indices(inputs),
            outputs=_indices(outputs),
        )
        if custom_options:
            operator.customOptions = np.frombuffer(custom_options, np.uint8)
        if table := options_table(op_type):
            name, union, number = table
            value = getattr(self._schema, f"{name}T")()
            for field, item in (options or {}).items():
                if not hasattr(value, field):
                    raise ValueError(f"{name} has no field {field}")
                setattr(value, field, item)
            if union == 1:
                operator.builtinOptionsType, operator.builtinOptions = number, value
            else:
                operator.builtinOptions2Type, operator.builtinOptions2 = number, value
        elif options:
            raise ValueError(f"{op_type} has no options")
        self._subgraph.operators.append(operator)

    def finish(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        description: str = "milliseek",
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """The file, with `metadata` as named buffers of UTF-8; equal calls give equal bytes."""
        self._subgraph.inputs = np.array(inputs, np.int32)
        self._subgraph.outputs = np.array(outputs, np.int32)
        texts = {name: np.frombuffer(text.encode(), np.uint8) for name, text in (metadata or {}).items()}
        buffers = [*self._buffers, *texts.values()]
        model = self._schema.ModelT(
            version=_SCHEMA_VERSION,
            operatorCodes=[self._operator_code(*code) for code in self._codes],
            subgraphs=[self._subgraph],
            description=description,
            buffers=[self._schema.BufferT(data) for data in buffers],
            metadata=[self._schema.MetadataT(name, number) for number, name in enumerate(texts, len(self._buffers))],
        )
        return pack(model)

    def _operator_code(self, op_type: str, custom_code: str, version: int) -> Any:
        number = members("BuiltinOperator")[op_type]
        return self._schema.OperatorCodeT(
            deprecatedBuiltinCode=min(number, _LAST_SMALL_CODE),
            builtinCode=number,
            customCode=custom_code or None,
            version=version,
        )


def pack(model: Any) -> bytes:
    """The file of a `ModelT` whose buffers hold arrays of bytes, empty ones or None for no data."""
    import flatbuffers

    buffers = [np.empty(0, np.uint8) if buffer.data is None else buffer.data for buffer in model.buffers]
    packed = copy(model)
    packed.buffers = [_Buffer(data) for data in buffers]
    # Room for everything from the start: the builder would copy what it has each time it grows.
    builder = flatbuffers.Builder(sum(data.size + 64 for data in buffers) + 4096)
    builder.Finish(packed.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())


class _Buffer:
    """A constant's bytes, aligned as the schema demands; the generated packer aligns to single bytes."""

    def __init__(self, data: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self._data = data

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the generated code calls it
        module = schema()
        vector = 0
        if size := self._data.size:
            builder.StartVector(1, size, _DATA_ALIGNMENT)
            builder.head -= size
            builder.Bytes[builder.head : builder.head + size] = self._data.tobytes()
            vector = builder.EndVector()
        module.BufferStart(builder)
        if size:
            module.BufferAddData(builder, vector)
        return int(module.BufferEnd(builder))


def _indices(tensors: Sequence[int | None]) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array([NO_TENSOR if number is None else number for number in tensors], np.int32)


def _raw(data: np.ndarray[Any, np.dtype[Any]] | bytes, dtype: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if isinstance(data, bytes):
        return np.frombuffer(data, np.uint8)
    flat = np.ascontiguousarray(data).ravel()
    if dtype == "bfloat16":  # the upper half of a float32
        return (flat.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    if bits := {"int2": 2, "int4": 4, "uint4": 4}.get(dtype):
        per_byte = 8 // bits
        parts = np.append(flat, [0] * (-flat.size % per_byte)).astype(np.uint8) & ((1 << bits) - 1)
        shifted = parts.reshape(-1, per_byte) << np.arange(0, 8, bits, dtype=np.uint8)
        packed: np.ndarray[Any, np.dtype[np.uint8]] = np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8)
        return packed
    return flat.astype(dtype, copy=False).view(np.uint8)
