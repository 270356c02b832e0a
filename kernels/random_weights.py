"""Random weights for a network of which only the structure is known, drawn so that activations keep their size.

A forward pass over mean squares instead of tensors, after He et al. (2015), "Delving Deep into Rectifiers", section
2.2: a sum of n products of independent numbers has n times the product of their mean squares. Rough is enough: it
only has to keep a deep network from overflowing or fading away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .kernel import TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCK = 65521
"""Random elements drawn once and repeated. A prime, so that the rows of a weight, whatever their length, differ."""

_INTEGER_REACH = 3
"""Standard deviations of weights up to which their quantised form has numbers."""

_INT32_DEVIATION = 100.0
"""Small biases: they count in steps of input scale times weight scale."""

_OFFSET_DEVIATION = 0.1
_FACTOR_DEVIATION, _FACTOR_LIMIT = 1 / 6, 0.5

_TERMS = 64
"""Products that an element sums where two activations are multiplied as matrices: the width of a head, roughly."""

_SQUARE_LIMIT = 1e12

_PASSING = frozenset(
    ("identity", "transpose", "reshape", "expand", "broadcastto", "squeeze", "unsqueeze", "expanddims", "cast")
) | {"dequantizelinear", "dequantize"}
"""Nodes that give their first input in another form: a constant is used behind them."""

_FACTORS = {
    "batchnormalization": (1, 4),
    "instancenormalization": (1,),
    "layernormalization": (1,),
    "mul": (0, 1),
    "div": (0, 1),
}
"""Inputs drawn around 1: scales, variances, divisors. Anything else that is no weight is drawn around 0."""

_SHARE = {
    **dict.fromkeys(("relu", "relu6", "clip", "leakyrelu", "relun1to1", "relu0to1", "prelu"), 0.5),
    **dict.fromkeys(("hardswish", "gelu", "elu"), 0.36),
}
"""Mean square behind an activation function as a share of that before it."""

_SETTLED = {
    **dict.fromkeys(("layernormalization", "instancenormalization"), 1.0),
    **dict.fromkeys(("sigmoid", "logistic", "hardsigmoid", "tanh", "erf"), 0.3),
    "softmax": 0.01,
}
"""Mean square behind a node whose output does not grow with its input."""

_COMBINED: dict[str, Callable[[list[float]], float]] = {
    **dict.fromkeys(("add", "sub", "sum"), sum),
    **dict.fromkeys(("matmul", "gemm", "batchmatmul"), lambda squares: _TERMS * squares[0] * squares[1]),
    "mul": math.prod,
    "div": lambda squares: squares[0] / squares[1],
    "squareddifference": lambda squares: 3 * sum(squares) ** 2,
    **dict.fromkeys(("pow", "square"), lambda squares: 3 * squares[0] ** 2),
    "sqrt": lambda squares: math.sqrt(squares[0]),
    "rsqrt": lambda squares: 1 / math.sqrt(squares[0]),
}


@dataclass(frozen=True)
class Step:
    """One node of a network of either format.

    op: lower case, no underscores (`conv`, `hardswish`). inputs, outputs: names of tensors; a convolution's first
    two inputs are data and weights. activation: name of a fused one, else empty. transposed: whether each factor
    of a matrix product is.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    activation: str = ""
    transposed: tuple[bool, bool] = (False, False)

    def fan_in(self, position: int, shape: tuple[int, ...]) -> int:
        """Products that one output element sums when input `position` is a weight of this shape, 0 if it is none."""
        if position > 1 or len(shape) < 2:
            return 0
        match self.op:
            case "conv" | "conv2d" | "conv3d":
                return math.prod(shape[1:]) * position
            case "depthwiseconv2d":
                return math.prod(shape[:-1]) * position
            case "convtranspose":
                return shape[0] * position
            case "transposeconv" | "fullyconnected":
                return shape[-1] * position
            case "gemm" | "matmul" | "batchmatmul":
                return shape[-1] if self.transposed[position] == bool(position) else shape[-2]
            case _:
                return 0


