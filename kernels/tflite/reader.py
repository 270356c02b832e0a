"""Splitting a TFLite file into its kernels: operators in the order in which the runtime executes them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from graphlib import TopologicalSorter
from typing import Any

import numpy as np

from ..kernel import TFLITE_DOMAIN, AttributeValue, ConstantValue, Kernel, KernelUse, TensorSpec
from .file import read_tflite
from .graph import (
    constant_bytes,
    custom_options,
    scales,
    subgraph_calls,
    tensor_indices,
    tensor_name,
    tensor_shape,
)
from .lookups import fuse_lookups
from .operators import (
    BIAS,
    CONVOLUTIONS,
    FLOATS_THAT_SHAPE,
    FOLDED,
    NAMED_INPUTS,
    SCALE_RATIOS,
    WEIGHT_AXIS,
)
from .options import called_subgraphs, read_options
from .schema import NO_TENSOR, dtype_name, members, names

_VALUE_LIMIT = 64
_SHAPING_DTYPES = ("int32", "int64", "bool")
_WITHOUT_VALUES = ("LSTM", "RNN", "SVDF", "LOOKUP_SPARSE")
"""Operators whose integer constants are biases and states."""

_CUSTOM_LIMIT_BYTES = 4096


def split_tflite(data: bytes) -> list[KernelUse]:
    """Every operator of the main subgraph as a kernel, in order of execution.

    What XNNPACK runs as one is one kernel: a PAD of zeros that only feeds a convolution is its attribute `pads` (top,
    left, bottom, right), with the unpadded input; 8-bit functions of one tensor are one LOGISTIC (`tflite_fusion`).
    Operators with subgraphs (IF, WHILE, composites) are one kernel each. Raises InvalidInput as `check_tflite` does.
    """
    model = read_tflite(data)
    digests: dict[int, str] = {}
    if len(model.subgraphs) > 1:
        for number in TopologicalSorter(subgraph_calls(model)).static_order():
            if number:
                uses = _Reader(model, data, number, digests).uses()
                digests[number] = hashlib.sha256("".join(use.kernel.hash for use in uses).encode()).hexdigest()
    return _Reader(model, data, 0, digests).uses()


class _Reader:
    def __init__(self, model: Any, data: bytes, number: int, digests: dict[int, str]) -> None:
        self._model, self._data, self._digests = model, data, digests
        graph = model.subgraphs[number]
        self._tensors = graph.tensors or ()
        self._operators = graph.operators or ()
        self._names = _unique_names(self._tensors)
        self._raw = [constant_bytes(model, data, tensor) for tensor in self._tensors]
        self._constant = {index for index, raw in enumerate(self._raw) if raw is not None}
        self._users = Counter(tensor_indices(graph.outputs))
        self._outputs = [self._names[index] for index in self._users]
        self._makers: dict[int, Any] = {}
        for operator in self._operators:
            self._users.update(tensor_indices(operator.inputs))
            self._makers.update(dict.fromkeys(tensor_indices(operator.outputs), operator))
            inputs = set(tensor_indices(operator.inputs))
            if self._op_type(operator) in FOLDED and inputs and inputs <= self._constant:
                self._constant.update(tensor_indices(operator.outputs))

    def uses(self) -> list[KernelUse]:
        pads = {id(operator): found for operator in self._operators if (found := self._pads(operator)) is not None}
        merged = {
            id(self._makers[tensor_indices(operator.inputs)[0]]) for operator in self._operators if id(operator) in pads
        }
        uses = [
            self._use(operator, pads.get(id(operator))) for operator in self._operators if id(operator) not in merged
        ]
        return fuse_lookups(uses, self._outputs)

    def _use(self, operator: Any, pads: tuple[int, ...] | None) -> KernelUse:
        op_type = self._op_type(operator)
        inputs, outputs = tensor_indices(operator.inputs), tensor_indices(operator.outputs)
        if pads is not None:
            inputs[0] = tensor_indices(self._makers[inputs[0]].inputs)[0]
        specs = tuple(self._spec(op_type, position, index) for position, index in enumerate(inputs))
        made = tuple(self._spec(op_type, None, index) for index in outputs)
        attributes = self._attributes(op_type, operator, specs)
        if pads is not None:
            attributes["pads"] = pads
        kernel = Kernel(
            domain=TFLITE_DOMAIN,
            op_type=op_type,
            attributes=tuple(sorted(attributes.items())),
            inputs=specs,
            outputs=made,
            opset=int(self._model.operatorCodes[operator.opcodeIndex].version),
        )
        made_names = tuple(self._names[index] for index in outputs if index != NO_TENSOR)
        return KernelUse(
            kernel,
            made_names[0] if made_names else op_type,
            tuple(self._names[index] for index in inputs if index != NO_TENSOR),
            made_names,
        )

    def _op_type(self, operator: Any) -> str:
        code = self._model.operatorCodes[operator.opcodeIndex]
        number = max(int(code.builtinCode), int(code.deprecatedBuiltinCode))
        name = names("BuiltinOperator").get(number, f"BUILTIN_{number}")
        if name != "CUSTOM":
            return name
        custom = (code.customCode or b"").decode("utf-8", errors="replace")
        return f"CUSTOM_{custom}" if not custom or custom in members("BuiltinOperator") else custom

    def _spec(self, op_type: str, position: int | None, index: int) -> TensorSpec | None:
        """Position among the inputs, None for an output."""
        if index == NO_TENSOR:
            return None
        tensor, raw = self._tensors[index], self._raw[index]
        shape, dtype = tensor_shape(tensor), dtype_name(tensor.type)
        if position is None:
            return TensorSpec(shape, dtype)
        value = None if raw is None or tensor.sparsity is not None else _shaping_value(op_type, position, dtype, raw)
        if raw is None and 0 in shape and index not in self._makers:
            return TensorSpec(shape, dtype, constant=True, value=() if dtype in _SHAPING_DTYPES else None)
        return TensorSpec(shape, dtype, constant=index in self._constant, value=value)

    def _attributes(
        self, op_type: str, operator: Any, specs: tuple[TensorSpec | None, ...]
    ) -> dict[str, AttributeValue]:
        found = read_options(op_type, operator.builtinOptions or operator.builtinOptions2)
        if op_type in NAMED_INPUTS:
            name, position = NAMED_INPUTS[op_type]
            spec = specs[position] if position < len(specs) else None
            if spec is not None and spec.value:
                found[name] = spec.value if name != "axis" else int(spec.value[0])
        if (group := _group(op_type, specs)) > 1:
            found["group"] = group
        if scheme := self._weight_scheme(op_type, tensor_indices(operator.inputs)):
            found["weight_quantisation"] = scheme
        if op_type in SCALE_RATIOS and self._far_scales(op_type, operator):
            found["far_scales"] = 1
        if called := called_subgraphs(operator):
            found["subgraphs"] = tuple(self._digests[number] for number in called)
        if custom := custom_options(self._data, operator):
            kept = len(custom) <= _CUSTOM_LIMIT_BYTES
            found["custom_options"] = custom.hex() if kept else f"sha256:{hashlib.sha256(custom).hexdigest()}"
        return found

    def _pads(self, operator: Any) -> tuple[int, ...] | None:
        """Zeros around the picture that the convolution takes over from the PAD before it, None if there are none."""
        op_type = self._op_type(operator)
        inputs = tensor_indices(operator.inputs)
        pad = self._makers.get(inputs[0]) if op_type in CONVOLUTIONS and len(inputs) > 1 else None
        if pad is None or self._op_type(pad) != "PAD" or len(tensor_indices(pad.inputs)) != 2:
            return None
        if self._users[inputs[0]] != 1 or inputs[1] not in self._constant:
            return None
        if read_options(op_type, operator.builtinOptions).get("padding") != "VALID":
            return None
        amounts = self._spec("PAD", 1, tensor_indices(pad.inputs)[1])
        source = self._spec("PAD", 0, tensor_indices(pad.inputs)[0])
        if source is None or len(source.shape) != 4 or amounts is None or amounts.shape != (4, 2) or not amounts.value:
            return None
        batch, height, width, channels = np.reshape(amounts.value, (4, 2)).astype(int).tolist()
        if any(batch) or any(channels) or not any(height + width) or min(height + width) < 0:
            return None
        return height[0], width[0], height[1], width[1]

    def _weight_scheme(self, op_type: str, inputs: list[int]) -> str:
        """How weights are scaled where it is not the usual way: a scale per output channel, in BATCH_MATMUL one."""
        usual = WEIGHT_AXIS.get(op_type)
        if (usual is None and op_type != "BATCH_MATMUL") or len(inputs) < 2 or inputs[1] not in self._constant:
            return ""
        tensor = self._tensors[inputs[1]]
        if tensor.quantization is not None and tensor.quantization.details is not None:
            return "block"
        shape, count = tensor_shape(tensor), scales(tensor).size
        if count > 1:
            axis = int(tensor.quantization.quantizedDimension)
            return "" if axis == usual else f"axis {axis}"
        return "tensor" if count and usual is not None and len(shape) > usual and shape[usual] > 1 else ""

    def _far_scales(self, op_type: str, operator: Any) -> bool:
        """Whether scales of inputs and output are too far apart for XNNPACK."""
        tensors = [
            self._tensors[index]
            for index in (*tensor_indices(operator.inputs)[:2], *tensor_indices(operator.outputs)[:1])
        ]
        found = [float(scales(tensor)[0]) for tensor in tensors if scales(tensor).size == 1]
        if len(found) != len(tensors) or len(found) < 3 or not found[-1]:
            return False
        *sources, target = found
        ratios = [math.prod(sources) / target] if op_type == "MUL" else [source / target for source in sources]
        least, limit = SCALE_RATIOS[op_type]
        return not all(least <= ratio < limit for ratio in ratios)


def _shaping_value(
    op_type: str, position: int, dtype: str, raw: np.ndarray[Any, np.dtype[np.uint8]]
) -> ConstantValue | None:
    """Elements of a small constant, where they shape the work."""
    integer = dtype in _SHAPING_DTYPES and position != BIAS.get(op_type)
    real = dtype == "float32" and position in FLOATS_THAT_SHAPE.get(op_type, ())
    if not (integer or real) or any(word in op_type for word in _WITHOUT_VALUES):
        return None
    elements = raw.view(np.dtype(dtype)) if raw.size <= 8 * _VALUE_LIMIT else raw
    if len(elements) > _VALUE_LIMIT:
        return None
    return tuple(float(item) if real else int(item) for item in elements.tolist())


def _group(op_type: str, specs: tuple[TensorSpec | None, ...]) -> int:
    if op_type not in CONVOLUTIONS or len(specs) < 2:
        return 1
    source, weights = specs[0], specs[1]
    if source is None or weights is None or len(source.shape) != 4 or len(weights.shape) != 4:
        return 1
    inner = 1 if op_type == "DEPTHWISE_CONV_2D" else max(weights.shape[3], 1)
    return source.shape[3] // inner


def _unique_names(tensors: Any) -> list[str]:
    found = [tensor_name(tensor) or f"t{index}" for index, tensor in enumerate(tensors)]
    times = Counter(found)
    return [name if times[name] == 1 else f"{name}:{index}" for index, name in enumerate(found)]
