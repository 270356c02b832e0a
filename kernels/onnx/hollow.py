"""Hollow models: ONNX files without their large constants, for questions that the values do not answer.

Which kernels a runtime makes of a network follows from shapes. A hollow model says of its large constants that they lie
in another file; so it has a few KB where the file has many MB, and is taken apart that much sooner.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
from google.protobuf.message import Message
from onnx import TensorProto, helper

from .tensors import tensor_bytes

LARGE_BYTES = 1024
"""Smaller constants stay: shapes, axes, bounds and scales decide what is executed."""


def hollow(model: bytes, location: str) -> bytes:
    """`hollow_model` of a file."""
    return hollow_model(onnx.ModelProto.FromString(model), location).SerializeToString()


def without_weights(model: bytes) -> bytes:
    """`with_weights_as_inputs` of a file."""
    return with_weights_as_inputs(onnx.ModelProto.FromString(model)).SerializeToString()


def hollow_model(model: onnx.ModelProto, location: str) -> onnx.ModelProto:
    """A copy whose large initialisers lie in the file `location`, each at its start, as those do that lay elsewhere."""

    def leave(tensor: TensorProto, size_bytes: int, graph: onnx.GraphProto) -> None:
        bare = graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        bare.data_location = TensorProto.EXTERNAL
        bare.external_data.add(key="location", value=location)
        bare.external_data.add(key="length", value=str(size_bytes))

    return _emptied(model, leave)


def with_weights_as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large initialisers are inputs: as valid as the model, if their data is, and small."""
    inputs = {value.name for value in model.graph.input}

    def leave(tensor: TensorProto, _: int, graph: onnx.GraphProto) -> None:
        if tensor.name not in inputs:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))

    return _emptied(model, leave)


def _emptied(model: onnx.ModelProto, leave: Callable[[TensorProto, int, onnx.GraphProto], None]) -> onnx.ModelProto:
    bare = onnx.ModelProto()
    _copy(model, bare, "graph")
    _copy(model.graph, bare.graph, "initializer")
    for tensor in model.graph.initializer:
        size_bytes = tensor_bytes(tensor)
        if size_bytes is None or size_bytes < LARGE_BYTES:
            bare.graph.initializer.append(tensor)
        else:
            leave(tensor, size_bytes, bare.graph)
    return bare


def _copy(source: Message, target: Message, skipped: str) -> None:
    for field, value in source.ListFields():
        if field.name == skipped:
            continue
        if isinstance(value, Message):
            getattr(target, field.name).CopyFrom(value)
        elif isinstance(value, str | bytes | int | float):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).extend(value)
