"""Taking in ONNX files: is it one, can it be measured, what precision does it have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from ...errors import InvalidInput
from ..model_file import read_model_file
from .hollow import with_weights_as_inputs
from .protobuf_fields import field_count
from .tensors import all_graphs, all_nodes, nested_nodes, tensor_problem

BATCH_NAMES = ("", "n", "b", "batch", "batch_size", "batchsize", "bs")
"""Names of a leading dimension that is taken as 1 unless a shape is given (an unnamed one too)."""

_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QGemm", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")

MAX_NODES = 50_000
MAX_FIELDS = 2_000_000
"""A third of a gigabyte beside the constants, and a second or two to count them."""
MAX_INPUT_ELEMENTS = 1 << 28

Shapes = Mapping[str, tuple[int, ...]]


def check_model(source: bytes | Path, *, name: str | None = None) -> onnx.ModelProto:
    """Parse and check a model; InvalidInput tells what is wrong with the file and what to do.

    Refused are files over 1 GiB, truncated or foreign files, files that take too much memory or have too many nodes,
    graphs that ONNX's checker rejects, functions that call themselves, constants whose data does not fit their shape,
    and models whose weights lie in other files.
    """
    data, label = read_model_file(source, name, "an ONNX exporter")
    model = onnx.ModelProto()
    if field_count(data, onnx.ModelProto, MAX_FIELDS) > MAX_FIELDS:
        raise InvalidInput(f"{label} would take more memory than a model may.", "Give a simpler model.")
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise InvalidInput(
            f"{label} is not an ONNX file, it is truncated, or its graphs are nested too deeply.",
            "Copy or export it again.",
        ) from None
    if not model.graph.node or not model.opset_import:
        raise InvalidInput(f"{label} holds no ONNX graph.", "Give a file written by an ONNX exporter.")
    if next(islice(all_nodes(model), MAX_NODES, None), None) is not None:
        raise InvalidInput(f"{label} has more than {MAX_NODES} nodes.", "Give a smaller model, or a part of it.")
    if not all(isinstance(text, str) for text in _texts(model)):
        raise InvalidInput(f"{label} has names that are no text (UTF-8).", "Export it again.")
    if (problem := tensor_problem(model)) is not None:
        remedy = "Save it as one file: onnx.save(onnx.load(FILE), NEW_FILE)."
        raise InvalidInput(f"{label}: {problem}.", remedy if "another file" in problem else "Export it again.")
    _refuse_recursion(model, label)
    try:
        onnx.checker.check_model(with_weights_as_inputs(model))
    except (onnx.checker.ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        if "No Op registered" not in reason and "opset_import" not in reason:
            raise InvalidInput(f"{label} is not a valid ONNX model: {reason}", "Export it again.") from error
        # Operators of another domain or a newer opset than the checker's are for the runtime to judge.
    return model


def fix_shapes(model: onnx.ModelProto, shapes: Shapes | None = None, *, name: str = "The model") -> onnx.ModelProto:
    """A copy in which every input has a size in every dimension.

    `shapes` gives whole shapes by input name. Without one, a leading dimension with a name such as batch or N
    is 1; any other open dimension raises InvalidInput naming the input, as do shapes that do not fit.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    inputs = graph_inputs(fixed)
    shapes = shapes or {}
    if unknown := sorted(set(shapes) - {value.name for value in inputs}):
        known = ", ".join(f"'{value.name}'" for value in inputs)
        raise InvalidInput(f"{name} has no input '{unknown[0]}'.", f"Its inputs are {known}.")
    sizes: dict[str, int] = {}
    for value in inputs:
        _fix_input(value, shapes.get(value.name), sizes, name)
    for value in (*fixed.graph.output, *fixed.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in sizes:
                dimension.dim_value = sizes[dimension.dim_param]
    return fixed


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs that a caller must feed: those without an initialiser."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def precision(model: onnx.ModelProto) -> str:
    """`int8` when any node quantises or works on quantised tensors (QDQ or QLinear form), else `fp32`."""
    quantised = any(node.op_type in _QUANTISED or node.op_type.startswith("QLinear") for node in model.graph.node)
    return "int8" if quantised else "fp32"


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Names that are looked at; where they are no UTF-8 they come as bytes."""
    for entry in model.opset_import:
        yield entry.domain
    for function in model.functions:
        yield from (function.domain, function.name)
    for graph in all_graphs(model):
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.name
            yield from (dimension.dim_param for dimension in value.type.tensor_type.shape.dim)
        for tensor in graph.initializer:
            yield tensor.name
    for node in all_nodes(model):
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name


def _refuse_recursion(model: onnx.ModelProto, label: str) -> None:
    calls = TopologicalSorter(
        {
            (function.domain, function.name): {(node.domain, node.op_type) for node in nested_nodes(function.node)}
            for function in model.functions
        }
    )
    try:
        calls.prepare()
    except CycleError as error:
        name = error.args[1][0][1]
        raise InvalidInput(f"{label}: the function '{name}' calls itself.", "Export it again.") from None


def _fix_input(value: onnx.ValueInfoProto, shape: tuple[int, ...] | None, sizes: dict[str, int], label: str) -> None:
    remedy = f"Give it, for example --shape {value.name}=1x3x224x224."
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise InvalidInput(f"Input '{value.name}' of {label} is no tensor.", "Give a model with tensors as inputs.")
    tensor = value.type.tensor_type
    dimensions = tensor.shape.dim
    if not tensor.HasField("shape"):
        if shape is None:
            raise InvalidInput(f"Input '{value.name}' of {label} has no shape.", remedy)
        tensor.shape.SetInParent()
        for _ in shape:
            dimensions.add()
    written = _written(tensor.shape)
    if shape is not None and (len(shape) != len(dimensions) or min(shape, default=1) < 1):
        raise _misfit(value.name, shape, written, label)
    for axis, dimension in enumerate(dimensions):
        name = dimension.dim_param
        given = shape[axis] if shape is not None else None
        size = _size(dimension, axis, given, sizes)
        if size is None:
            raise InvalidInput(f"Input '{value.name}' ({written}) of {label} has an open dimension.", remedy)
        if shape is not None and given != size:
            raise _misfit(value.name, shape, written, label)
        dimension.dim_value = size
        if name:
            sizes[name] = size
    if math.prod(dimension.dim_value for dimension in dimensions) > MAX_INPUT_ELEMENTS:
        raise InvalidInput(
            f"Input '{value.name}' ({written}) of {label} has more than {MAX_INPUT_ELEMENTS} elements.",
            "Give a model with a smaller input.",
        )


def _size(
    dimension: onnx.TensorShapeProto.Dimension, axis: int, given: int | None, sizes: Mapping[str, int]
) -> int | None:
    """What is already settled comes first, so that a given size that disagrees shows; None when nothing tells."""
    if dimension.HasField("dim_value") and dimension.dim_value > 0:
        return int(dimension.dim_value)
    name = dimension.dim_param
    if name in sizes:
        return sizes[name]
    if given is None and axis == 0 and name.lower() in BATCH_NAMES:
        return 1
    return given


def _written(shape: onnx.TensorShapeProto) -> str:
    return "x".join(dim.dim_param or (str(dim.dim_value) if dim.dim_value > 0 else "?") for dim in shape.dim)


def _misfit(input_name: str, shape: tuple[int, ...], written: str, label: str) -> InvalidInput:
    given = "x".join(map(str, shape))
    return InvalidInput(
        f"Shape {given} does not fit input '{input_name}' ({written}) of {label}.",
        "Give sizes that agree with the fixed dimensions and with each other.",
    )
