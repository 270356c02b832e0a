"""ONNX operators in TFLite's words: the table that `onnx_graph` works through.

A function takes the `Graph` and a `Node`, appends TFLite's operators and returns what stands for the node's outputs.
Semantics are those of https://onnx.ai/onnx/operators/ for opsets 7 to 22 in float32 inference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..kernel import AttributeValue, TensorSpec
from .onnx_layers import LAYERS
from .tensors import (
    SCALAR,
    Graph,
    Inexpressible,
    Node,
    Operator,
    Order,
    Tensor,
    channels_last,
    constant,
    integers,
    plain,
    sequence,
)

_TURNED = frozenset({"ADD", "MUL", "MINIMUM", "MAXIMUM", "EQUAL", "LOGICAL_AND", "LOGICAL_OR"})
"""Operators of two inputs whose order does not matter: the constant comes second."""

_CLIPS: dict[tuple[float, float], str] = {
    (0, 6): "RELU6",
    (0, math.inf): "RELU",
    (-1, 1): "RELU_N1_TO_1",
    (0, 1): "RELU_0_TO_1",
}
_ENDLESS = 1e30
"""Exporters write the largest float where there is no bound."""


def _elementwise(op_type: str) -> Operator:
    def operator(graph: Graph, node: Node) -> Tensor:
        return _together(graph, op_type, node, node.inputs)

    return operator


def _together(
    graph: Graph, op_type: str, node: Node, names: Sequence[str], **attributes: AttributeValue | None
) -> Tensor:
    """An operator on activations that are broadcast to each other, in the order of the largest."""
    order = _common(graph, node)
    operands = [graph.operand(name, order) for name in names]
    if op_type in _TURNED:
        operands.sort(key=lambda operand: isinstance(operand, TensorSpec))
    return graph.emit(op_type, operands, node.result(order), **attributes)


def _common(graph: Graph, node: Node) -> Order:
    rank = len(node.made.shape)
    wide = [graph.tensor(name) for name in node.inputs if name in graph and len(graph.tensor(name).shape) == rank]
    return max(wide, key=lambda tensor: tensor.spec.size).order if wide else plain(rank)


def _several(op_type: str) -> Operator:
    """An operator on any number of inputs, as TFLite's of two."""

    def operator(graph: Graph, node: Node) -> Tensor:
        order, made = _common(graph, node), node.result(_common(graph, node))
        first, *others = sorted(
            (graph.operand(name, order) for name in node.inputs), key=lambda operand: isinstance(operand, TensorSpec)
        )
        assert isinstance(first, Tensor)
        for number, other in enumerate(others, 1):
            first = graph.emit(op_type, [first, other], made if number == len(others) else made.part(f"{number}"))
        return first

    return operator


def _div(graph: Graph, node: Node) -> Tensor:
    """Dividing by a constant is multiplying by its reciprocal."""
    return _together(graph, "DIV" if node.inputs[1] in graph else "MUL", node, node.inputs)


def _pow(graph: Graph, node: Node) -> Tensor:
    exponent = () if node.inputs[1] in graph else node.given("exponent", 1) or ()
    known = {(2,): "SQUARE", (0.5,): "SQRT", (-0.5,): "RSQRT"}.get(exponent)
    return _together(graph, known or "POW", node, node.inputs[: 1 if known else 2])


def _leaky(graph: Graph, node: Node) -> Tensor:
    return _together(graph, "LEAKY_RELU", node, node.inputs, alpha=node.get("alpha", 0.01))


def _reciprocal(graph: Graph, node: Node) -> Tensor:
    source = graph.tensor(node.inputs[0])
    return graph.emit("DIV", [SCALAR, source], node.result(source.order))


def _chain(*op_types: str) -> Operator:
    """Operators one after the other on one activation; those of two inputs take a number as well."""

    def operator(graph: Graph, node: Node) -> Tensor:
        return _chained(graph, node, op_types)

    return operator


def _chained(graph: Graph, node: Node, op_types: Sequence[str]) -> Tensor:
    tensor = graph.tensor(node.inputs[0])
    made = node.result(tensor.order)
    for number, op_type in enumerate(op_types, 1):
        numbers = [SCALAR] * (op_type in _TURNED)
        tensor = graph.emit(op_type, [tensor, *numbers], made if number == len(op_types) else made.part(f"{number}"))
    return tensor


def _clip(graph: Graph, node: Node) -> Tensor:
    low, high = (node.given("min", 1) or (-math.inf,))[0], (node.given("max", 2) or (math.inf,))[0]
    low, high = (-math.inf if low < -_ENDLESS else low), (math.inf if high > _ENDLESS else high)
    bounds = [op_type for op_type, bound in (("MAXIMUM", low), ("MINIMUM", high)) if math.isfinite(bound)]
    named = _CLIPS.get((low, high))
    return _chained(graph, node, [named] if named else bounds)


def _same(graph: Graph, node: Node) -> Tensor:
    return graph.tensor(node.inputs[0])


def _cast(graph: Graph, node: Node) -> Tensor:
    source = graph.tensor(node.inputs[0])
    return source if source.dtype == node.made.dtype else graph.emit("CAST", [source], node.result(source.order))


