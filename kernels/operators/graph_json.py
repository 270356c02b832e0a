"""Networks written as lists of operators (the `graph` of nn-Meter's benchmark data), read into TFLite's operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import InvalidInput
from ..kernel import TFLITE_DOMAIN, AttributeValue, Kernel, KernelUse, TensorSpec

MAX_NODES = 10_000
MAX_SIZE = 1 << 31
"""Elements of one tensor."""

Shape = tuple[int, ...]


def read_graph(entries: Sequence[Mapping[str, Any]]) -> list[KernelUse]:
    """The operators of a network in order, nothing fused yet (see `fusion`); batch normalisations are MUL and ADD.

    An entry has `op`, `inp` (numbers of the entries that it reads), `out` (shape, channels last) and, where the
    operator has them, `ks` (window), `stride` and `pad` (SAME or VALID). Raises InvalidInput, listing all operators
    that are unknown, or naming the first entry that does not fit.
    """
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_NODES:
        raise InvalidInput("The graph is not a list of operators.", f"Give 1 to {MAX_NODES} entries.")
    unknown = sorted({str(_field(entry, "op")) for entry in entries} - set(_OPERATORS))
    if unknown:
        raise InvalidInput(
            f"The graph has unknown operators: {', '.join(unknown)}.", f"Known are {', '.join(sorted(_OPERATORS))}."
        )
    reader = _Reader()
    for number, entry in enumerate(entries):
        try:
            reader.add(number, entry)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise InvalidInput(
                f"Entry {number} of the graph ({entry['op']}) does not fit: {error}.",
                "An entry is like {'op': 'conv', 'inp': [0], 'out': [1, 112, 112, 32], 'ks': 3, 'stride': 2}.",
            ) from error
    if not reader.uses:
        raise InvalidInput("The graph has inputs only.", "Give the operators that read them.")
    return reader.uses


def _field(entry: object, name: str) -> Any:
    return entry.get(name) if isinstance(entry, dict) else None


class _Reader:
    def __init__(self) -> None:
        self.uses: list[KernelUse] = []
        self._shapes: dict[str, Shape] = {}
        self._splits: dict[str, int] = {}

    def add(self, number: int, entry: Mapping[str, Any]) -> None:
        """Append what one entry stands for; its output is called by its number."""
        inputs = [str(int(source)) for source in entry["inp"]]
        if missing := [source for source in inputs if source not in self._shapes]:
            raise ValueError(f"entry {missing[0]} comes later, or not at all")
        shape = _shape(entry["out"])
        _OPERATORS[entry["op"]](_Node(self, str(number), inputs, shape, entry))
        self._shapes[str(number)] = shape

    def source(self, name: str) -> TensorSpec:
        """An activation."""
        return TensorSpec(self._shapes[name], "float32")

    def emit(
        self,
        op_type: str,
        name: str,
        inputs: Sequence[str],
        shape: Shape,
        constants: Sequence[TensorSpec] = (),
        **attributes: AttributeValue,
    ) -> None:
        """One operator: activations first, then constants."""
        self._shapes[name] = shape
        kernel = Kernel(
            TFLITE_DOMAIN,
            op_type,
            tuple(sorted(attributes.items())),
            (*map(self.source, inputs), *constants),
            (TensorSpec(shape, "float32"),),
            1,
        )
        self.uses.append(KernelUse(kernel, name, tuple(inputs), (name,)))

    def split(self, name: str, source: str, shape: Shape) -> None:
        """Outputs of one SPLIT come as entries of their own."""
        position = self._splits.get(source)
        if position is None:
            self._splits[source] = len(self.uses)
            self.emit("SPLIT", name, [source], shape, axis=len(shape) - 1)
            return
        known = self.uses[position]
        outputs = (*known.kernel.outputs, TensorSpec(shape, "float32"))
        kernel = Kernel(TFLITE_DOMAIN, "SPLIT", known.kernel.attributes, known.kernel.inputs, outputs, 1)
        self.uses[position] = KernelUse(kernel, known.name, known.inputs, (*known.outputs, name))


@dataclass(frozen=True)
class _Node:
    """An entry as its operator's function gets it."""

    reader: _Reader
    name: str
    inputs: list[str]
    shape: Shape
    entry: Mapping[str, Any]


Operator = Callable[[_Node], None]


def _input(node: _Node) -> None:
    if node.inputs:
        raise ValueError("an input reads nothing")


