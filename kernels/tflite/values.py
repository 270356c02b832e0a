"""Constants and quantisation of one-kernel TFLite files: random, legal, and typical for speed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...errors import InvalidInput
from ..kernel import Kernel, TensorSpec
from .operators import (
    BIAS,
    DATA,
    FIXED_SCALE,
    INDEX_INPUTS,
    LEAST_ZERO_POINTS,
    SAME_SCALE,
    SCALE_RATIOS,
    SHAPING_INPUTS,
    WEIGHT_AXIS,
)
from .writer import Quantisation

Array = np.ndarray[Any, np.dtype[Any]]

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_LIMITS = {"int2": 1, "int4": 7, "uint4": 7, "int8": 127, "uint8": 127, "int16": 32767}
"""Largest distance of a quantised integer from its zero point."""

_ZERO_POINTS = {"uint8": 128, "uint4": 8}
_INPUT_RANGE, _WEIGHT_RANGE = 2.5, 1.25
"""Largest real activation and weight."""

_OUTPUT_DEVIATIONS = 2.5
"""Half of the output's range in standard deviations of its sums."""

_OTHER_SCALE = 1.5
"""Factor between input and output scale where a kernel rescales."""

_BLOCK = 1 << 16
"""Longer constants repeat a block of this many random elements: drawing millions takes longer than timing."""

_BIAS_LIMIT = 500


def constant_value(kernel: Kernel, position: int, spec: TensorSpec, rng: np.random.Generator) -> Array:
    """Elements of a constant input, in the shape of `spec`; the writer converts them to its dtype.

    Raises InvalidInput for a constant that shapes the work and whose elements the description does not hold.
    """
    if spec.value is not None:
        return np.array(spec.value).reshape(spec.shape)
    if position in SHAPING_INPUTS.get(kernel.op_type, ()):
        raise _unknown(kernel, position)
    if spec.dtype in _FLOATS:
        return _floats(kernel, position, spec, rng)
    if spec.dtype in _LIMITS:
        limit = _LIMITS[spec.dtype]
        return _repeated(spec, rng.integers(-limit, limit + 1, _size(spec)) + _ZERO_POINTS.get(spec.dtype, 0))
    if position == BIAS.get(kernel.op_type):
        return rng.integers(-_BIAS_LIMIT, _BIAS_LIMIT + 1, spec.shape)
    if position == INDEX_INPUTS.get(kernel.op_type):
        return rng.integers(0, _indexed_size(kernel), spec.shape)
    return _repeated(spec, rng.integers(0, 2, _size(spec)))


def check_fed(kernel: Kernel, position: int) -> None:
    """InvalidInput for an input that is fed, but whose elements shape the work: zeros would be another kernel."""
    if position in SHAPING_INPUTS.get(kernel.op_type, ()):
        raise _unknown(kernel, position)


def input_quantisation(kernel: Kernel, position: int, spec: TensorSpec) -> Quantisation | None:
    """Scale and zero point of an input, None for what is not quantised."""
    above = LEAST_ZERO_POINTS.get((kernel.op_type, position))
    if above is not None and spec.dtype in ("int8", "uint8"):
        return Quantisation((_scale(spec.dtype),), above - (128 if spec.dtype == "int8" else 0))
    if position == 1:
        return _weights(kernel, spec)
    if position != BIAS.get(kernel.op_type) or spec.dtype not in ("int32", "int64"):
        return _activation(spec.dtype)
    source, weights = kernel.inputs[DATA.get(kernel.op_type, 0)], kernel.inputs[1]
    filters = None if weights is None else _weights(kernel, weights)
    if source is None or source.dtype not in _LIMITS or filters is None:
        return None
    return Quantisation(tuple(_scale(source.dtype) * scale for scale in filters.scales))