def _prelu(graph: Graph, node: Node) -> Tensor:
    source = graph.tensor(node.inputs[0])
    if node.inputs[1] in graph:
        raise Inexpressible("with a computed slope")
    return graph.emit(
        "PRELU", [source, constant(graph.shapes[node.inputs[1]], source.order)], node.result(source.order)
    )


def _softmax(op_type: str, **attributes: AttributeValue) -> Operator:
    def operator(graph: Graph, node: Node) -> Tensor:
        source = graph.tensor(node.inputs[0])
        rank = len(source.shape)
        axis = node.get("axis", -1) % rank
        if (sequence(source.order, source.shape) or (axis,))[-1] != axis and source.shape[axis] > 1:
            source = graph.laid(source, (*(other for other in range(rank) if other != axis), axis))
        return graph.emit(op_type, [source], node.result(source.order), **attributes)

    return operator


def _concatenation(graph: Graph, node: Node) -> Tensor:
    first = next(graph.tensor(name) for name in node.inputs if name in graph)
    made = node.result(first.order)
    operands: list[Tensor | TensorSpec] = []
    for name in node.inputs:
        if name in graph:
            operands.append(graph.laid(graph.tensor(name), first.order))
        else:
            known = graph.shapes[name]
            sizes = tuple(known.shape[axis] for axis in first.order)
            operands.append(TensorSpec(sizes, known.dtype, constant=True))
    if len(operands) == 1:
        return first
    return graph.emit("CONCATENATION", operands, made, axis=made.place(node.get("axis")))


def _split(graph: Graph, node: Node) -> Sequence[Tensor]:
    source = graph.tensor(node.inputs[0])
    axis = node.get("axis", 0) % len(source.shape)
    if len(node.outputs) == 1:
        return [source]
    made = [node.result(source.order, number) for number in range(len(node.outputs))]
    sizes = {tensor.shape[axis] for tensor in made}
    graph.emit("SPLIT" if len(sizes) == 1 else "SPLIT_V", [source], made, axis=source.place(axis))
    return made


def _slice(graph: Graph, node: Node) -> Tensor:
    source, made = graph.tensor(node.inputs[0]), node.made
    rank = len(source.shape)
    starts = node.given("starts", 1) or ()
    axes = [axis % rank for axis in node.given("axes", 3) or range(len(starts))]
    steps = dict(zip(axes, node.given("steps", 4) or (1,) * len(axes), strict=True))
    if made.shape == source.shape and min(steps.values()) > 0:
        return source
    begin = {axis: max(0, start + source.shape[axis] * (start < 0)) for axis, start in zip(axes, starts, strict=True)}
    first = integers(min(begin.get(axis, 0), source.shape[axis]) for axis in source.order)
    result = node.result(source.order)
    if set(steps.values()) == {1}:
        return graph.emit("SLICE", [source, first, integers(result.spec.shape)], result)
    by = [steps.get(axis, 1) for axis in source.order]
    last = integers(
        start + step * size for start, step, size in zip(first.value or (), by, result.spec.shape, strict=True)
    )
    return graph.emit("STRIDED_SLICE", [source, first, last, integers(by)], result)


def _gather(graph: Graph, node: Node) -> Tensor:
    """One index is a SLICE; rows of a constant table are TFLite's GATHER too."""
    axis, indices = node.get("axis", 0), graph.shapes[node.inputs[1]]
    if node.inputs[0] not in graph:
        table = graph.shapes[node.inputs[0]]
        spec = TensorSpec(table.shape, table.dtype, constant=True)
        made = node.result(plain(len(node.made.shape)))
        return graph.emit("GATHER", [spec, graph.plain(node.inputs[1])], made, axis=axis % len(table.shape))
    source = graph.tensor(node.inputs[0])
    axis %= len(source.shape)
    if node.inputs[1] in graph:
        raise Inexpressible("by computed indices")
    if indices.shape or indices.value is None:
        source = graph.plain(node.inputs[0])
        spec = TensorSpec(indices.shape, "int32", constant=True)
        return graph.emit("GATHER", [source, spec], node.result(plain(len(node.made.shape))), axis=axis)
    index = int(indices.value) % source.shape[axis]
    shape = tuple(1 if other == axis else size for other, size in enumerate(source.shape))
    cut = Tensor(f"{node.name}:cut", shape, source.order, source.dtype)
    if shape != source.shape:
        begin = integers(index if other == axis else 0 for other in source.order)
        cut = graph.emit("SLICE", [source, begin, integers(cut.spec.shape)], cut)
    else:
        cut = source
    return graph.reshaped(cut, node.made.shape, node.name)


def _reshape(graph: Graph, node: Node) -> Tensor:
    return graph.reshaped(graph.tensor(node.inputs[0]), node.made.shape, node.name)