def _convolution(node: _Node) -> None:
    (source,) = node.inputs
    window, stride, groups = _size(node.entry["ks"]), _size(node.entry["stride"]), _size(node.entry.get("groups", 1))
    channels, out = _picture(node.reader.source(source).shape)[3], _picture(node.shape)[3]
    if channels % groups or out % groups:
        raise ValueError(f"{groups} groups do not divide {channels} and {out} channels")
    weights = TensorSpec((out, window, window, channels // groups), "float32", constant=True)
    attributes: dict[str, AttributeValue] = {"strides": (stride, stride), "padding": _padding(node.entry)}
    if groups > 1:
        attributes["group"] = groups
    node.reader.emit("CONV_2D", node.name, node.inputs, node.shape, [weights, _vector(out)], **attributes)


def _depthwise(node: _Node) -> None:
    (source,) = node.inputs
    window, stride = _size(node.entry["ks"]), _size(node.entry["stride"])
    channels, out = _picture(node.reader.source(source).shape)[3], _picture(node.shape)[3]
    weights = TensorSpec((1, window, window, out), "float32", constant=True)
    node.reader.emit(
        "DEPTHWISE_CONV_2D",
        node.name,
        node.inputs,
        node.shape,
        [weights, _vector(out)],
        strides=(stride, stride),
        padding=_padding(node.entry),
        group=channels,
    )


def _linear(node: _Node) -> None:
    (source,) = node.inputs
    rows = 1
    for size in node.shape[:-1]:
        rows *= size
    weights = TensorSpec((node.shape[-1], node.reader.source(source).size // rows), "float32", constant=True)
    node.reader.emit("FULLY_CONNECTED", node.name, node.inputs, node.shape, [weights, _vector(node.shape[-1])])


def _normalisation(node: _Node) -> None:
    node.reader.emit("MUL", f"{node.name}:scaled", node.inputs, node.shape, [_vector(node.shape[-1])])
    node.reader.emit("ADD", node.name, [f"{node.name}:scaled"], node.shape, [_vector(node.shape[-1])])


def _pooling(op_type: str) -> Operator:
    def operator(node: _Node) -> None:
        (source,) = node.inputs
        window, stride = _size(node.entry["ks"]), _size(node.entry["stride"])
        height, width = _picture(node.reader.source(source).shape)[1:3]
        if op_type == "AVERAGE_POOL_2D" and _picture(node.shape)[1:3] == (1, 1) and window >= max(height, width):
            _mean(node)
        else:
            sizes: dict[str, AttributeValue] = {"kernel_shape": (window, window), "strides": (stride, stride)}
            node.reader.emit(op_type, node.name, node.inputs, node.shape, (), padding=_padding(node.entry), **sizes)

    return operator


def _mean(node: _Node) -> None:
    node.reader.emit(
        "MEAN",
        node.name,
        node.inputs,
        node.shape,
        [TensorSpec((2,), "int32", constant=True, value=(1, 2))],
        axes=(1, 2),
    )


def _elementwise(op_type: str, *constants: TensorSpec) -> Operator:
    def operator(node: _Node) -> None:
        node.reader.emit(op_type, node.name, node.inputs, node.shape, constants)

    return operator


def _concatenation(node: _Node) -> None:
    node.reader.emit("CONCATENATION", node.name, node.inputs, node.shape, axis=len(node.shape) - 1)


def _split(node: _Node) -> None:
    (source,) = node.inputs
    node.reader.split(node.name, source, node.shape)


def _transposition(node: _Node) -> None:
    (source,) = node.inputs
    rank = len(node.shape)
    if sorted(node.reader.source(source).shape) != sorted(node.shape):
        raise ValueError("its output has other sizes than its input")
    # The data do not tell the order; of the one transposition in published CNNs, the channel shuffle, it is this.
    perm = (*range(rank - 2), rank - 1, rank - 2)
    node.reader.emit("TRANSPOSE", node.name, node.inputs, node.shape, perm=perm)


_SCALAR = TensorSpec((), "float32", constant=True)

_OPERATORS: dict[str, Operator] = {
    "input": _input,
    "conv": _convolution,
    "dwconv": _depthwise,
    "fc": _linear,
    "bn": _normalisation,
    "relu": _elementwise("RELU"),
    "relu6": _elementwise("RELU6"),
    "hswish": _elementwise("HARD_SWISH"),
    "sigmoid": _elementwise("LOGISTIC"),
    "add": _elementwise("ADD"),
    "mul": _elementwise("MUL"),
    "add_const": _elementwise("ADD", _SCALAR),
    "mul_const": _elementwise("MUL", _SCALAR),
    "maxpool": _pooling("MAX_POOL_2D"),
    "avgpool": _pooling("AVERAGE_POOL_2D"),
    "gap": _mean,
    "concat": _concatenation,
    "split": _split,
    "transpose": _transposition,
    "reshape": _elementwise("RESHAPE"),
}


def _vector(size: int) -> TensorSpec:
    return TensorSpec((size,), "float32", constant=True)


def _shape(sizes: Sequence[int]) -> Shape:
    shape = tuple(map(_size, sizes))
    total = 1
    for size in shape:
        total *= size
    if total > MAX_SIZE:
        raise ValueError(f"a tensor has {total} elements")
    return shape


def _picture(shape: Shape) -> Shape:
    if len(shape) != 4:
        raise ValueError(f"a picture is (1, height, width, channels), not {shape}")
    return shape


def _size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_SIZE:
        raise ValueError(f"{value!r} is not a size")
    return value


def _padding(entry: Mapping[str, Any]) -> str:
    padding = str(entry.get("pad", "SAME")).upper()
    if padding not in ("SAME", "VALID"):
        raise ValueError(f"{padding!r} is neither SAME nor VALID")
    return padding
