"""Activations that know their order in memory, and the TFLite operators that are made of an ONNX graph so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..kernel import TFLITE_DOMAIN, AttributeValue, Kernel, KernelUse, TensorSpec
from ..onnx.shapes import Known, OnnxShapes

Shape = tuple[int, ...]
Order = tuple[int, ...]
_PICTURE_RANK = 4

SCALAR = TensorSpec((), "float32", constant=True)
"""A number."""


class Inexpressible(Exception):
    """An operator, or a form of it, that TFLite does not have; the text says which form, or nothing."""


@dataclass(frozen=True)
class Tensor:
    """An activation under its name among TFLite's: ONNX's shape, and which axis of it comes when in memory."""

    name: str
    shape: Shape
    order: Order
    dtype: str = "float32"

    @property
    def spec(self) -> TensorSpec:
        """As TFLite sees it."""
        return TensorSpec(tuple(self.shape[axis] for axis in self.order), self.dtype)

    def part(self, suffix: str) -> Tensor:
        """One like it, on the way to it."""
        return replace(self, name=f"{self.name}:{suffix}")

    def place(self, axis: int) -> int:
        """TFLite's number of an axis of ONNX's."""
        return self.order.index(axis % len(self.shape))


def plain(rank: int) -> Order:
    """The order of tensors that are no pictures: ONNX's own."""
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """The order in which the second axis comes last."""
    return (0, *range(2, rank), 1) if rank > 1 else plain(rank)


def ordered_as_pictures(rank: int) -> Order:
    """Channels last for tensors of rank 4."""
    return channels_last(rank) if rank == _PICTURE_RANK else plain(rank)


def sequence(order: Order, shape: Shape) -> Order:
    """The order without axes of size 1, wherever they are: the same sequence is the same memory."""
    return tuple(axis for axis in order if shape[axis] != 1)


@dataclass(frozen=True)
class Node:
    """A node of the ONNX graph with its attributes; names of inputs that are left out are empty."""

    op_type: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Any]
    shapes: OnnxShapes

    @property
    def name(self) -> str:
        """That of its first output."""
        return self.outputs[0]

    @property
    def made(self) -> Known:
        """Shape and type of its first output."""
        return self.shapes[self.outputs[0]]

    def result(self, order: Order, number: int = 0) -> Tensor:
        """One of its outputs, in this order; those that are left out have no shape."""
        if not (name := self.outputs[number]):
            return Tensor(f"{self.name}:{number}", (), ())
        return Tensor(name, self.shapes[name].shape, order, self.shapes[name].dtype)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.attributes.get(name, default)

    def given(self, name: str, position: int) -> tuple[Any, ...] | None:
        """The attribute of older opsets, or else the constant input of newer ones, as a tuple; None without either."""
        value = self.attributes.get(name)
        if value is not None:
            return value if isinstance(value, tuple) else (value,)
        if position >= len(self.inputs) or not self.inputs[position]:
            return None
        known = self.shapes[self.inputs[position]]
        if known.value is None:
            raise Inexpressible(f"{name} that are not constant")
        return tuple(known.value.ravel().tolist())

    def axes(self, position: int, rank: int) -> tuple[int, ...] | None:
        """Axes counted from the front, None if they are not given."""
        axes = self.given("axes", position)
        return None if axes is None else tuple(sorted(axis % rank for axis in axes))


