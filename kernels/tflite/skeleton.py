"""Skeletons of TFLite files: a stripped constant keeps the shape and type of its tensor, and one byte of its data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..kernel import TensorSpec
from ..random_weights import RandomWeights, Step
from .file import read_tflite
from .graph import constant_bytes, scales, tensor_shape
from .schema import dtype_name, names, schema
from .writer import pack

_FLOATS = ("float16", "float32", "float64")
_QUANTISED = ("int8", "uint8", "int32")
_KEPT_BYTES = 256
"""Constants up to this size stay: scalars, shapes, axes."""

_WEIGHT_LIMIT = 127
_MARK = np.zeros(1, np.uint8)


def strip_tflite(data: bytes) -> bytes:
    """See `skeleton.strip`; buffers that lay behind the flatbuffer come inside."""
    model = read_tflite(data)
    bare = schema().ModelT(
        version=model.version,
        operatorCodes=model.operatorCodes,
        subgraphs=model.subgraphs,
        buffers=[schema().BufferT() for _ in model.buffers],
    )
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        found = constant_bytes(model, data, tensor)
        dropped = found is not None and _KEPT_BYTES < found.size == _droppable_bytes(tensor)
        bare.buffers[tensor.buffer].data = _MARK if dropped else found
        _simplify(tensor)
    for graph in model.subgraphs:
        graph.name = None
    return pack(bare)


def fill_tflite(skeleton: bytes, seed: int) -> bytes:
    """See `skeleton.fill`."""
    model = schema().ModelT.InitFromPackedBuf(skeleton)
    missing, known = {}, {}
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        name, dtype, found = str(tensor.buffer), dtype_name(tensor.type), model.buffers[tensor.buffer].data
        if found is not None and _MARK.size == found.size < _droppable_bytes(tensor):
            missing[name] = TensorSpec(tensor_shape(tensor), dtype)
        elif found is not None:
            known[name] = found.view(dtype) if dtype in _FLOATS else found
    for graph in model.subgraphs:
        for index, tensor in enumerate(graph.tensors):
            tensor.name = f"t{index}"  # quantisers tell tensors apart by their names
    weights = RandomWeights(_steps(model), missing, known, _WEIGHT_LIMIT, seed)
    for name in missing:
        model.buffers[int(name)].data = weights.draw(name).reshape(-1).view(np.uint8)
    return pack(model)


def _droppable_bytes(tensor: Any) -> int:
    """Size of a constant that may be dropped; 0 for integers without a scale: indices and shapes."""
    dtype = dtype_name(tensor.type)
    if dtype not in _FLOATS and not (dtype in _QUANTISED and scales(tensor).size):
        return 0
    return math.prod(tensor_shape(tensor)) * np.dtype(dtype).itemsize


def _simplify(tensor: Any) -> None:
    tensor.name = None
    if not (found := scales(tensor)).size:
        tensor.quantization = None
        return
    tensor.quantization.min = tensor.quantization.max = None
    tensor.quantization.scale = np.full_like(found, np.median(found))


def _steps(model: Any) -> Iterator[Step]:
    for number, graph in enumerate(model.subgraphs):
        # A constant goes by the number of its buffer, which tensors may share.
        buffers = [tensor.buffer for tensor in graph.tensors]
        known = [str(buffer) if model.buffers[buffer].data is not None else "" for buffer in buffers]
        tensors = [name or f"{number}:{index}" for index, name in enumerate(known)]
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            op = names("BuiltinOperator").get(max(code.builtinCode, code.deprecatedBuiltinCode), "")
            inputs = [tensors[index] if index >= 0 else "" for index in operator.inputs]
            if op == "TRANSPOSE_CONV":  # (output shape, weights, data, bias)
                inputs = [inputs[2], inputs[1], *inputs[3:]]
            options = operator.builtinOptions
            yield Step(
                _plain(op),
                tuple(inputs),
                tuple(tensors[index] for index in operator.outputs),
                _plain(names("ActivationFunctionType")[getattr(options, "fusedActivationFunction", 0)]),
                (bool(getattr(options, "adjX", False)), bool(getattr(options, "adjY", False))),
            )


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
