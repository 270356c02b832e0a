"""ONNX networks in float32 as TFLite's operators, not fused yet: what a converter would make of them for a phone.

ONNX has pictures with the channels first, TFLite with the channels last. So every activation has an order in memory,
which its maker chooses and its readers ask for. What changes nothing in memory costs nothing: the transpositions of a
network that turns pictures to channels last for a normalisation go, and a channel shuffle has one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import onnx
from google.protobuf.message import DecodeError
from onnx import helper, inliner

from ...errors import InvalidInput
from ..kernel import TFLITE_DOMAIN, Kernel, KernelUse
from ..onnx.file import fix_shapes, graph_inputs
from ..onnx.hollow import hollow_model
from ..onnx.shapes import OnnxShapes
from ..onnx.tensors import all_graphs, nested_nodes
from ..onnx.types import read_attribute
from .onnx_ops import OPERATORS
from .tensors import Graph, Inexpressible, Node, Tensor, ordered_as_pictures, plain

_DOMAINS = ("", "ai.onnx")


def read_onnx(model: bytes, name: str) -> list[KernelUse]:
    """The operators of a network in order, nothing fused yet (see `fusion`); batch normalisations are MUL and ADD.

    The model is an ONNX file (`check_model`), one without its weights (`onnx_hollow`) or a skeleton, with fixed shapes
    but for the batch; `name` is for messages. Raises InvalidInput, listing all operators that TFLite cannot express.
    """
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError:
        raise InvalidInput(f"{name} is not an ONNX file.", "Export it again.") from None
    proto = fix_shapes(hollow_model(proto, "weights"), name=name)
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    _refuse(name, {_operator(node): "" for node in proto.graph.node if node.domain not in _DOMAINS})
    shapes = OnnxShapes(proto)
    ends = [value.name for value in proto.graph.output]
    reads = [name for node in nested_nodes(proto.graph.node) for name in node.input]
    graph = Graph(shapes, Counter([*(value.name for each in all_graphs(proto) for value in each.output), *reads]))
    for value in graph_inputs(proto):
        graph.bind(value.name, _input(value.name, proto.graph, shapes))
    refused: dict[str, str] = {}
    for node in _executed(proto.graph.node, shapes):
        if shapes.take(node):
            continue
        try:
            _read(graph, node)
        except Inexpressible as reason:
            refused[_operator(node)] = str(reason)
            for output in filter(None, node.output):
                known = shapes[output]
                graph.bind(output, Tensor(output, known.shape, ordered_as_pictures(len(known.shape)), known.dtype))
    outputs = {graph.tensor(end).name for end in ends if end in graph}
    uses = _with_gelus(graph.uses)
    if any(use.kernel.op_type == "ERF" for use in uses):
        refused["Erf"] = "other than in a GELU"
    _refuse(name, refused)
    return _needed(uses, outputs)


def _executed(nodes: Iterable[onnx.NodeProto], shapes: OnnxShapes) -> Iterator[onnx.NodeProto]:
    """The nodes in order; an If whose condition is known by then is the nodes of its branch."""
    for node in nodes:
        condition = shapes[node.input[0]].value if node.op_type == "If" and node.input[0] in shapes else None
        if condition is None:
            yield node
            continue
        taken = "then_branch" if condition.all() else "else_branch"
        (branch,) = (attribute.g for attribute in node.attribute if attribute.name == taken)
        shapes.add(branch.initializer)
        yield from _executed(branch.node, shapes)
        for inner, outer in zip(branch.output, node.output, strict=True):
            yield helper.make_node("Identity", [inner.name], [outer])


def _read(graph: Graph, proto: onnx.NodeProto) -> None:
    operator = OPERATORS.get(proto.op_type)
    if operator is None:
        raise Inexpressible
    attributes = {attribute.name: read_attribute(attribute) for attribute in proto.attribute}
    made = operator(graph, Node(proto.op_type, tuple(proto.input), tuple(proto.output), attributes, graph.shapes))
    for output, tensor in zip(proto.output, [made] if isinstance(made, Tensor) else made, strict=False):
        graph.bind(output, tensor)


def _input(name: str, graph: onnx.GraphProto, shapes: OnnxShapes) -> Tensor:
    """A picture, channels last in memory whichever axis the file has them on."""
    known = shapes[name]
    readers = [node for node in graph.node if name in node.input]
    turned = bool(readers) and all(_turns(node) for node in readers)
    order = plain(len(known.shape)) if turned else ordered_as_pictures(len(known.shape))
    return Tensor(name, known.shape, order, known.dtype)


def _turns(node: onnx.NodeProto) -> bool:
    """Whether a node turns pictures from channels last to channels first, as files from TensorFlow begin."""
    perms = [attribute.ints for attribute in node.attribute if attribute.name == "perm"]
    return node.op_type == "Transpose" and [[*perm] for perm in perms] == [[0, 3, 1, 2]]


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in _DOMAINS else f"{node.domain}.{node.op_type}"


def _refuse(name: str, refused: dict[str, str]) -> None:
    if refused:
        listed = ", ".join(f"{op} ({why})" if why else op for op, why in sorted(refused.items()))
        raise InvalidInput(
            f"{name} has operators that TFLite does not have: {listed}.", "Export a float32 network without them."
        )


def _needed(uses: Sequence[KernelUse], outputs: set[str]) -> list[KernelUse]:
    """The operators without those whose results nothing reads."""
    wanted, kept = set(outputs), []
    for use in reversed(uses):
        if wanted.intersection(use.outputs):
            kept.append(use)
            wanted.update(use.inputs)
    return kept[::-1]


def _with_gelus(uses: Sequence[KernelUse]) -> list[KernelUse]:
    """The operators with x * (1 + erf(x / c)) / 2 as one GELU, in any order of the factors; the rest is left over."""
    makers = {name: use for use in uses for name in use.outputs}
    times = Counter(name for use in uses for name in use.inputs)
    readers = {name: use for use in uses for name in use.inputs if times[name] == 1}
    gelus: dict[str, KernelUse] = {}
    gone = set[str]()
    for use in uses:
        scaled = makers.get(use.inputs[0]) if use.kernel.op_type == "ERF" else None
        if scaled is None or scaled.kernel.op_type != "MUL":
            continue
        source, last = scaled.inputs[0], readers.get(use.outputs[0])  # 1 + erf
        factors = set[str]()
        while last is not None and factors != {source, ""}:
            before, last = last, readers.get(last.outputs[0])
            if last is None or last.kernel.op_type != "MUL":
                break
            (other,) = {*last.inputs} - {*before.outputs} or {""}  # by a constant
            halved = makers.get(other)
            factors |= {source, ""} if halved is not None and halved.inputs == (source,) else {other}
        if last is not None and factors == {source, ""}:
            kernel = Kernel(TFLITE_DOMAIN, "GELU", (), scaled.kernel.inputs[:1], last.kernel.outputs, 1)
            gelus[last.outputs[0]] = replace(last, kernel=kernel, inputs=(source,))
            gone.add(use.name)
    return [gelus.get(use.outputs[0], use) for use in uses if use.name not in gone]