class Graph:
    """The operators so far, and the activations by ONNX's names."""

    def __init__(self, shapes: OnnxShapes, readers: Mapping[str, int]) -> None:
        self.shapes = shapes
        self.uses: list[KernelUse] = []
        self._readers = readers
        self._tensors: dict[str, Tensor] = {}
        self._laid = set[str]()
        self._padded: dict[str, tuple[Tensor, tuple[int, ...]]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def bind(self, name: str, tensor: Tensor) -> None:
        """Call an activation by a name of ONNX's."""
        self._tensors[name] = tensor

    def tensor(self, name: str) -> Tensor:
        """An activation as it lies in memory."""
        if name not in self._tensors:
            raise Inexpressible("of a constant")
        return self._tensors[name]

    def emit(
        self,
        op_type: str,
        operands: Sequence[Tensor | TensorSpec],
        made: Tensor | Sequence[Tensor],
        **attributes: AttributeValue | None,
    ) -> Tensor:
        """One operator; returns its output, the first if it has several. Attributes that are None are left out."""
        outputs = [made] if isinstance(made, Tensor) else made
        kernel = Kernel(
            TFLITE_DOMAIN,
            op_type,
            tuple(sorted((name, value) for name, value in attributes.items() if value is not None)),
            tuple(operand.spec if isinstance(operand, Tensor) else operand for operand in operands),
            tuple(tensor.spec for tensor in outputs),
            1,
        )
        inputs = tuple(operand.name for operand in operands if isinstance(operand, Tensor))
        self.uses.append(KernelUse(kernel, outputs[0].name, inputs, tuple(tensor.name for tensor in outputs)))
        return outputs[0]

    def laid(self, tensor: Tensor, order: Order) -> Tensor:
        """The same activation in another order: a TRANSPOSE unless only axes of size 1 move."""
        target = replace(tensor, order=order)
        perm = tuple(map(tensor.order.index, order))
        moved = sequence(order, tensor.shape) != sequence(tensor.order, tensor.shape)
        if not moved and target.spec == tensor.spec:
            return target
        target = target.part("".join(map(str, perm)))
        if target.name not in self._laid:
            self._laid.add(target.name)
            self.emit("TRANSPOSE" if moved else "RESHAPE", [tensor], target, perm=perm if moved else None)
        return target

    def picture(self, name: str) -> Tensor:
        """An activation (batch, channels, ...) with the channels last."""
        tensor = self.tensor(name)
        return self.laid(tensor, channels_last(len(tensor.shape)))

    def plain(self, name: str) -> Tensor:
        """An activation in ONNX's order."""
        tensor = self.tensor(name)
        return self.laid(tensor, plain(len(tensor.shape)))

    def operand(self, name: str, order: Order) -> Tensor | TensorSpec:
        """What is read beside an activation of this order, and broadcast to it; vectors of constants stay vectors."""
        rank = len(order)
        if name not in self._tensors:
            return constant(self.shapes[name], order)
        tensor = self._tensors[name]
        if len(tensor.shape) == rank:
            return self.laid(tensor, order)
        if order == plain(rank):
            return self.plain(name)
        return self.laid(self.reshaped(tensor, (1,) * (rank - len(tensor.shape)) + tensor.shape, f"{name}:wide"), order)

    def reshaped(self, tensor: Tensor, shape: Shape, name: str) -> Tensor:
        """A RESHAPE, or nothing where TFLite's shape stays; a TRANSPOSE before it where axes merge that lie apart."""
        order = _regrouped(tensor, shape)
        if order is None:
            tensor = self.laid(tensor, plain(len(tensor.shape)))
            order = _completed(sequence(plain(len(shape)), shape), shape)
        target = Tensor(name, shape, order, tensor.dtype)
        if target.spec == tensor.spec or self._squeezed(tensor, target):
            return replace(target, name=tensor.name)
        return self.emit("RESHAPE", [tensor], target)

    def _squeezed(self, tensor: Tensor, target: Tensor) -> bool:
        """Whether a reduction that only this reshape reads can leave its axes out itself, which it does then."""
        last = self.uses[-1] if self.uses else None
        if last is None or last.outputs != (tensor.name,) or self._readers.get(tensor.name) != 1:
            return False
        kernel = last.kernel
        kept = kernel.attribute("keep_num_dims") and len(tensor.shape) - len(target.shape) == len(kernel.ints("axes"))
        if not kept or target.shape[:1] != tensor.shape[:1]:
            return False
        attributes = tuple(pair for pair in kernel.attributes if pair[0] != "keep_num_dims")
        self.uses[-1] = replace(last, kernel=replace(kernel, attributes=attributes, outputs=(target.spec,)))
        return True

    def pad(self, source: Tensor, made: Tensor, pads: tuple[int, ...]) -> None:
        """Note that `made` is a picture with zeros (top, left, bottom, right) around it."""
        self._padded[made.name] = (source, pads)

    def unpadded(self, tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The picture before a PAD that only its one reader needs, which goes; and the zeros around it."""
        if tensor.name not in self._padded or self._readers.get(tensor.name) != 1:
            return tensor, (0, 0, 0, 0)
        self.uses = [use for use in self.uses if use.name != tensor.name]
        return self._padded[tensor.name]


Operator = Callable[[Graph, Node], Tensor | Sequence[Tensor]]
"""Appends TFLite's operators for a node to the graph and returns what stands for its outputs."""


def constant(known: Known, order: Order) -> TensorSpec:
    """A constant beside activations of this order, without the leading axes of size 1."""
    shape = (1,) * (len(order) - len(known.shape)) + known.shape
    sizes = [shape[axis] for axis in order] if len(shape) == len(order) else list(shape)
    while sizes and sizes[0] == 1:
        del sizes[0]
    return TensorSpec(tuple(sizes), known.dtype, constant=True)


def vector(size: int) -> TensorSpec:
    """A constant with an element for each channel."""
    return TensorSpec((size,), "float32", constant=True)


def integers(values: Iterable[int], *shape: int) -> TensorSpec:
    """A constant that shapes the work."""
    elements = tuple(int(value) for value in values)
    return TensorSpec(shape or (len(elements),), "int32", constant=True, value=elements)


def _regrouped(tensor: Tensor, shape: Shape) -> Order | None:
    """The order of a reshaped activation if its elements may stay where they are, None if they must move."""
    found = sequence(tensor.order, tensor.shape)
    if len(shape) == 2 and len(tensor.shape) > 2 and tensor.shape[0] == shape[0]:
        return plain(2)  # the weights behind a flattened picture take its order
    places: dict[int, Order] = {}
    for axes, into in _groups(tensor.shape, shape):
        start = found.index(axes[0]) if axes else 0
        if found[start : start + len(axes)] != axes:
            return None
        places[start] = into
    return _completed(tuple(axis for start in sorted(places) for axis in places[start]), shape)


def _groups(before: Shape, after: Shape) -> list[tuple[Order, Order]]:
    """Axes of either shape, those of size 1 left out, that are cut from the same elements."""
    sources, targets = sequence(plain(len(before)), before), sequence(plain(len(after)), after)
    groups, i, j = [], 0, 0
    while i < len(sources) and j < len(targets):
        first, second = (i, j)
        left, right = before[sources[i]], after[targets[j]]
        while left != right:
            if left < right:
                i += 1
                left *= before[sources[i]]
            else:
                j += 1
                right *= after[targets[j]]
        i, j = i + 1, j + 1
        groups.append((sources[first:i], targets[second:j]))
    return groups


def _completed(found: Order, shape: Shape) -> Order:
    """An order with this sequence: that of pictures or plain, if it can be, else axes of size 1 come first."""
    rank = len(shape)
    usual = (ordered_as_pictures(rank), plain(rank), channels_last(rank))
    units = tuple(axis for axis in range(rank) if shape[axis] == 1)
    return next((order for order in usual if sequence(order, shape) == found), (*units, *found))