def output_quantisation(kernel: Kernel, spec: TensorSpec) -> Quantisation | None:
    """Scale and zero point of an output: what the operator demands, else such that the range is used."""
    dtype, op_type = spec.dtype, kernel.op_type
    if dtype not in _LIMITS:
        return None
    if op_type in FIXED_SCALE:
        scale, zero_point = FIXED_SCALE[op_type]
        if dtype == "int16":
            return Quantisation((1 / 32768,))
        return Quantisation((scale,), zero_point + _ZERO_POINTS.get(dtype, 0))
    if op_type in SAME_SCALE:
        return _activation(dtype)
    if op_type in SCALE_RATIOS and kernel.attribute("far_scales"):
        least, _ = SCALE_RATIOS[op_type]
        product = _scale(dtype) if op_type == "MUL" else 1.0
        return _activation(dtype, product / least * _OTHER_SCALE)
    if terms := _summands(kernel):
        deviation = math.sqrt(terms) * _INPUT_RANGE * _WEIGHT_RANGE / 3  # both are uniform
        return _activation(dtype, deviation * _OUTPUT_DEVIATIONS / _INPUT_RANGE)
    return _activation(dtype, _OTHER_SCALE)


def _activation(dtype: str, factor: float = 1.0) -> Quantisation | None:
    if dtype not in _LIMITS:
        return None
    # An odd zero point where types allow one: real networks rarely have 0.
    zero_point = 0 if dtype == "int16" else _ZERO_POINTS.get(dtype, 0) - 3
    return Quantisation((_scale(dtype) * factor,), zero_point)


def _scale(dtype: str) -> float:
    return _INPUT_RANGE / _LIMITS[dtype]


def _weights(kernel: Kernel, spec: TensorSpec) -> Quantisation | None:
    """A scale per output channel, or one where the kernel says so; activations in the weights' place have one."""
    weighted = spec.constant and (kernel.op_type in WEIGHT_AXIS or kernel.op_type == "BATCH_MATMUL")
    if not weighted or spec.dtype not in _LIMITS:
        return _activation(spec.dtype)
    scheme = kernel.attribute("weight_quantisation")
    axis = None if scheme == "tensor" else WEIGHT_AXIS.get(kernel.op_type)
    if isinstance(scheme, str) and scheme.startswith("axis "):
        axis = int(scheme.removeprefix("axis "))
    scales = (_WEIGHT_RANGE / _LIMITS[spec.dtype],) * (1 if axis is None else spec.shape[axis])
    return Quantisation(scales, _ZERO_POINTS.get(spec.dtype, 0), axis or 0)


def _summands(kernel: Kernel) -> int:
    """Products that one output element sums, 0 for what is no product."""
    if (filters := kernel.filter) is not None:
        return math.prod(filters.shape[1:])
    weights = kernel.inputs[1] if len(kernel.inputs) > 1 else None
    left = kernel.inputs[0] if kernel.inputs else None
    if kernel.op_type == "FULLY_CONNECTED" and weights is not None:
        return weights.shape[-1]
    if kernel.op_type == "BATCH_MATMUL" and left is not None:
        return left.shape[-2 if kernel.attribute("adj_x") else -1]
    return 1 if kernel.op_type == "MUL" else 0


def _floats(kernel: Kernel, position: int, spec: TensorSpec, rng: np.random.Generator) -> Array:
    """Weights scaled by their fan-in; anything else 0.5 to 1.5: legal as divisor, slope, exponent or bias."""
    if position == 1 and (kernel.op_type in WEIGHT_AXIS or kernel.op_type == "BATCH_MATMUL"):
        block = rng.standard_normal(_size(spec), dtype=np.float32)
        return _repeated(spec, block / np.float32(math.sqrt(max(_summands(kernel), 1))))
    return _repeated(spec, rng.random(_size(spec), dtype=np.float32) + np.float32(0.5))


def _size(spec: TensorSpec) -> int:
    return min(spec.size, _BLOCK)


def _repeated(spec: TensorSpec, block: Array) -> Array:
    return np.resize(block, spec.shape)


def _indexed_size(kernel: Kernel) -> int:
    """Elements along the dimension from which indices choose."""
    data = kernel.inputs[0 if kernel.op_type != "EMBEDDING_LOOKUP" else 1]
    axis = kernel.attribute("axis")
    if kernel.op_type not in ("GATHER", "EMBEDDING_LOOKUP") or data is None or not data.shape:
        return 1  # zero, the index that always exists
    return max(data.shape[axis if isinstance(axis, int) else 0], 1)


def _unknown(kernel: Kernel, position: int) -> InvalidInput:
    return InvalidInput(
        f"A model of {kernel.kind} alone cannot be built: the values of input {position} are not known.",
        "It is predicted from its bytes instead.",
    )
