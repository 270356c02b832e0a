"""Values for the inputs of one-kernel models: random, legal, and typical for speed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernel import Kernel, TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]

_ROLES: dict[str, str] = {
    # x, w: data and weights; their scales and zero points are xs, xz, ws, wz, those of the output ys, yz; b is a bias
    "QLinearConv": "x xs xz w ws wz ys yz b",
    "QLinearConvTranspose": "x xs xz w ws wz ys yz b",
    "QLinearMatMul": "x xs xz w ws wz ys yz",
    "QGemm": "x xs xz w ws wz b ys yz",
    "QLinearAdd": "x xs xz x xs xz ys yz",
    "QLinearMul": "x xs xz x xs xz ps yz",
    "QLinearSigmoid": "x xs xz us uz",
    "QLinearSoftmax": "x xs xz us uz",
    "QLinearLeakyRelu": "x xs xz xs xz",
    "QLinearGlobalAveragePool": "x xs xz xs xz",
    "QLinearAveragePool": "x xs xz xs xz",
    "QLinearReduceMean": "x xs xz xs xz",
    "QLinearWhere": "x x xs xz x xs xz xs xz",
    "ConvInteger": "x w xz wz",
    "MatMulInteger": "x w xz wz",
    "DynamicQuantizeMatMul": "x w ws wz f",
    "MatMulIntegerToFloat": "x w xs ws xz wz f",
    "QAttention": "x w f xs ws x xz wz x",
    "QuantizeLinear": "f xs xz",
    "DequantizeLinear": "x xs xz",
}

_INPUT_SCALE, _WEIGHT_SCALE = 0.02, 0.01
_INPUT_DEVIATION, _WEIGHT_DEVIATION = 74.0, 36.0
"""Standard deviations of a uniform uint8 and of a uniform integer within +-63."""

_OUTPUT_DEVIATION = 50.0
_WEIGHT_LIMIT = 63
_BLOCK = 1 << 16
"""Longer float constants repeat a block of this many random elements: drawing millions takes longer than timing."""

_UNIT_SCALE = 1 / 256
_WEIGHTED = ("Conv", "MatMul", "Gemm", "Attention", "LSTM", "GRU", "RNN")
_INDEXED = ("Gather", "GatherElements", "ScatterElements")


def constant_value(kernel: Kernel, position: int, spec: TensorSpec, rng: np.random.Generator) -> Array:
    """Elements of a constant input, in the shape of `spec`; the caller converts them to its dtype."""
    if spec.value is not None:
        return np.array(spec.value).reshape(spec.shape)
    role = _role(kernel.op_type, position)
    if role.endswith("s"):
        return np.full(spec.shape, _scale(kernel, role))
    if role.endswith("z"):
        return np.full(spec.shape, 0 if role == "uz" else _zero_point(spec.dtype))
    if spec.dtype in ("float32", "float64", "float16", "bfloat16"):
        return _floats(kernel, spec, rng)
    if role == "x" or (not role and spec.size > 1 and not _is_weighted(kernel)):
        return _integers(spec, rng)
    if not role and spec.size == 1:
        return np.full(spec.shape, _zero_point(spec.dtype))
    if spec.dtype in ("int8", "uint8"):
        return rng.integers(-_WEIGHT_LIMIT, _WEIGHT_LIMIT + 1, spec.shape) + _zero_point(spec.dtype)
    if role == "b":
        return rng.integers(-500, 501, spec.shape)
    return _integers(spec, rng)


def activation_value(kernel: Kernel, position: int, spec: TensorSpec, rng: np.random.Generator) -> Array:
    """Elements of an integer or boolean input: those seen in a run, legal indices, or zeros (True for booleans)."""
    if spec.value is not None:
        return np.array(spec.value).reshape(spec.shape)
    data = kernel.inputs[0]
    if kernel.op_type in _INDEXED and position == 1 and data is not None:
        axis = kernel.attribute("axis")
        return rng.integers(0, max(data.shape[axis if isinstance(axis, int) else 0], 1), spec.shape)
    return np.ones(spec.shape) if spec.dtype == "bool" else np.zeros(spec.shape)


def _role(op_type: str, position: int) -> str:
    if op_type == "QLinearConcat":
        return ("ys", "yz")[position] if position < 2 else ("x", "xs", "xz")[(position - 2) % 3]
    roles = _ROLES.get(op_type, "").split()
    return roles[position] if position < len(roles) else ""


def _scale(kernel: Kernel, role: str) -> float:
    match role:
        case "xs":
            return _INPUT_SCALE
        case "ws":
            return _WEIGHT_SCALE
        case "us":
            return _UNIT_SCALE
        case "ps":
            return _INPUT_SCALE * _INPUT_SCALE * _INPUT_DEVIATION
        case _:
            terms = _terms(kernel)
            if terms == 0:
                return 2 * _INPUT_SCALE
            deviation = math.sqrt(terms) * _INPUT_DEVIATION * _WEIGHT_DEVIATION * _INPUT_SCALE * _WEIGHT_SCALE
            return deviation / _OUTPUT_DEVIATION


def _terms(kernel: Kernel) -> int:
    """Products that one output element sums."""
    if kernel.filter is not None:
        return math.prod(kernel.filter.shape[1:])
    left = kernel.inputs[0]
    return left.shape[-1] if _is_weighted(kernel) and left is not None and left.shape else 0


def _is_weighted(kernel: Kernel) -> bool:
    return any(part in kernel.op_type for part in _WEIGHTED)


def _zero_point(dtype: str) -> int:
    return {"uint8": 128, "uint16": 32768, "uint4": 8}.get(dtype, 0)


def _floats(kernel: Kernel, spec: TensorSpec, rng: np.random.Generator) -> Array:
    """Weights scaled by their fan-in; anything else 0.5 to 1.5: legal as divisor, variance, scale or bias."""
    if _is_weighted(kernel) and len(spec.shape) > 1:
        fan_in = math.prod(spec.shape[1:]) if kernel.filter is not None else spec.shape[-2]
        block = rng.standard_normal(min(spec.size, _BLOCK), dtype=np.float32)
        return np.resize(block / np.float32(math.sqrt(max(fan_in, 1))), spec.shape)
    return np.resize(rng.random(min(spec.size, _BLOCK), dtype=np.float32) + np.float32(0.5), spec.shape)


def _integers(spec: TensorSpec, rng: np.random.Generator) -> Array:
    match spec.dtype:
        case "uint8":
            return rng.integers(0, 256, spec.shape)
        case "int8":
            return rng.integers(-_WEIGHT_LIMIT, _WEIGHT_LIMIT + 1, spec.shape)
        case "int4" | "uint4":
            return rng.integers(0, 8, spec.shape)
        case _:
            return np.zeros(spec.shape)
