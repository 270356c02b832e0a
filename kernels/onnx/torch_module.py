"""An ONNX graph as a torch module, so that what converts torch modules converts ONNX files too."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import AttributeProto, TensorProto, inliner, numpy_helper
from torch import Tensor, nn

from ...errors import InvalidInput
from .file import check_model, graph_inputs
from .torch_ops import Node, Operator
from .torch_shapes import OPERATORS
from .types import dtype_name, read_attribute

_META = torch.device("meta")
_CONSTANT_ATTRIBUTES = ("value", "value_int", "value_ints", "value_float", "value_floats")


@dataclass(frozen=True)
class _Value:
    """An argument that is a tensor of the graph; all others are plain Python values."""

    name: str


@dataclass(frozen=True)
class _Step:
    node: Node
    operator: Operator
    arguments: tuple[Any, ...]
    outputs: tuple[str, ...]

    def run(self, values: dict[str, Tensor]) -> None:
        """Compute the outputs from `values`, and put them there."""
        arguments = (values[item.name] if isinstance(item, _Value) else item for item in self.arguments)
        result = self.operator.call(self.node, *arguments)
        values.update(zip(self.outputs, [result] if isinstance(result, Tensor) else result, strict=False))


class OnnxModule(nn.Module):
    """A float32 inference graph with fixed shapes: tensors in and out in the order of the graph's inputs and outputs.

    What depends on constants and shapes alone is computed once, here, so that `forward` is a straight line of tensor
    operations with plain numbers as sizes, which `torch.export` can trace; GELUs written out with Erf are one
    operation again. Raises InvalidInput for a file that is not fit, naming the operator if that is why.
    """

    def __init__(self, model: bytes) -> None:
        super().__init__()
        proto = inliner.inline_local_functions(check_model(model))
        self._inputs = {value.name: _hollow(value) for value in graph_inputs(proto)}
        graph = _Graph(proto, self._inputs)
        self._outputs = tuple(graph.name(value.name) for value in proto.graph.output)
        self._steps = _needed(_with_gelus(graph.steps), self._outputs)
        used = dict.fromkeys((*(name for step in self._steps for name in _names(step)), *self._outputs))
        self._constants = {name: f"constant_{index}" for index, name in enumerate(used) if name in graph.constants}
        for name, buffer in self._constants.items():
            self.register_buffer(buffer, graph.constants[name])

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Zeros in the shapes and types of the graph's inputs."""
        return tuple(torch.zeros_like(hollow, device="cpu") for hollow in self._inputs.values())

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The graph's output, or a tuple when it has several."""
        values = {name: getattr(self, buffer) for name, buffer in self._constants.items()}
        values.update(zip(self._inputs, inputs, strict=True))
        for step in self._steps:
            step.run(values)
        outputs = tuple(values[name] for name in self._outputs)
        return outputs if len(outputs) > 1 else outputs[0]


class _Graph:
    """Constants, and the steps that remain, found by one run on tensors that have shapes but no elements."""

    def __init__(self, model: onnx.ModelProto, inputs: dict[str, Tensor]) -> None:
        self._opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
        self.constants = {tensor.name: _tensor(tensor) for tensor in model.graph.initializer}
        self.steps: list[_Step] = []
        self._hollow = dict(inputs)
        self._aliases: dict[str, str] = {}
        for node in model.graph.node:
            self._take(node)

    def name(self, name: str) -> str:
        """The name under which a tensor is known, behind operators that only pass it on."""
        return self._aliases.get(name, name)

    def _take(self, proto: onnx.NodeProto) -> None:
        attributes = {attribute.name: _attribute(attribute) for attribute in proto.attribute}
        inputs = [self.name(name) for name in proto.input]
        if proto.op_type in ("Identity", "Dropout"):
            self._aliases[proto.output[0]] = inputs[0]
            return
        if proto.op_type == "Constant":
            self.constants[proto.output[0]] = _constant(attributes)
            return
        operator = OPERATORS.get(proto.op_type)
        if operator is None or proto.domain not in ("", "ai.onnx"):
            name = f"{proto.domain}.{proto.op_type}" if proto.domain else proto.op_type
            raise InvalidInput(f"The operator {name} is not supported.", "Export the model without it.")
        node = Node(proto.op_type, attributes, self._opset, len(proto.output))
        fixed = all(name in self.constants for name in inputs if name)
        rank = -1 if fixed else max((self._hollow[name].ndim for name in inputs if name in self._hollow), default=0)
        arguments = tuple(self._argument(name, operator, position, rank) for position, name in enumerate(inputs))
        step = _Step(node, operator, arguments, tuple(proto.output))
        try:
            values = {name: self._known(name, fixed=fixed) for name in _names(step)}
            step.run(values)
        except (RuntimeError, ValueError, LookupError, TypeError, NotImplementedError) as error:
            raise InvalidInput(
                f"The operator {proto.op_type} '{proto.name}' cannot be read: {str(error).partition(chr(10))[0]}.",
                "Export the model again with fixed shapes.",
            ) from error
        results = {name: values[name] for name in proto.output if name in values}
        if all(value.device != _META for value in results.values()):
            self.constants.update(results)
        else:
            self._hollow.update(results)
            self.steps.append(step)

    def _argument(self, name: str, operator: Operator, position: int, rank: int) -> Any:
        """A graph's tensor, or a plain value; `rank` is that of the widest operand, -1 among constants."""
        if not name:
            return None
        if (constant := self.constants.get(name)) is not None:
            if position in operator.static:
                return constant.tolist()
            if operator.scalars and constant.numel() == 1 and constant.ndim <= rank:
                return constant.item()
        return _Value(name)

    def _known(self, name: str, *, fixed: bool) -> Tensor:
        if name in self._hollow:
            return self._hollow[name]
        return self.constants[name] if fixed else self.constants[name].to(_META)