def _transposition(graph: Graph, node: Node) -> Tensor:
    """A TRANSPOSE that keeps the order, unless the result lies plain or with the channels last as it is."""
    source = graph.tensor(node.inputs[0])
    rank = len(source.shape)
    perm = tuple(node.get("perm") or reversed(range(rank)))
    found = Tensor(source.name, node.made.shape, tuple(map(perm.index, source.order)), source.dtype)
    for usual in (plain(rank), channels_last(rank)):
        if sequence(found.order, found.shape) == sequence(usual, found.shape):
            return found
    return graph.laid(found, source.order)


def _expand(graph: Graph, node: Node) -> Tensor:
    source = graph.tensor(node.inputs[0])
    shape = node.made.shape
    wide = (1,) * (len(shape) - len(source.shape)) + source.shape
    if wide != source.shape:
        source = graph.reshaped(source, wide, f"{node.name}:wide")
    if wide == shape:
        return source
    made = node.result(source.order)
    return graph.emit("BROADCAST_TO", [source, integers(made.spec.shape)], made)


def _tile(graph: Graph, node: Node) -> Tensor:
    source = graph.tensor(node.inputs[0])
    repeats = node.given("repeats", 1) or ()
    if set(repeats) == {1}:
        return source
    return graph.emit("TILE", [source, integers(repeats[axis] for axis in source.order)], node.result(source.order))


def _resize(graph: Graph, node: Node) -> Tensor:
    source, made = graph.picture(node.inputs[0]), node.result(channels_last(4))
    mode = node.get("mode", "nearest")
    op_type = {"nearest": "RESIZE_NEAREST_NEIGHBOR", "linear": "RESIZE_BILINEAR"}.get(mode)
    if op_type is None or len(source.shape) != 4 or source.shape[:2] != made.shape[:2]:
        raise Inexpressible(mode if op_type is None else "of more than height and width")
    if source.shape == made.shape:
        return source
    where = node.get("coordinate_transformation_mode", "")
    options = {"align_corners": 1} if where == "align_corners" else {"half_pixel_centers": 1} if "half" in where else {}
    return graph.emit(op_type, [source, integers(made.shape[2:])], made, **options)


def _blocks(op_type: str) -> Operator:
    def operator(graph: Graph, node: Node) -> Tensor:
        made = node.result(channels_last(4))
        return graph.emit(op_type, [graph.picture(node.inputs[0])], made, block_size=node.get("blocksize"))

    return operator


def _response_normalisation(graph: Graph, node: Node) -> Tensor:
    source = graph.picture(node.inputs[0])
    return graph.emit("LOCAL_RESPONSE_NORMALIZATION", [source], node.result(source.order), radius=node.get("size") // 2)


def _arg(op_type: str) -> Operator:
    def operator(graph: Graph, node: Node) -> Tensor:
        source = graph.plain(node.inputs[0])
        axis = node.get("axis", 0) % len(source.shape)
        return graph.emit(op_type, [source, integers([axis], 1)], node.result(plain(len(node.made.shape))), axis=axis)

    return operator


_ALIKE = {
    "Abs": "ABS", "Add": "ADD", "And": "LOGICAL_AND", "Ceil": "CEIL", "Cos": "COS", "Elu": "ELU", "Equal": "EQUAL",
    "Erf": "ERF", "Exp": "EXP", "Floor": "FLOOR", "Gelu": "GELU", "Greater": "GREATER",
    "GreaterOrEqual": "GREATER_EQUAL", "HardSwish": "HARD_SWISH", "Less": "LESS",
    "LessOrEqual": "LESS_EQUAL", "Log": "LOG", "Mod": "FLOOR_MOD", "Mul": "MUL",
    "Neg": "NEG", "Not": "LOGICAL_NOT", "Or": "LOGICAL_OR", "Relu": "RELU", "Round": "ROUND", "Sigmoid": "LOGISTIC",
    "Sign": "SIGN", "Sin": "SIN", "Sqrt": "SQRT", "Sub": "SUB", "Tanh": "TANH", "Where": "SELECT_V2",
}  # fmt: skip

OPERATORS: dict[str, Operator] = {
    **LAYERS,
    **{name: _elementwise(op_type) for name, op_type in _ALIKE.items()},
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("Identity", "Dropout"), _same),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "ArgMax": _arg("ARG_MAX"),
    "ArgMin": _arg("ARG_MIN"),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concatenation,
    "DepthToSpace": _blocks("DEPTH_TO_SPACE"),
    "Div": _div,
    "Expand": _expand,
    "Gather": _gather,
    "HardSigmoid": _chain("ADD", "RELU6", "MUL"),
    "LeakyRelu": _leaky,
    "LRN": _response_normalisation,
    "LogSoftmax": _softmax("LOG_SOFTMAX"),
    "Max": _several("MAXIMUM"),
    "Min": _several("MINIMUM"),
    "PRelu": _prelu,
    "Pow": _pow,
    "Reciprocal": _reciprocal,
    "Slice": _slice,
    "Softmax": _softmax("SOFTMAX", beta=1.0),
    "Softplus": _chain("EXP", "ADD", "LOG"),
    "SpaceToDepth": _blocks("SPACE_TO_DEPTH"),
    "Split": _split,
    "Sum": _several("ADD"),
    "Tile": _tile,
    "Transpose": _transposition,
}
"""Operators of ONNX's own domain by op_type."""