class RandomWeights:
    """Values for the missing constants of a network.

    steps: its nodes in topological order. missing: shapes and types of the constants to draw, by name. known: the
    other constants. integer_limit: largest quantised weight, by which its scale was chosen.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        missing: Mapping[str, TensorSpec],
        known: Mapping[str, Array],
        integer_limit: int,
        seed: int,
    ) -> None:
        self._integer_limit = integer_limit
        self._rng = np.random.default_rng(seed)
        self._block = self._rng.standard_normal(_BLOCK, dtype=np.float32)
        self._missing = missing
        self._uses: dict[str, tuple[Step, int]] = {}
        origins = {name: name for name in missing}  # of each constant in another form, the one drawn
        computed = []
        for step in steps:
            if step.op in _PASSING and step.inputs[0] in origins:
                origins.update(dict.fromkeys(step.outputs, origins[step.inputs[0]]))
                continue
            computed.append(step)
            for position, name in enumerate(step.inputs):
                if name in origins:
                    self._uses.setdefault(origins[name], (step, position))
        squares = {name: _limited(_mean_square(value)) for name, value in known.items()}
        for name, origin in origins.items():
            squares[name] = 1.0 if self._is_factor(origin) else _OFFSET_DEVIATION**2
        self._squares = _propagated(
            computed, squares, {name: missing[origin].shape for name, origin in origins.items()}
        )

    def draw(self, name: str) -> Array:
        """The values of one missing constant."""
        spec = self._missing[name]
        dtype = np.dtype(spec.dtype)
        normal = np.resize(np.roll(self._block, int(self._rng.integers(_BLOCK))), spec.shape)
        if dtype.kind == "f":
            return self._floats(name, normal).astype(dtype)
        if dtype.itemsize > 1:
            return (normal * np.float32(_INT32_DEVIATION)).astype(dtype)
        middle, limit = 128 if dtype.kind == "u" else 0, self._integer_limit
        integers = np.clip(np.rint(normal * np.float32(limit / _INTEGER_REACH)), -limit, limit)
        return np.asarray(integers + middle, dtype)

    def _floats(self, name: str, normal: Array) -> Array:
        if use := self._uses.get(name):
            step, position = use
            if terms := step.fan_in(position, normal.shape):
                square = terms * self._squares.get(step.inputs[1 - position], 1.0)
                return normal * np.float32(1 / math.sqrt(square))
        if self._is_factor(name):
            return 1 + np.clip(normal * np.float32(_FACTOR_DEVIATION), -_FACTOR_LIMIT, _FACTOR_LIMIT)
        return normal * np.float32(_OFFSET_DEVIATION)

    def _is_factor(self, name: str) -> bool:
        step, position = self._uses.get(name, (None, 0))
        return step is not None and position in _FACTORS.get(step.op, ())


def _propagated(
    steps: Iterable[Step], constants: Mapping[str, float], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """Mean square of every tensor; inputs of the network are standard normal, as are the outputs of weights.

    constants: mean squares of those that are no weights. shapes: of the constants that may be weights.
    """
    squares = dict(constants)
    for step in steps:
        found = [squares.get(name, 1.0) for name in step.inputs] or [1.0]
        if any(step.fan_in(position, shapes.get(name, ())) for position, name in enumerate(step.inputs)):
            square = 1.0
        elif share := _SHARE.get(step.op):
            square = share * found[0]
        else:
            square = _SETTLED.get(step.op) or _COMBINED.get(step.op, max)(found)
        square = _limited(square * _SHARE.get(step.activation, 1.0))
        for name in step.outputs:
            squares.setdefault(name, square)  # what a Constant node gives is known
    return squares


def _mean_square(values: Array) -> float:
    if values.dtype.kind != "f" or not values.size:
        return 0.0
    return float(np.mean(np.square(np.clip(values.astype(np.float64), -_SQUARE_LIMIT, _SQUARE_LIMIT))))


def _limited(square: float) -> float:
    return min(max(square, 1 / _SQUARE_LIMIT), _SQUARE_LIMIT)
