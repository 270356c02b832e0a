"""One-node ONNX models from the description of a kernel alone."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...errors import InvalidInput
from ..kernel import GraphValue, Kernel, TensorSpec
from .reader import captured_name
from .types import element_type, numpy_dtype, write_attribute
from .values import activation_value, constant_value

_IR_VERSION = 10
_USUAL_OPSET = 13
_MAX_DEFAULT_ELEMENTS = 1 << 20


def one_kernel_model(kernel: Kernel, seed: int = 0) -> bytes:
    """A model that, loaded with optimisation disabled, executes this kernel and nothing else.

    Constants become initialisers with random values that are realistic for speed: no denormals, int8 weights
    within +-63, scales that keep outputs in range, legal zero points. Other inputs are graph inputs `i0`, `i1`,
    ...; integer and boolean ones come with a legal default, so that only floats and 8-bit tensors must be fed.
    Raises InvalidInput for a kernel on sequences, maps or strings, or with a subgraph too large to travel in
    its description.
    """
    rng = np.random.default_rng(seed)
    captured = _captured_count(kernel)
    explicit = len(kernel.inputs) - captured
    names = [f"i{position}" if position < explicit else captured_name(position - explicit)
             for position in range(len(kernel.inputs))]  # fmt: skip
    inputs: list[onnx.ValueInfoProto] = []
    constants: list[TensorProto] = []
    for position, (name, spec) in enumerate(zip(names, kernel.inputs, strict=True)):
        if spec is None:
            names[position] = ""
            continue
        number = element_type(spec.dtype)
        if number is None or spec.dtype == "str":
            raise InvalidInput(
                f"A model of {kernel.kind} alone cannot be built: input {position} is a {spec.dtype}.",
                "It is predicted from its bytes instead.",
            )
        if spec.constant:
            constants.append(_tensor(constant_value(kernel, position, spec, rng), spec, name))
            continue
        inputs.append(helper.make_tensor_value_info(name, number, spec.shape))
        if spec.dtype in ("int32", "int64", "bool") and spec.size <= _MAX_DEFAULT_ELEMENTS:
            constants.append(_tensor(activation_value(kernel, position, spec, rng), spec, name))
    outputs = [_output(f"o{position}", spec) for position, spec in enumerate(kernel.outputs) if spec is not None]
    node = helper.make_node(
        kernel.op_type,
        names[:explicit],
        [f"o{position}" if spec is not None else "" for position, spec in enumerate(kernel.outputs)],
        domain=kernel.domain,
    )
    node.attribute.extend(_attributes(kernel))
    graph = helper.make_graph([node], "kernel", inputs, outputs, constants)
    opsets = {"": _USUAL_OPSET, kernel.domain: _opset(kernel)}
    if captured or any(isinstance(value, GraphValue) for _, value in kernel.attributes):
        opsets |= {"com.microsoft": 1, "com.microsoft.nchwc": 1}
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION).SerializeToString()


def _attributes(kernel: Kernel) -> list[onnx.AttributeProto]:
    attributes = []
    for name, value in kernel.attributes:
        attribute = write_attribute(name, value)
        if attribute is None:
            raise InvalidInput(
                f"A model of {kernel.kind} alone cannot be built: its '{name}' is too large to keep.",
                "It is predicted from its bytes instead.",
            )
        attributes.append(attribute)
    return attributes


def _captured_count(kernel: Kernel) -> int:
    """How many of the inputs, at the end, are outer tensors of the kernel's subgraphs."""
    named = {
        name
        for attribute in (write_attribute(*item) for item in kernel.attributes if isinstance(item[1], GraphValue))
        if attribute is not None
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
        for name in _captured_names(graph)
    }
    return len(named)


def _captured_names(graph: onnx.GraphProto) -> set[str]:
    found = {value.name for value in graph.output}
    for node in graph.node:
        found.update(node.input)
        for attribute in node.attribute:
            for subgraph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                found |= _captured_names(subgraph)
    prefix = captured_name(0)[:-1]
    return {name for name in found if name.startswith(prefix)}


def _tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], spec: TensorSpec, name: str) -> TensorProto:
    return numpy_helper.from_array(array.astype(numpy_dtype(spec.dtype)).reshape(spec.shape), name)


def _output(name: str, spec: TensorSpec) -> onnx.ValueInfoProto:
    number = element_type(spec.dtype)
    if number is None:
        return onnx.ValueInfoProto(name=name)  # a sequence or map: the runtime infers which
    return helper.make_tensor_value_info(name, number, spec.shape)


def _opset(kernel: Kernel) -> int:
    """A version of the domain under which the operator has this form and which the runtime supports.

    Operators last changed in opset 1 or 6 are asked for under 13: runtimes promise support from 7 on only.
    """
    if kernel.domain or kernel.opset >= _USUAL_OPSET:
        return kernel.opset
    try:
        usual = onnx.defs.get_schema(kernel.op_type, _USUAL_OPSET, kernel.domain).since_version
    except onnx.defs.SchemaError:
        return kernel.opset
    return _USUAL_OPSET if usual == kernel.opset else kernel.opset