def _names(step: _Step) -> list[str]:
    return [item.name for item in step.arguments if isinstance(item, _Value)]


def _needed(steps: list[_Step], outputs: tuple[str, ...]) -> list[_Step]:
    """The steps without those that contribute to no output."""
    wanted, kept = set(outputs), []
    for step in reversed(steps):
        if wanted.intersection(step.outputs):
            kept.append(step)
            wanted.update(_names(step))
    return kept[::-1]


def _with_gelus(steps: list[_Step]) -> list[_Step]:
    """The steps with x * 0.5 * (1 + erf(x / sqrt(2))), in any order of the factors, as Gelu; the rest is left over."""
    makers = {name: step for step in steps for name in step.outputs}
    uses = Counter(name for step in steps for name in _names(step))
    users = {name: step for step in steps for name in _names(step) if uses[name] == 1}
    gelus: dict[int, _Step] = {}
    for step in steps:
        if step.node.op_type == "Erf" and (source := _halved(makers.get(_names(step)[0]))) is not None:
            last = _gelu_end(source, users.get(step.outputs[0]), users, makers)
            if last is not None:
                gelus[id(last)] = _Step(Node("Gelu"), OPERATORS["Gelu"], (source,), last.outputs)
    return [gelus.get(id(step), step) for step in steps]


def _halved(step: _Step | None) -> _Value | None:
    """The x of a step that computes x / sqrt(2)."""
    match step:
        case _Step(Node("Div"), _, (_Value() as x, float(by))) if math.isclose(by, math.sqrt(2), rel_tol=1e-5):
            return x
        case _Step(Node("Mul"), _, (_Value() as x, float(by)) | (float(by), _Value() as x)) if math.isclose(
            by, math.sqrt(0.5), rel_tol=1e-5
        ):
            return x
    return None


def _gelu_end(x: _Value, step: _Step | None, users: dict[str, _Step], makers: dict[str, _Step]) -> _Step | None:
    """The last step of a GELU of x that goes on with `step` after Erf, or None when it is another formula."""
    if step is None or step.node.op_type != "Add" or 1.0 not in step.arguments:
        return None
    factors: set[Any] = set()
    while factors != {x, 0.5}:
        before, step = step, users.get(step.outputs[0])
        if step is None or step.node.op_type != "Mul":
            return None
        (other,) = set(step.arguments) - {_Value(before.outputs[0])} or {None}
        maker = makers.get(other.name) if isinstance(other, _Value) and other != x else None
        found = set(maker.arguments) if maker is not None and maker.node.op_type == "Mul" else {other}
        if not found <= {x, 0.5} or found & factors:
            return None
        factors |= found
    return step


def _attribute(attribute: onnx.AttributeProto) -> Any:
    return _tensor(attribute.t) if attribute.type == AttributeProto.TENSOR else read_attribute(attribute)


def _constant(attributes: dict[str, Any]) -> Tensor:
    ((name, value),) = attributes.items()
    if name not in _CONSTANT_ATTRIBUTES:
        raise InvalidInput(f"A Constant with {name} is not supported.", "Export the model without it.")
    if isinstance(value, Tensor):
        return value
    return torch.tensor([] if value is None else value, dtype=torch.int64 if "int" in name else torch.float32)


def _tensor(tensor: TensorProto) -> Tensor:
    try:
        return torch.from_numpy(numpy_helper.to_array(tensor).copy())
    except TypeError as error:
        kind = dtype_name(tensor.data_type)
        raise InvalidInput(f"The constant '{tensor.name}' is of {kind}.", "Export the model in float32.") from error


def _hollow(value: onnx.ValueInfoProto) -> Tensor:
    """A tensor without elements in the shape and type of a graph's input."""
    tensor = value.type.tensor_type
    shape = [dimension.dim_value for dimension in tensor.shape.dim]
    dtype = getattr(torch, dtype_name(tensor.elem_type), None)
    if min(shape, default=1) < 1 or not isinstance(dtype, torch.dtype):
        raise InvalidInput(
            f"The input '{value.name}' has no fixed shape, or no type of torch's.", "Fix its shape first."
        )
    return torch.empty(shape, dtype=dtype, device=_META)
