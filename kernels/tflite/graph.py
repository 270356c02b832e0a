"""The graph in a TFLite file: reading what its tensors are, and whether its parts fit together."""

from __future__ import annotations

import math
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np

from ..costs import element_bits
from .options import called_subgraphs
from .schema import NO_TENSOR, dtype_name

MAX_TENSOR_BYTES = (1 << 31) - 1
"""Offsets in flatbuffers are 32 bits wide, with a sign."""

_MAX_RANK = 32
_MAX_OPERATOR = 1 << 16
_OPAQUE_DTYPES = ("str", "resource", "variant", "other")
"""Elements without a size of their own."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def tensor_shape(tensor: Any) -> tuple[int, ...]:
    """Sizes that the file states; () for a scalar."""
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def tensor_name(tensor: Any) -> str:
    """The name, empty where the file has none."""
    return "" if tensor.name is None else str(tensor.name.decode("utf-8", errors="replace"))


def scales(tensor: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Scales of a quantised tensor, empty for others."""
    found = None if tensor.quantization is None else tensor.quantization.scale
    return found if isinstance(found, np.ndarray) else np.empty(0, np.float32)


def constant_bytes(model: Any, data: bytes, tensor: Any) -> Bytes | None:
    """The bytes of a constant, wherever in the file they lie; None for what is fed or computed."""
    buffer = model.buffers[tensor.buffer]
    if buffer.offset > 1:  # behind the flatbuffer, as writers do it for models beyond 2 GiB; 1 is a placeholder
        return np.frombuffer(data, np.uint8, buffer.size, buffer.offset) if buffer.size else None
    found = buffer.data
    return found if isinstance(found, np.ndarray) and found.size else None


def custom_options(data: bytes, operator: Any) -> bytes:
    """Options of a custom operator, wherever in the file they lie."""
    if (start := operator.largeCustomOptionsOffset) > 1:
        return data[start : start + operator.largeCustomOptionsSize]
    options = operator.customOptions
    return options.tobytes() if isinstance(options, np.ndarray) else b""


def embedded(model: Any, data: bytes) -> Any:
    """The same `ModelT` with all that lies behind the flatbuffer moved into it, so that it can be packed again."""
    for buffer in model.buffers or ():
        if buffer.offset > 1:
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    for operator in (operator for graph in model.subgraphs for operator in graph.operators or ()):
        if operator.largeCustomOptionsOffset > 1:
            operator.customOptions = np.frombuffer(custom_options(data, operator), np.uint8)
        operator.largeCustomOptionsOffset = operator.largeCustomOptionsSize = 0
    return model


def tensor_indices(vector: Any) -> list[int]:
    """Numbers of tensors from a vector of the file, which may be missing."""
    return [] if vector is None else [int(index) for index in vector]


def subgraph_calls(model: Any) -> dict[int, set[int]]:
    """Which subgraphs the operators of each subgraph run."""
    return {
        number: {called for operator in graph.operators or () for called in called_subgraphs(operator)}
        for number, graph in enumerate(model.subgraphs)
    }


def check_model(model: Any, size: int) -> None:
    """ValueError says what in an unpacked file of `size` bytes cannot be; see `check_tflite`."""
    if not model.subgraphs or not model.subgraphs[0].operators:
        raise ValueError("it holds no operators")
    for buffer in model.buffers or ():
        if buffer.offset > 1 and buffer.offset + buffer.size > size:
            raise ValueError("weights lie beyond the end, or in another file")
    for code in model.operatorCodes or ():
        if not 0 <= max(code.builtinCode, code.deprecatedBuiltinCode) < _MAX_OPERATOR:
            raise ValueError("an operator has no known number")
    for graph in model.subgraphs:
        _check_tensors(model, graph)
        _check_operators(model, graph, size)
    calls = subgraph_calls(model)
    for called in set().union(*calls.values()):
        _within(called, model.subgraphs, "a subgraph")
    try:
        TopologicalSorter(calls).prepare()
    except CycleError:
        raise ValueError("a subgraph runs itself") from None
    for signature in model.signatureDefs or ():
        _within(signature.subgraphIndex, model.subgraphs, "a signature's subgraph")
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        for entry in (*(signature.inputs or ()), *(signature.outputs or ())):
            _within(entry.tensorIndex, tensors, "a signature's tensor")


