"""Shapes and types of the tensors of an ONNX graph, node by node, without running it and without its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, TypeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError, infer_node_outputs

from ...errors import InvalidInput
from .file import graph_inputs
from .types import dtype_name, element_type

_VALUE_LIMIT = 4096
"""Elements of what is computed ahead: sizes, axes and bounds have few, and what has more shapes nothing."""

_FIXED_SHAPES = "Export it again with fixed shapes, or simplify it first."


@dataclass(frozen=True)
class Known:
    """A tensor: `constant` if it depends on no input of the graph, with its elements where they are known and few."""

    shape: tuple[int, ...]
    dtype: str
    constant: bool = False
    value: np.ndarray[Any, np.dtype[Any]] | None = None


class OnnxShapes(Mapping[str, Known]):
    """The tensors known so far, by name: the inputs and constants of the graph, and outputs of nodes that were taken.

    The model's inputs have fixed shapes (`fix_shapes`). Constants may lie elsewhere or be stripped of their data.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._opsets = {entry.domain.replace("ai.onnx", "", 1): entry.version for entry in model.opset_import}
        self._known: dict[str, Known] = {}
        self.add(model.graph.initializer)
        self._known |= {value.name: _of_type(value.type, value.name) for value in graph_inputs(model)}

    def add(self, constants: Iterable[TensorProto]) -> None:
        """Learn the constants of a graph."""
        self._known |= {tensor.name: _constant(tensor) for tensor in constants}

    def __getitem__(self, name: str) -> Known:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def take(self, node: onnx.NodeProto) -> bool:
        """Learn the outputs of a node whose inputs are known; True if they are constants, with nothing to execute.

        Raises InvalidInput when the operator is not ONNX's, or a shape depends on the values of the network's input.
        """
        if missing := [name for name in node.input if name and name not in self._known]:
            raise InvalidInput(f"The tensor '{missing[0]}' is read before it is made.", "Export the model again.")
        inputs = {name: self._known[name] for name in node.input if name}
        constant = node.op_type in ("Shape", "Size") or all(known.constant for known in inputs.values())
        outputs = self._inferred(node, inputs)
        values = self._computed(node, inputs, outputs) if constant else {}
        for name, known in outputs.items():
            self._known[name] = Known(known.shape, known.dtype, constant, values.get(name))
        return constant

    def _inferred(self, node: onnx.NodeProto, inputs: Mapping[str, Known]) -> dict[str, Known]:
        types = {
            name: helper.make_tensor_type_proto(element_type(known.dtype) or 0, known.shape)
            for name, known in inputs.items()
        }
        values = {
            name: numpy_helper.from_array(known.value) for name, known in inputs.items() if known.value is not None
        }
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opsets.get(node.domain, 1), node.domain)
            found = infer_node_outputs(schema, node, types, values, opset_imports=opsets)
        except (onnx.defs.SchemaError, onnx.checker.ValidationError, InferenceError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InvalidInput(
                f"The operator {node.op_type} '{node.name}' cannot be read: {reason}", _FIXED_SHAPES
            ) from error
        return {name: _of_type(found.get(name, TypeProto()), name) for name in node.output if name}

    def _computed(
        self, node: onnx.NodeProto, inputs: Mapping[str, Known], outputs: Mapping[str, Known]
    ) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Elements of the outputs that follow from shapes and known constants; none where those are not known."""
        name = node.output[0]
        if node.op_type == "Size":
            return {name: np.array(math.prod(inputs[node.input[0]].shape))}
        if node.op_type == "Shape":
            bounds = {attribute.name: attribute.i for attribute in node.attribute}
            sizes = inputs[node.input[0]].shape[bounds.get("start", 0) : bounds.get("end")]
            return {name: np.array(sizes, np.int64)}
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            value = _constant(node.attribute[0].t).value
            return {} if value is None else {name: value}
        values = {name: known.value for name, known in inputs.items()}
        if any(value is None for value in values.values()) or any(
            math.prod(known.shape) > _VALUE_LIMIT for known in outputs.values()
        ):
            return {}
        evaluator = ReferenceEvaluator(node, opsets=self._opsets)
        try:
            return dict(zip(node.output, map(np.asarray, evaluator.run(None, values)), strict=False))
        except (RuntimeError, ValueError, TypeError, LookupError):  # what it has no function for
            return {}


def _constant(tensor: TensorProto) -> Known:
    shape = tuple(tensor.dims)
    known = Known(shape, dtype_name(tensor.data_type), constant=True)
    if tensor.data_location == TensorProto.EXTERNAL or math.prod(shape) > _VALUE_LIMIT or known.dtype == "str":
        return known
    filled = len(tensor.raw_data) or len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
    if not filled and 0 not in shape:
        return known
    return Known(shape, known.dtype, constant=True, value=numpy_helper.to_array(tensor))


def _of_type(kind: TypeProto, name: str) -> Known:
    sizes = [dimension.dim_value for dimension in kind.tensor_type.shape.dim]
    open_sizes = any(not dimension.HasField("dim_value") for dimension in kind.tensor_type.shape.dim)
    if not kind.tensor_type.HasField("shape") or open_sizes:
        raise InvalidInput(f"The shape of the tensor '{name}' depends on values that only a run has.", _FIXED_SHAPES)
    return Known(tuple(sizes), dtype_name(kind.tensor_type.elem_type))
