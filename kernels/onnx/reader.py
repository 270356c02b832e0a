"""Splitting an optimised ONNX graph into its kernels.

The file that ONNX Runtime writes of its optimised graph carries no shapes of the tensors between the nodes. So
the runtime is asked: `instrument` exposes every tensor as a graph output, the device runs that model once
without optimisation, and `split` takes the shapes that it saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np
import onnx

from ...errors import InvalidInput
from ..kernel import AttributeValue, ConstantValue, Kernel, KernelUse, TensorSpec
from .types import dtype_name, read_attribute, subgraphs, tensor_elements

Seen = tuple[tuple[int, ...], str] | tuple[tuple[int, ...], str, tuple[int, ...] | None]
"""Shape, dtype and, for small integer tensors, the elements that one run had."""

_VALUE_LIMIT = 64
_SHAPING_DTYPES = ("int32", "int64", "bool")
_FLOATS_THAT_SHAPE = {"Resize": (1, 2), "Upsample": (1,), "Pow": (1,), "Range": (0, 1, 2)}

_NO_VALUES = ("Conv", "Gemm", "MatMul", "DequantizeLinear", "Attention")
"""Integer constants of these are biases, whose values don't matter."""

_SHAPING_INPUTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Squeeze", "Unsqueeze", "Split", "TopK", "Trilu", "CumSum"), (1,)),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"), (1,)),
    **dict.fromkeys(("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "Compress"), (1,)),
    **dict.fromkeys(("If", "ConstantOfShape", "NonZero"), (0,)),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 3),
    "Resize": (3,),
    "Range": (0, 1, 2),
    "OneHot": (0, 1),
    "Loop": (0, 1),
}
"""Inputs whose values shape the work even when they are computed on the way."""


