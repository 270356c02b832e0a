"""Skeletons of ONNX files: a stripped tensor keeps its shape and type, and its raw data is empty."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ..kernel import TensorSpec
from ..random_weights import RandomWeights, Step
from .types import dtype_name, subgraphs

_STRIPPED_DTYPES = ("float16", "float32", "float64", "int8", "uint8", "int32")
_KEPT_BYTES = 256
"""Constants up to this size stay: scalars, shapes, axes, the scales and zero points of activations."""

_WEIGHT_LIMIT = 63
"""7 bits: on x86 CPUs without VNNI, ONNX Runtime's sums of 8-bit products saturate."""


def strip_onnx(data: bytes) -> bytes:
    """See `skeleton.strip`. The names inside the subgraphs of control flow change, and with them such kernels."""
    model = onnx.ModelProto.FromString(data)
    names = {"": ""}
    for graph in _graphs(model.graph):
        quantising = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
        parameters = {name for node in quantising for name in node.input[1:]}
        quantised = {node.input[0] for node in quantising}
        for tensor, name in _constants(graph):
            tensor.ClearField("doc_string")
            if name in parameters:
                _flatten(tensor)
            elif tensor.data_type != TensorProto.INT32 or name in quantised:  # other integers are indices
                _drop_data(tensor)
        _shorten(graph, names)
    bare = onnx.ModelProto(ir_version=model.ir_version, graph=model.graph, functions=model.functions)
    bare.opset_import.extend(model.opset_import)
    return bare.SerializeToString(deterministic=True)


def fill_onnx(skeleton: bytes, seed: int) -> bytes:
    """See `skeleton.fill`."""
    model = onnx.ModelProto.FromString(skeleton)
    for graph in _graphs(model.graph):
        for index, node in enumerate(graph.node):
            node.name = f"n{index}"  # quantisers tell nodes apart by their names
        stripped = {name: tensor for tensor, name in _constants(graph) if _is_stripped(tensor)}
        missing = {
            name: TensorSpec(tuple(tensor.dims), dtype_name(tensor.data_type)) for name, tensor in stripped.items()
        }
        known = {name: numpy_helper.to_array(tensor) for tensor, name in _constants(graph) if name not in stripped}
        weights = RandomWeights(map(_step, graph.node), missing, known, _WEIGHT_LIMIT, seed)
        for name, tensor in stripped.items():
            tensor.raw_data = weights.draw(name).tobytes()
    return model.SerializeToString()


def _flatten(tensor: TensorProto) -> None:
    """Give all channels the same scale or zero point."""
    array = numpy_helper.to_array(tensor)
    if array.size:
        same = np.full_like(array, np.median(array))
        tensor.CopyFrom(numpy_helper.from_array(same, tensor.name))


def _drop_data(tensor: TensorProto) -> None:
    array = numpy_helper.to_array(tensor)
    if dtype_name(tensor.data_type) in _STRIPPED_DTYPES and array.nbytes > _KEPT_BYTES:
        bare = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, raw_data=b"")
        tensor.CopyFrom(bare)


def _is_stripped(tensor: TensorProto) -> bool:
    return tensor.HasField("raw_data") and not tensor.raw_data and 0 not in tensor.dims


def _shorten(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Give tensors short names, the same for the same name in all graphs, and drop whatever else is text."""

    def short(name: str) -> str:
        # Quantisers append numbers to make new names: with a letter at the end these meet none of ours.
        return names.setdefault(name, f"{len(names)}t")

    graph.name = "g"
    for field in ("doc_string", "value_info", "quantization_annotation", "metadata_props"):
        graph.ClearField(field)
    for value in (*graph.input, *graph.output):
        value.ClearField("doc_string")
        value.name = short(value.name)
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        tensor.name = short(tensor.name)
    for node in graph.node:
        for field in ("name", "doc_string", "metadata_props"):
            node.ClearField(field)
        node.input[:] = map(short, node.input)
        node.output[:] = map(short, node.output)


def _step(node: onnx.NodeProto) -> Step:
    flags = {attribute.name: bool(attribute.i) for attribute in node.attribute}
    transposed = (flags.get("transA", False), flags.get("transB", False))
    return Step(node.op_type.lower(), tuple(node.input), tuple(node.output), transposed=transposed)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all subgraphs in it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _graphs(inner)


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[TensorProto, str]]:
    """Initialisers and Constant nodes of one graph, with the names by which nodes use them."""
    for tensor in graph.initializer:
        yield tensor, tensor.name
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            yield node.attribute[0].t, node.output[0]
