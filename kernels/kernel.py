"""What a runtime executes: one node with its attributes, shapes and types, named by a stable hash."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

NCHWC_DOMAIN = "com.microsoft.nchwc"
MICROSOFT_DOMAIN = "com.microsoft"
TFLITE_DOMAIN = "tflite"

_TFLITE_FILTERS = {
    "CONV_2D": (0, 3, 1, 2),  # from (out, height, width, in / groups)
    "DEPTHWISE_CONV_2D": (3, 0, 1, 2),  # from (1, height, width, out)
    "TRANSPOSE_CONV": (0, 3, 1, 2),  # from (out, height, width, in)
    "CONV_3D": (4, 3, 0, 1, 2),  # from (depth, height, width, in, out)
    "CONV_3D_TRANSPOSE": (3, 4, 0, 1, 2),  # from (depth, height, width, out, in)
}
"""Axes of TFLite's convolution weights, its input 1, in the order of ONNX."""

_COSMETIC = frozenset({"doc_string", "epsilon", "momentum", "activation_params", "cubic_coeff_a", "seed"})
"""Attributes that change results, or nothing, but not the work; they are kept but are not part of the hash."""

_SHOWN_SHAPES = 4


@dataclass(frozen=True)
class TensorValue:
    """A small constant tensor given as an attribute: numpy dtype name, shape, elements in row-major order."""

    dtype: str
    shape: tuple[int, ...]
    elements: tuple[int | float, ...]


@dataclass(frozen=True)
class GraphValue:
    """A subgraph given as an attribute: SHA-256 of its ONNX bytes and, when small, the bytes in base64."""

    sha256: str
    data: str | None


AttributeValue = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | TensorValue | GraphValue
ConstantValue = tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a kernel.

    dtype: numpy's name (`float32`, `uint8`, `bool`), or `bfloat16`, `int4`, `str`, `sequence`, `other`.
    constant: True for weights and other initialisers.
    value: the elements, row-major, only where they shape the work: small integer and boolean tensors such as
    shapes, axes and bounds, and the floats of Resize and Pow. Never weights, scales or zero points.
    """

    shape: tuple[int, ...]
    dtype: str
    constant: bool = False
    value: ConstantValue | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Kernel:
    """One node of an optimised graph, without names.

    domain, op_type: as in ONNX; the domain is "" for ONNX's own operators, `tflite` for those of TFLite files, whose
    types are the names of the builtin operators (`CONV_2D`) and whose shapes have the channels last.
    attributes: (name, value) sorted by name. inputs: None where an optional input is left out; a control-flow
    node lists the outer tensors that its subgraphs use after its own inputs. outputs: None where unused.
    opset: version of the domain that first had this form of the operator.
    """

    domain: str
    op_type: str
    attributes: tuple[tuple[str, AttributeValue], ...]
    inputs: tuple[TensorSpec | None, ...]
    outputs: tuple[TensorSpec | None, ...]
    opset: int

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON; equal work has an equal hash, whatever the weights and scales are."""
        content = _to_dict(self)
        content["attributes"] = {
            name: _encode(value)
            for name, value in self.attributes
            if name not in _COSMETIC and not _is_default(name, value)
        }
        return hashlib.sha256(_canonical(content).encode()).hexdigest()

    def attribute(self, name: str) -> AttributeValue | None:
        """Value of an attribute, None when it is not set."""
        return next((value for key, value in self.attributes if key == name), None)

    def ints(self, name: str) -> tuple[int, ...]:
        """Value of an attribute that is a list of integers, empty when it is not set."""
        value = self.attribute(name)
        return tuple(int(item) for item in value if isinstance(item, int)) if isinstance(value, tuple) else ()

    @property
    def op(self) -> str:
        """The operator, with the runtime's blocked layout in front of it: `nchwc.Conv`, `QLinearConv`."""
        return f"nchwc.{self.op_type}" if self.domain == NCHWC_DOMAIN else self.op_type

    @property
    def groups(self) -> int:
        """Groups of a convolution, 1 for anything else, also where a file says that there are none."""
        group = self.attribute("group")
        return group if isinstance(group, int) and group > 0 else 1

    @cached_property
    def window(self) -> tuple[int, ...]:
        """Size of the sliding window of a convolution or pooling, empty for anything else."""
        if window := self.ints("kernel_shape"):
            return window
        filters = self.filter
        return filters.shape[2:] if filters is not None else ()

    @cached_property
    def filter(self) -> TensorSpec | None:
        """The weights of a convolution, (out, in / groups, *window) whatever the layout of the activations."""
        if self.domain == TFLITE_DOMAIN:
            return self._tflite_filter
        if "Conv" not in self.op_type or self.op_type.startswith("Reorder"):
            return None
        position = 3 if self.op_type.startswith("QLinearConv") else 1
        weights = self.inputs[position] if len(self.inputs) > position else None
        return weights if weights is not None and len(weights.shape) >= 3 else None

    @property
    def _tflite_filter(self) -> TensorSpec | None:
        axes = _TFLITE_FILTERS.get(self.op_type)
        weights = self.inputs[1] if axes and len(self.inputs) > 1 else None
        if axes is None or weights is None or len(weights.shape) != len(axes):
            return None
        return replace(weights, shape=tuple(weights.shape[axis] for axis in axes))

    @property
    def is_depthwise(self) -> bool:
        """A grouped convolution with one input channel a group."""
        filters = self.filter
        return filters is not None and self.groups > 1 and filters.shape[1] == 1

    @property
    def kind(self) -> str:
        """A label for people that names the path: `QLinearConv 3x3 dw`, `nchwc.Conv 1x1`, `Gemm`."""
        words = [self.op]
        if window := self.window:
            words.append("x".join(map(str, window)))
        if self.groups > 1:
            words.append("dw" if self.is_depthwise else "grouped")
        return " ".join(words)

    @property
    def config(self) -> str:
        """Shapes of activations and the attributes that matter, short: `1x24x32x32 -> 1x72x32x32 s2 Relu`."""
        sources = [spec for spec in self.inputs if spec is not None and not spec.constant]
        targets = [spec for spec in self.outputs if spec is not None]
        words = [f"{_shapes(sources) or 'constant'} -> {_shapes(targets)}"]
        if any(stride != 1 for stride in self.ints("strides")):
            words.append(f"s{self.ints('strides')[0]}")
        if any(dilation != 1 for dilation in self.ints("dilations")):
            words.append(f"d{self.ints('dilations')[0]}")
        if self.groups > 1:
            words.append(f"g{self.groups}")
        if isinstance(activation := self.attribute("activation"), str):
            words.append(activation)
        for name in ("perm", "axis", "axes", "mode"):
            value = self.attribute(name)
            if isinstance(value, int | str) or (isinstance(value, tuple) and value):
                words.append(f"{name}={value}".replace(" ", ""))
        if self.domain != TFLITE_DOMAIN and self.filter is not None and len(sources) > 1:
            words.append("+residual")
        return " ".join(words)

    def to_json(self) -> str:
        """Canonical JSON; `Kernel.from_json` gives an equal kernel back."""
        return _canonical(_to_dict(self))

    @staticmethod
    def from_json(text: str) -> Kernel:
        """The kernel that `to_json` wrote; raises InvalidInput for any other text."""
        from .kernel_json import kernel_from_json

        return kernel_from_json(text)