def instrument(optimised: bytes) -> bytes:
    """The same model with every tensor between its nodes as an extra graph output."""
    model = onnx.ModelProto.FromString(optimised)
    known = {output.name for output in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                known.add(name)
                model.graph.output.add().name = name
    return model.SerializeToString()


def split(optimised: bytes, shapes: Mapping[str, Seen]) -> list[KernelUse]:
    """Every node of an optimised model as a kernel, in topological order.

    `shapes` holds the graph's inputs and all tensors between nodes by name, as seen in a run of
    `instrument(optimised)`. Nodes with subgraphs (If, Loop, Scan) are one kernel each; a `Constant` node is an
    initialiser, as the runtime executes nothing for it. Raises InvalidInput when a tensor has no known shape.
    """
    model = onnx.ModelProto.FromString(optimised)
    reader = _Reader(model, shapes)
    return [reader.use(node) for node in model.graph.node if node.op_type != "Constant"]


class _Reader:
    def __init__(self, model: onnx.ModelProto, shapes: Mapping[str, Seen]) -> None:
        self._shapes = shapes
        self._opsets = {
            "" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import
        }
        fed = {value.name for value in model.graph.input}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in fed}
        self._overridable = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in fed}
        self._sparse = {tensor.values.name: tensor for tensor in model.graph.sparse_initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    self._constants[node.output[0]] = _constant(attribute)

    def use(self, node: onnx.NodeProto) -> KernelUse:
        domain = "" if node.domain == "ai.onnx" else node.domain
        has_subgraphs = bool(subgraphs(node))
        captured = _captured(node) if has_subgraphs else []
        attributes = _attributes(_anonymous(node, captured) if has_subgraphs else node)
        inputs = tuple(
            self._input(node.op_type, position, name) if name else None
            for position, name in enumerate((*_without_tail(node.input), *captured))
        )
        outputs = tuple(self._seen(name) if name else None for name in _without_tail(node.output))
        kernel = Kernel(
            domain=domain,
            op_type=node.op_type,
            attributes=attributes,
            inputs=inputs,
            outputs=outputs,
            opset=self._opset(node.op_type, domain, has_subgraphs=has_subgraphs),
        )
        return KernelUse(
            kernel,
            node.name,
            tuple(name for name in node.input if name),
            tuple(name for name in node.output if name),
        )

    def _input(self, op_type: str, position: int, name: str) -> TensorSpec:
        if (tensor := self._constants.get(name)) is not None:
            shape, dtype = tuple(tensor.dims), dtype_name(tensor.data_type)
            return TensorSpec(shape, dtype, constant=True, value=_shaping_constant(op_type, position, tensor))
        if (sparse := self._sparse.get(name)) is not None:
            return TensorSpec(tuple(sparse.dims), dtype_name(sparse.values.data_type), constant=True)
        if name not in self._shapes and (tensor := self._overridable.get(name)) is not None:
            return TensorSpec(tuple(tensor.dims), dtype_name(tensor.data_type))
        spec = self._seen(name)
        if position not in _SHAPING_INPUTS.get(op_type, ()):
            return spec
        seen = self._shapes[name]
        return TensorSpec(spec.shape, spec.dtype, value=seen[2] if len(seen) > 2 else None)

    def _seen(self, name: str) -> TensorSpec:
        seen = self._shapes.get(name)
        if seen is None:
            raise InvalidInput(
                f"The shape of the tensor '{name}' is not known.", "Run the instrumented model on the device first."
            )
        return TensorSpec(tuple(seen[0]), seen[1])

    def _opset(self, op_type: str, domain: str, *, has_subgraphs: bool) -> int:
        version = self._opsets.get(domain, 1)
        return version if has_subgraphs else _since(op_type, version, domain)  # nodes inside are read under it too


@cache
def _since(op_type: str, version: int, domain: str) -> int:
    try:
        return int(onnx.defs.get_schema(op_type, version, domain).since_version)
    except onnx.defs.SchemaError:
        return version


def _without_tail(names: Iterable[str]) -> list[str]:
    """Names without the empty ones at the end, which say nothing."""
    kept = list(names)
    while kept and not kept[-1]:
        kept.pop()
    return kept


def _shaping_constant(op_type: str, position: int, tensor: onnx.TensorProto) -> ConstantValue | None:
    count = 1
    for size in tensor.dims:
        count *= size
    if count > _VALUE_LIMIT:
        return None
    dtype = dtype_name(tensor.data_type)
    integer = dtype in _SHAPING_DTYPES and not any(part in op_type for part in _NO_VALUES)
    real = dtype in ("float32", "float64") and position in _FLOATS_THAT_SHAPE.get(op_type, ())
    return tensor_elements(tensor) if integer or real else None


def _constant(attribute: onnx.AttributeProto) -> onnx.TensorProto:
    """The tensor of a Constant node, whichever attribute holds it."""
    value = read_attribute(attribute) if not attribute.HasField("t") else None
    if attribute.HasField("t"):
        return attribute.t
    if attribute.HasField("sparse_tensor"):
        sparse = attribute.sparse_tensor
        return onnx.TensorProto(data_type=sparse.values.data_type, dims=sparse.dims)
    items = value if isinstance(value, tuple) else (value,)
    if isinstance(items[0], str):
        return onnx.TensorProto(data_type=onnx.TensorProto.STRING, dims=[len(items)] if items is value else [])
    return onnx.numpy_helper.from_array(np.array(value, np.float32 if isinstance(items[0], float) else np.int64))


def _captured(node: onnx.NodeProto) -> list[str]:
    """Outer tensors that the subgraphs of a node use, in order of first use."""
    found: dict[str, None] = {}
    for graph in subgraphs(node):
        _collect_captured(graph, frozenset(), found)
    return list(found)


def _collect_captured(graph: onnx.GraphProto, outer: frozenset[str], found: dict[str, None]) -> None:
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    known = outer | own
    for node in graph.node:
        found.update(dict.fromkeys(name for name in node.input if name and name not in known))
        for subgraph in subgraphs(node):
            _collect_captured(subgraph, known, found)
    found.update(dict.fromkeys(value.name for value in graph.output if value.name not in known))


def _anonymous(node: onnx.NodeProto, captured: list[str]) -> onnx.NodeProto:
    """A copy whose subgraphs know outer tensors by their numbers."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    names = {name: captured_name(index) for index, name in enumerate(captured)}
    for graph in subgraphs(copy):
        _rename(graph, names)
    return copy


def _attributes(node: onnx.NodeProto) -> tuple[tuple[str, AttributeValue], ...]:
    values = {attribute.name: read_attribute(attribute) for attribute in node.attribute}
    return tuple((name, value) for name, value in sorted(values.items()) if value is not None)


def captured_name(index: int) -> str:
    """Name under which the subgraphs of a kernel know the outer tensor number `index`."""
    return f"captured:{index}"


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.name = ""
        for subgraph in subgraphs(node):
            _rename(subgraph, names)
    for value in graph.output:
        value.name = names.get(value.name, value.name)