def _check_tensors(model: Any, graph: Any) -> None:
    for tensor in graph.tensors or ():
        name = tensor_name(tensor)
        _within(tensor.buffer, model.buffers, "a buffer")
        if tensor.externalBuffer:
            raise ValueError(f"it keeps the tensor '{name}' in another file")
        shape, dtype = tensor_shape(tensor), dtype_name(tensor.type)
        if len(shape) > _MAX_RANK or min(shape, default=0) < 0:
            raise ValueError(f"the shape of the tensor '{name}' cannot be")
        size_bytes = (math.prod(shape) * element_bits(dtype) + 7) // 8
        if size_bytes > MAX_TENSOR_BYTES:
            raise ValueError(f"the tensor '{name}' claims {size_bytes >> 20} MiB")
        buffer = model.buffers[tensor.buffer]
        stored = int(buffer.size) if buffer.offset > 1 else (0 if buffer.data is None else len(buffer.data))
        if stored and dtype not in _OPAQUE_DTYPES and tensor.sparsity is None and stored != size_bytes:
            raise ValueError(f"the tensor '{name}' needs {size_bytes} bytes, its buffer has {stored}")
        count = scales(tensor).size
        if count > 1:
            axis = tensor.quantization.quantizedDimension
            if not 0 <= axis < len(shape) or shape[axis] != count:
                raise ValueError(f"the scales of the tensor '{name}' do not fit its shape")


def _check_operators(model: Any, graph: Any, size: int) -> None:
    """Every operand exists, and is fed, constant or made before its use."""
    tensors = graph.tensors or ()
    fed, results = tensor_indices(graph.inputs), tensor_indices(graph.outputs)
    for index in (*fed, *results):
        _within(index, tensors, "a tensor")
    for operator in graph.operators or ():
        _check_references(model, tensors, operator, size)
    produced = {index for operator in graph.operators or () for index in tensor_indices(operator.outputs)}
    fixed = {index for index, tensor in enumerate(tensors) if _is_stored(model, tensor)}
    ready = {NO_TENSOR, *fed, *fixed}
    ready |= {index for index, tensor in enumerate(tensors) if tensor.isVariable or 0 in tensor_shape(tensor)}
    made = set(fixed)
    for operator in graph.operators or ():
        for index in tensor_indices(operator.inputs):
            if index not in ready:
                name = tensor_name(tensors[index])
                cycle = index in produced
                raise ValueError(f"'{name}' is used before it is made: a cycle" if cycle else f"nothing makes '{name}'")
        for index in tensor_indices(operator.outputs):
            if index in made:
                raise ValueError(f"two things make the tensor '{tensor_name(tensors[index])}'")
            if index != NO_TENSOR:
                made.add(index)
                ready.add(index)


def _check_references(model: Any, tensors: Any, operator: Any, size: int) -> None:
    _within(operator.opcodeIndex, model.operatorCodes, "an operator's code")
    for vector in (operator.inputs, operator.outputs, operator.intermediates):
        for index in tensor_indices(vector):
            if index != NO_TENSOR:
                _within(index, tensors, "a tensor")
    start, length = operator.largeCustomOptionsOffset, operator.largeCustomOptionsSize
    if start > 1 and start + length > size:
        raise ValueError("options of an operator lie beyond the end")


def _is_stored(model: Any, tensor: Any) -> bool:
    buffer = model.buffers[tensor.buffer]
    return bool(buffer.size if buffer.offset > 1 else buffer.data is not None and len(buffer.data))


def _within(index: int, items: Any, what: str) -> None:
    if not 0 <= index < len(items or ()):
        raise ValueError(f"{what} is referred to that does not exist")