@dataclass(frozen=True)
class KernelUse:
    """One node of a graph: its kernel, its name and the names of its inputs and outputs."""

    kernel: Kernel
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def _is_default(name: str, value: AttributeValue) -> bool:
    """Whether leaving the attribute out means the same, so that two writers of a graph agree on the hash."""
    if name == "auto_pad":
        return value == "NOTSET"
    if name in ("dilations", "strides"):
        return isinstance(value, tuple) and all(item == 1 for item in value)
    if name == "pads":
        return isinstance(value, tuple) and not any(value)
    return name == "group" and value == 1


def _shapes(specs: list[TensorSpec]) -> str:
    unique = dict.fromkeys("x".join(map(str, spec.shape)) or "scalar" for spec in specs)
    shown = list(unique)[:_SHOWN_SHAPES]
    return ", ".join(shown) + (", ..." if len(unique) > len(shown) else "")


def _canonical(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _to_dict(kernel: Kernel) -> dict[str, Any]:
    return {
        "domain": kernel.domain,
        "op_type": kernel.op_type,
        "opset": kernel.opset,
        "attributes": {name: _encode(value) for name, value in kernel.attributes},
        "inputs": [_encode_spec(spec) for spec in kernel.inputs],
        "outputs": [_encode_spec(spec) for spec in kernel.outputs],
    }


def _encode(value: AttributeValue | tuple[int | float, ...]) -> Any:
    if isinstance(value, TensorValue):
        return {"tensor": [value.dtype, list(value.shape), _encode(value.elements)]}
    if isinstance(value, GraphValue):
        return {"graph": [value.sha256, value.data]}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}  # JSON has no word for these
    return value


def _encode_spec(spec: TensorSpec | None) -> Any:
    if spec is None:
        return None
    value = None if spec.value is None else _encode(spec.value)
    return [list(spec.shape), spec.dtype, spec.constant, value]
