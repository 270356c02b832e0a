"""ONNX element types under their numpy names, and attributes as plain values: both ways."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from ..kernel import AttributeValue, GraphValue, TensorValue

_NUMPY_NAMES = {"float": "float32", "double": "float64", "string": "str"}
_ELEMENT_TYPES = {
    _NUMPY_NAMES.get(name.lower(), name.lower()): number
    for name, number in TensorProto.DataType.items()
    if name != "UNDEFINED"
}
_DTYPES = {number: name for name, number in _ELEMENT_TYPES.items()}

_GRAPH_LIMIT_BYTES = 64 * 1024
"""A subgraph up to this size travels in the description of its kernel; a larger one only leaves its digest."""

_TENSOR_LIMIT = 64


def dtype_name(element_type: int) -> str:
    """`TensorProto.FLOAT` -> `float32`; `other` for a number that this onnx package does not know."""
    return _DTYPES.get(element_type, "other")


def element_type(dtype: str) -> int | None:
    """`float32` -> `TensorProto.FLOAT`; None for what is no tensor type."""
    return _ELEMENT_TYPES.get(dtype)


def numpy_dtype(dtype: str) -> np.dtype[np.generic]:
    """The numpy (or ml_dtypes) type in which onnx keeps such elements."""
    return helper.tensor_dtype_to_np_dtype(_ELEMENT_TYPES[dtype])


def read_attribute(attribute: AttributeProto) -> AttributeValue | None:
    """A plain value, or None for an empty list, which means the same as leaving it out."""
    match attribute.type:
        case AttributeProto.INT:
            return int(attribute.i)
        case AttributeProto.FLOAT:
            return float(attribute.f)
        case AttributeProto.STRING:
            return attribute.s.decode("utf-8", errors="replace")
        case AttributeProto.INTS:
            return tuple(int(item) for item in attribute.ints) or None
        case AttributeProto.FLOATS:
            return tuple(float(item) for item in attribute.floats) or None
        case AttributeProto.STRINGS:
            return tuple(item.decode("utf-8", errors="replace") for item in attribute.strings) or None
        case AttributeProto.TENSOR:
            return _read_tensor(attribute.t)
        case _:
            return graph_value(attribute.SerializeToString(deterministic=True))


def graph_value(data: bytes) -> GraphValue:
    """A serialised AttributeProto that holds subgraphs (or something rarer) as a value."""
    small = len(data) <= _GRAPH_LIMIT_BYTES
    return GraphValue(hashlib.sha256(data).hexdigest(), base64.b64encode(data).decode() if small else None)


def write_attribute(name: str, value: AttributeValue) -> AttributeProto | None:
    """The attribute that `read_attribute` read; None when only its digest was kept."""
    if isinstance(value, GraphValue):
        if value.data is None:
            return None
        attribute = AttributeProto()
        attribute.ParseFromString(base64.b64decode(value.data))
        attribute.name = name
        return attribute
    if isinstance(value, TensorValue):
        array = np.array(value.elements).astype(numpy_dtype(value.dtype)).reshape(value.shape)
        return helper.make_attribute(name, numpy_helper.from_array(array))
    return helper.make_attribute(name, value)


def _read_tensor(tensor: TensorProto) -> TensorValue | GraphValue:
    dtype = dtype_name(tensor.data_type)
    if int(np.prod(tensor.dims)) > _TENSOR_LIMIT or dtype in ("str", "other") or dtype.startswith("complex"):
        attribute = AttributeProto(name="value", type=AttributeProto.TENSOR)
        attribute.t.CopyFrom(tensor)
        return graph_value(attribute.SerializeToString(deterministic=True))
    return TensorValue(dtype, tuple(tensor.dims), tensor_elements(tensor))


def tensor_elements(tensor: TensorProto) -> tuple[int | float, ...]:
    """Elements in row-major order as Python numbers; booleans are 0 and 1."""
    array = numpy_helper.to_array(tensor)
    elements: Iterable[int | float] = array.ravel().tolist()
    return tuple(float(item) if isinstance(item, float) else int(item) for item in elements)


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Graphs in the attributes of a control-flow node, in order."""
    found: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found
