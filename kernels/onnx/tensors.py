"""The constants of ONNX files: all of them, how many bytes they have, and whether their data is what they claim."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from onnx import TensorProto, helper

from ..costs import element_bits
from .types import dtype_name, element_type, subgraphs

MAX_TENSOR_BYTES = 1 << 30
_COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
_SHARING_BYTES = frozenset(
    element_type(name) for name in ("int2", "uint2", "int4", "uint4", "float4e2m1", "float6e2m3", "float6e3m2")
)
_KNOWN = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}


def tensor_bytes(tensor: TensorProto) -> int | None:
    """Bytes of the elements, from shape and type; None for strings and for elements that share bytes."""
    if tensor.data_type not in _KNOWN or tensor.data_type in _SHARING_BYTES or tensor.data_type == TensorProto.STRING:
        return None
    return math.prod(tensor.dims) * element_bits(dtype_name(tensor.data_type)) // 8


def nested_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, and those of their subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from nested_nodes(graph.node)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Nodes of the graph, of its subgraphs and of the model's functions."""
    yield from nested_nodes(model.graph.node)
    for function in model.functions:
        yield from nested_nodes(function.node)


def all_graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The graph, its subgraphs, and those of the model's functions."""
    return [model.graph, *(graph for node in all_nodes(model) for graph in subgraphs(node))]


def tensor_problem(model: onnx.ModelProto) -> str | None:
    """What is wrong with the first bad constant, in words: `the tensor 'w' has a negative dimension`."""
    for tensor in _constants(model):
        dense = (tensor.values, tensor.indices) if isinstance(tensor, onnx.SparseTensorProto) else (tensor,)
        problem = next(filter(None, map(_problem, dense)), None)
        if problem is None and isinstance(tensor, onnx.SparseTensorProto):
            problem = _shape_problem(tensor.dims, tensor.values.data_type)
        if problem is not None:
            return f"the tensor '{dense[0].name}' {problem}"
    return None


def _constants(model: onnx.ModelProto) -> Iterator[Any]:
    """Dense and sparse tensors, of nodes and of graphs."""
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor
            yield from (*attribute.tensors, *attribute.sparse_tensors)
    for graph in all_graphs(model):
        yield from (*graph.initializer, *graph.sparse_initializer)


def _problem(tensor: TensorProto) -> str | None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        return "lies in another file"
    if tensor.data_type not in _KNOWN:
        return f"has elements of the unknown type {tensor.data_type}"
    if (problem := _shape_problem(tensor.dims, tensor.data_type)) is not None:
        return problem
    if tensor.HasField("raw_data"):
        if tensor.data_type == TensorProto.STRING:
            return "has strings as raw data"
        found, wanted, unit = len(tensor.raw_data), tensor_bytes(tensor), "bytes"
    else:
        found = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
        wanted, unit = math.prod(tensor.dims) * (2 if tensor.data_type in _COMPLEX else 1), "elements"
    if tensor.data_type in _SHARING_BYTES:
        return None if found or 0 in tensor.dims else "has no data"
    return None if found == wanted else f"has {found} {unit} of data where its shape needs {wanted}"


def _shape_problem(dims: Iterable[int], data_type: int) -> str | None:
    sizes = tuple(dims)
    if any(size < 0 for size in sizes):
        return "has a negative dimension"
    size_bytes = math.prod(sizes) * element_bits(dtype_name(data_type)) // 8
    if size_bytes > MAX_TENSOR_BYTES:
        return f"claims {size_bytes} bytes, more than {MAX_TENSOR_BYTES >> 20} MiB"
    return None
