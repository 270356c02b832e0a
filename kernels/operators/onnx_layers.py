"""ONNX operators with weights, windows or sums in TFLite's words: convolutions, products, pooling, normalisations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..kernel import AttributeValue, TensorSpec
from ..onnx.shapes import Known
from .tensors import (
    SCALAR,
    Graph,
    Inexpressible,
    Node,
    Operator,
    Tensor,
    channels_last,
    constant,
    integers,
    plain,
    vector,
)


def _convolution(graph: Graph, node: Node) -> Tensor:
    source, known = graph.tensor(node.inputs[0]), graph.shapes[node.inputs[1]]
    line = len(source.shape) == 3
    if not known.constant or len(source.shape) not in (3, 4):
        raise Inexpressible("over volumes" if known.constant else "with computed weights")
    if line:  # one row of pixels
        source = graph.reshaped(source, (*source.shape[:2], 1, source.shape[2]), f"{node.name}:row")
    source, around = graph.unpadded(graph.laid(source, channels_last(4)))
    groups, channels, count = node.get("group", 1), source.shape[1], known.shape[0]
    window = (1,) * line + known.shape[2:]
    shape = (node.made.shape[0], count, *(1,) * line, *node.made.shape[2:])
    made = Tensor(f"{node.name}:row" if line else node.name, shape, channels_last(4))
    attributes = _sliding(node, source, made, window, around)
    if groups > 1:
        attributes["group"] = groups
    depthwise = groups == channels > 1
    weights = (1, *window, count) if depthwise else (count, *window, channels // groups)
    constants = [TensorSpec(weights, "float32", constant=True), vector(count)]
    graph.emit("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [source, *constants], made, **attributes)
    return graph.reshaped(made, node.made.shape, node.name) if line else made


def _sliding(
    node: Node, source: Tensor, made: Tensor, window: tuple[int, ...], around: tuple[int, ...]
) -> dict[str, AttributeValue]:
    """Strides, dilations and padding; SAME or VALID where they say the same as ONNX's pads."""
    rank = len(node.made.shape) - 2
    strides = (1,) * (2 - rank) + tuple(node.get("strides") or (1,) * rank)
    dilations = (1,) * (2 - rank) + tuple(node.get("dilations") or (1,) * rank)
    given = node.get("pads") or (0,) * 2 * rank
    first, last = (0,) * (2 - rank) + tuple(given[:rank]), (0,) * (2 - rank) + tuple(given[rank:])
    before, after, same = [], [], True
    for axis, (stride, dilation, size) in enumerate(zip(strides, dilations, window, strict=True)):
        have, want = source.shape[2 + axis], made.shape[2 + axis]
        total = max((want - 1) * stride + (size - 1) * dilation + 1 - have, 0)
        head = first[axis] + around[axis]
        tail = last[axis] + around[2 + axis]
        if str(node.get("auto_pad", "NOTSET")).startswith("SAME"):
            head = total - total // 2 if node.get("auto_pad") == "SAME_LOWER" else total // 2
            tail = total - head
        if node.get("ceil_mode"):
            tail = total - head
        same = same and want == -(-have // stride) and (head, tail) == (total // 2, total - total // 2)
        before.append(head)
        after.append(tail)
    attributes: dict[str, AttributeValue] = {"strides": strides}
    if dilations != (1, 1):
        attributes["dilations"] = dilations
    padded = any((*before, *after))
    attributes["padding"] = "SAME" if padded and same else "VALID"
    if padded and not same:
        attributes["pads"] = (*before, *after)
    return attributes


def _transposed_convolution(graph: Graph, node: Node) -> Tensor:
    source, known = graph.picture(node.inputs[0]), graph.shapes[node.inputs[1]]
    if len(source.shape) != 4 or not known.constant or node.get("group", 1) != 1:
        raise Inexpressible("in groups, over volumes or with computed weights")
    made = node.result(channels_last(4))
    inner, outer, *window = known.shape
    weights = TensorSpec((outer, *window, inner), "float32", constant=True)
    padded = any(node.get("pads") or ())
    strides = tuple(node.get("strides") or (1, 1))
    attributes: dict[str, AttributeValue] = {"strides": strides, "padding": "SAME" if padded else "VALID"}
    return graph.emit("TRANSPOSE_CONV", [integers(made.spec.shape), weights, source, vector(outer)], made, **attributes)


def _pooling(op_type: str) -> Operator:
    def operator(graph: Graph, node: Node) -> Tensor:
        source, made = graph.picture(node.inputs[0]), node.result(channels_last(4))
        window = node.get("kernel_shape")
        if len(source.shape) != 4 or any(size != 1 for size in node.get("dilations") or ()) or len(node.outputs) > 1:
            raise Inexpressible("other than of pictures, dilated or with indices")
        attributes = _sliding(node, source, made, window, (0, 0, 0, 0))
        whole = all(size >= have for size, have in zip(window, source.shape[2:], strict=True))
        if op_type == "AVERAGE_POOL_2D" and whole and made.shape[2:] == (1, 1):
            return _reduced(graph, "MEAN", source, (2, 3), made)
        pads = attributes.pop("pads", None)
        if attributes["padding"] == "SAME" and node.get("count_include_pad"):  # TFLite's mean leaves the zeros out
            pads, attributes["padding"] = tuple(node.get("pads")), "VALID"
        if isinstance(pads, tuple):
            source = _padded(graph, source, node, [int(pad) for pad in pads], lowest=op_type == "MAX_POOL_2D")
        return graph.emit(op_type, [source], made, kernel_shape=tuple(window), **attributes)

    return operator


def _padded(graph: Graph, source: Tensor, node: Node, pads: list[int], *, lowest: bool) -> Tensor:
    """A picture with zeros (top, left, bottom, right) around it, or for a maximum the lowest number."""
    top, left, bottom, right = pads
    batch, channels, height, width = source.shape
    shape = (batch, channels, height + top + bottom, width + left + right)
    amounts = integers((0, 0, top, bottom, left, right, 0, 0), 4, 2)
    made = Tensor(f"{node.name}:padded", shape, source.order)
    return graph.emit("PADV2" if lowest else "PAD", [source, amounts, *[SCALAR] * lowest], made)


def _pad(graph: Graph, node: Node) -> Tensor:
    source = graph.tensor(node.inputs[0])
    rank = len(source.shape)
    given = node.given("pads", 1) or ()
    axes = [axis % rank for axis in node.given("axes", 3) or range(rank)]
    amounts = dict(zip(axes, zip(given[: len(axes)], given[len(axes) :], strict=True), strict=True))
    placed = [amounts.get(axis, (0, 0)) for axis in source.order]
    flat = integers((amount for pair in placed for amount in pair), rank, 2)
    if min(flat.value or (0,)) < 0:
        raise Inexpressible("that cuts")
    if not any(flat.value or ()):
        return source
    made, mode = node.result(source.order), node.get("mode", "constant")
    if mode == "reflect":
        return graph.emit("MIRROR_PAD", [source, flat], made)
    if mode != "constant":
        raise Inexpressible(mode)
    if any(node.given("value", 2) or ()):
        return graph.emit("PADV2", [source, flat, SCALAR], made)
    if source.order == channels_last(4) and placed[0] == placed[3] == (0, 0):
        (top, bottom), (left, right) = placed[1:3]
        graph.pad(source, made, (top, left, bottom, right))
    return graph.emit("PAD", [source, flat], made)


def _fully_connected(graph: Graph, node: Node) -> Tensor:
    """Gemm."""
    source, known = graph.plain(node.inputs[0]), graph.shapes[node.inputs[1]]
    if node.get("transA") or any(name in graph for name in node.inputs[1:]):
        raise Inexpressible("of several activations, or transposed")
    out, inner = known.shape if node.get("transB") else known.shape[::-1]
    weights = TensorSpec((out, inner), "float32", constant=True)
    biases = [vector(out)] * (len(node.inputs) > 2 and node.inputs[2] != "")
    return graph.emit("FULLY_CONNECTED", [source, weights, *biases], node.result(plain(2)))


def _matmul(graph: Graph, node: Node) -> Tensor:
    left, right = (graph.plain(name) if name in graph else graph.shapes[name] for name in node.inputs[:2])
    made = node.result(plain(len(node.made.shape)))
    if min(len(left.shape), len(right.shape)) < 2:
        raise Inexpressible("with a vector")
    if isinstance(left, Tensor) and isinstance(right, Known) and len(right.shape) == 2:
        weights = TensorSpec(right.shape[::-1], "float32", constant=True)
        kept = 1 if len(left.shape) > 2 else None
        return graph.emit("FULLY_CONNECTED", [left, weights], made, keep_num_dims=kept)
    operands = [
        side if isinstance(side, Tensor) else TensorSpec(side.shape, "float32", constant=True) for side in (left, right)
    ]
    return graph.emit("BATCH_MATMUL", operands, made)


def _batch_normalisation(graph: Graph, node: Node) -> Tensor:
    source = graph.tensor(node.inputs[0])
    scale = constant(_per_channel(source), source.order)
    made = node.result(source.order)
    return graph.emit("ADD", [graph.emit("MUL", [source, scale], made.part("scaled")), scale], made)


def _per_channel(source: Tensor) -> Known:
    return Known((source.shape[1], *(1,) * (len(source.shape) - 2)), "float32", constant=True)


def _instance_normalisation(graph: Graph, node: Node) -> Tensor:
    source = graph.tensor(node.inputs[0])
    scale = constant(_per_channel(source), source.order)
    return _normalised(graph, node, source, tuple(range(2, len(source.shape))), [scale, scale])


def _layer_normalisation(graph: Graph, node: Node) -> Tensor:
    source = graph.tensor(node.inputs[0])
    rank = len(source.shape)
    scales = [constant(graph.shapes[name], source.order) for name in node.inputs[1:3] if name]
    return _normalised(graph, node, source, tuple(range(node.get("axis", -1) % rank, rank)), scales)


def _normalised(graph: Graph, node: Node, source: Tensor, axes: tuple[int, ...], scales: list[TensorSpec]) -> Tensor:
    """x * r + (0 - mean * r) with r = 1 / sqrt(variance + epsilon), then scale and bias."""
    wide = node.result(source.order)
    small = Tensor(wide.name, tuple(1 if a in axes else size for a, size in enumerate(source.shape)), source.order)
    mean = _reduced(graph, "MEAN", source, axes, small.part("mean"))
    squares = graph.emit("SQUARED_DIFFERENCE", [source, mean], wide.part("squares"))
    variance = _reduced(graph, "MEAN", squares, axes, small.part("variance"))
    factor = graph.emit("ADD", [variance, SCALAR], small.part("positive"))
    factor = graph.emit("RSQRT", [factor], small.part("factor"))
    shift = graph.emit("MUL", [mean, factor], small.part("product"))
    shift = graph.emit("SUB", [SCALAR, shift], small.part("shift"))
    result = graph.emit("MUL", [source, factor], wide.part("scaled"))
    parts: list[tuple[str, Tensor | TensorSpec]] = [("ADD", shift), *zip(("MUL", "ADD"), scales, strict=False)]
    for number, (op_type, operand) in enumerate(parts, 1):
        made = wide if number == len(parts) else wide.part(f"{number}")
        result = graph.emit(op_type, [result, operand], made)
    return result


def _reduction(*op_types: str, axes: Callable[[int], Sequence[int]] | None = None) -> Operator:
    """Operators before the reduction, the reduction, operators after it; `axes` of the rank for global pooling."""

    def operator(graph: Graph, node: Node) -> Tensor:
        source = graph.tensor(node.inputs[0])
        rank = len(source.shape)
        along = tuple(axes(rank)) if axes else node.axes(1, rank) or plain(rank)
        kept = node.get("keepdims", 1)
        left = [axis for axis in range(rank) if kept or axis not in along]
        made = node.result(tuple(left.index(axis) for axis in source.order if axis in left))
        position = next(i for i, op_type in enumerate(op_types) if op_type in _REDUCTIONS)
        for number, op_type in enumerate(op_types[:position]):
            source = graph.emit(op_type, [source], Tensor(f"{node.name}:{number}", source.shape, source.order))
        behind = op_types[position + 1 :]
        result = _reduced(graph, op_types[position], source, along, made.part("sum") if behind else made)
        for number, op_type in enumerate(behind, 1):
            result = graph.emit(op_type, [result], made if number == len(behind) else made.part(f"after{number}"))
        return result

    return operator


_REDUCTIONS = frozenset({"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"})


def _reduced(graph: Graph, op_type: str, source: Tensor, axes: Sequence[int], made: Tensor) -> Tensor:
    places = tuple(sorted(source.place(axis) for axis in axes))
    kept = 1 if len(made.shape) == len(source.shape) else None
    return graph.emit(op_type, [source, integers(places)], made, axes=places, keep_num_dims=kept)


LAYERS: dict[str, Operator] = {
    "AveragePool": _pooling("AVERAGE_POOL_2D"),
    "BatchNormalization": _batch_normalisation,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _fully_connected,
    "GlobalAveragePool": _reduction("MEAN", axes=lambda rank: range(2, rank)),
    "GlobalMaxPool": _reduction("REDUCE_MAX", axes=lambda rank: range(2, rank)),
    "InstanceNormalization": _instance_normalisation,
    "LayerNormalization": _layer_normalisation,
    "MatMul": _matmul,
    "MaxPool": _pooling("MAX_POOL_2D"),
    "Pad": _pad,
    "ReduceL2": _reduction("SQUARE", "SUM", "SQRT"),
    "ReduceMax": _reduction("REDUCE_MAX"),
    "ReduceMean": _reduction("MEAN"),
    "ReduceMin": _reduction("REDUCE_MIN"),
    "ReduceProd": _reduction("REDUCE_PROD"),
    "ReduceSum": _reduction("SUM"),
}
"""Operators of ONNX's own domain by op_type."""
