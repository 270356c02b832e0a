"""ONNX operators as functions on torch tensors: the table that `torch_module` works through.

Semantics are those of https://onnx.ai/onnx/operators/ for opsets 9 to 22 in float32 inference. A function takes its
`Node` and the node's inputs; an input that ONNX allows to leave out is None. Wherever torch has an operator of the same
meaning it is used, even if simpler ones would do: converters recognise `gelu`, `hardswish` or `avg_pool2d` as a whole.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InvalidInput

Result = Tensor | Sequence[Tensor]
_Call = TypeVar("_Call", bound=Callable[..., Result])


@dataclass(frozen=True)
class Node:
    """What an operator knows of its node besides the inputs: attributes, opset, and how many outputs are wanted."""

    op_type: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.attributes.get(name, default)

    def refuse(self, what: str) -> InvalidInput:
        """The error for a form of the operator that torch does not have."""
        return InvalidInput(f"The operator {self.op_type} {what}, which is not supported.", "Export the model without.")


@dataclass(frozen=True)
class Operator:
    """`call(node, *inputs)`; inputs at the `static` positions are needed as Python lists and so must be constants.

    `scalars` says that constants without dimensions may be passed as Python numbers.
    """

    call: Callable[..., Result]
    static: tuple[int, ...] = ()
    scalars: bool = False


OPERATORS: dict[str, Operator] = {}
"""Operators of ONNX's own domain by op_type."""


def register(*op_types: str, static: tuple[int, ...] = (), scalars: bool = False) -> Callable[[_Call], _Call]:
    """Put a function into the table under these names."""

    def put(call: _Call) -> _Call:
        OPERATORS.update({op_type: Operator(call, static, scalars) for op_type in op_types})
        return call

    return put


def _elementwise(function: Callable[..., Tensor], *, scalars: bool = False) -> Operator:
    return Operator(lambda _, *inputs: function(*inputs), scalars=scalars)


def _with(function: Callable[..., Tensor], **defaults: float) -> Operator:
    """An activation whose float attributes are torch's arguments in the order of `defaults`."""
    return Operator(lambda node, x: function(x, *(node.get(name, value) for name, value in defaults.items())))


_UNARY: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs, "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor,
    "HardSwish": F.hardswish, "IsNaN": torch.isnan, "Log": torch.log, "Mish": F.mish, "Neg": torch.neg,
    "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": F.relu, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Softplus": F.softplus, "Softsign": F.softsign,
    "Sqrt": torch.sqrt, "Tan": torch.tan, "Tanh": torch.tanh,
}  # fmt: skip
_BINARY: dict[str, Callable[..., Tensor]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Pow": operator.pow, "Equal": operator.eq,
    "Greater": operator.gt, "GreaterOrEqual": operator.ge, "Less": operator.lt, "LessOrEqual": operator.le,
    "And": operator.and_, "Or": operator.or_, "Xor": operator.xor,
}  # fmt: skip
OPERATORS |= {name: _elementwise(function) for name, function in _UNARY.items()}
OPERATORS |= {name: _elementwise(function, scalars=True) for name, function in _BINARY.items()}
OPERATORS |= {
    "Celu": _with(F.celu, alpha=1.0),
    "Elu": _with(F.elu, alpha=1.0),
    "LeakyRelu": _with(F.leaky_relu, alpha=0.01),
    "MatMul": _elementwise(torch.matmul),
    "Selu": _elementwise(torch.selu),
    "Sum": _elementwise(lambda *inputs: functools.reduce(operator.add, inputs), scalars=True),
    "Mean": _elementwise(lambda *inputs: functools.reduce(operator.add, inputs) / len(inputs), scalars=True),
    "Where": _elementwise(torch.where),
    "ThresholdedRelu": Operator(lambda node, x: F.threshold(x, node.get("alpha", 1.0), 0.0)),
    "Gelu": Operator(lambda node, x: F.gelu(x, approximate=node.get("approximate", "none"))),
    "GlobalAveragePool": _elementwise(lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)),
    "GlobalMaxPool": _elementwise(lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True)),
    "LogSoftmax": Operator(lambda node, x: _softmax(node, x, F.log_softmax)),
    "Softmax": Operator(lambda node, x: _softmax(node, x, F.softmax)),
    "Einsum": Operator(lambda node, *inputs: torch.einsum(node.get("equation"), *inputs)),
    "LRN": Operator(lambda n, x: F.local_response_norm(x, n.get("size"), n.get("alpha", 1e-4), n.get("beta", 0.75),
                                                       n.get("bias", 1.0))),
}  # fmt: skip


def integers(node: Node, value: Any) -> list[int]:
    """A static input or an attribute as integers; InvalidInput when it is computed from the network's input."""
    if isinstance(value, Tensor):
        raise node.refuse("has a size or an index that depends on the input's values")
    return [int(item) for item in (value if isinstance(value, list | tuple) else [value])]


def number(node: Node, value: Any, default: Any) -> Any:
    """A static input of one element, or the default where it is left out."""
    if isinstance(value, Tensor):
        raise node.refuse("has a bound or an amount that depends on the input's values")
    value = value[0] if isinstance(value, list) and value else value
    return default if value is None or value == [] else value


def axes_of(node: Node, given: Any, rank: int) -> list[int]:
    """Axes from the input (newer opsets) or the attribute, counted from the front."""
    given = node.get("axes", []) if given is None else given
    return [axis % rank for axis in integers(node, list(given) if not isinstance(given, Tensor | int) else given)]


@register("Div", scalars=True)
def _div(_: Node, a: Any, b: Any) -> Tensor:
    integer = not any(isinstance(x, float) or (isinstance(x, Tensor) and x.is_floating_point()) for x in (a, b))
    return torch.div(a, b, rounding_mode="trunc") if integer else torch.as_tensor(a / b)


@register("Mod", scalars=True)
def _mod(node: Node, a: Any, b: Any) -> Tensor:
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


@register("Min", "Max", scalars=True)
def _extremum(node: Node, *inputs: Any) -> Tensor:
    smaller = node.op_type == "Min"

    def pair(a: Any, b: Any) -> Tensor:
        whole, other = (a, b) if isinstance(a, Tensor) else (b, a)
        if isinstance(other, Tensor):
            return torch.minimum(whole, other) if smaller else torch.maximum(whole, other)
        return torch.clamp(whole, max=other) if smaller else torch.clamp(whole, min=other)

    result: Tensor = functools.reduce(pair, inputs)
    return result


@register("Clip", static=(1, 2))
def _clip(node: Node, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    low, high = number(node, low, node.get("min")), number(node, high, node.get("max"))
    return x if low is None and high is None else torch.clamp(x, low, high)


@register("HardSigmoid")
def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@register("PRelu")
def _prelu(_: Node, x: Tensor, slope: Tensor) -> Tensor:
    if slope.numel() in (1, x.shape[1]) and x.ndim > 1 and slope.ndim >= x.ndim - 1:
        return F.prelu(x, slope.flatten())
    return torch.where(x < 0, x * slope, x)


@register("BatchNormalization")
def _batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    if node.get("training_mode", 0):
        raise node.refuse("is in training mode")
    return F.batch_norm(x, mean, variance, scale, bias, eps=node.get("epsilon", 1e-5))


@register("InstanceNormalization")
def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


@register("LayerNormalization")
def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    shape = x.shape[node.get("axis", -1) % x.ndim :]
    bias = bias if bias is None else bias.expand(shape)
    return F.layer_norm(x, shape, scale.expand(shape), bias, node.get("epsilon", 1e-5))


@register("GroupNormalization")
def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = node.get("num_groups")
    if node.opset < 21:  # one scale per group, not per channel
        scale, bias = (item.repeat_interleave(x.shape[1] // groups) for item in (scale, bias))
    return F.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


def _softmax(node: Node, x: Tensor, function: Callable[..., Tensor]) -> Tensor:
    if node.opset >= 13:
        return function(x, dim=node.get("axis", -1))
    axis = node.get("axis", 1) % x.ndim  # all axes from this one on count as one
    return function(x.flatten(axis), dim=-1).reshape(x.shape)


@register("Gemm")
def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.t() if node.get("transA", 0) else a
    b = b if node.get("transB", 0) else b.t()
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if alpha == beta == 1.0 and (c is None or c.ndim == 1):
        return F.linear(a, b, c)
    product: Tensor = alpha * F.linear(a, b)
    return product if c is None else product + beta * c


def _same_pads(node: Node, sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Begins, then ends, of the paddings that `auto_pad` asks for; `windows` are dilated kernel sizes."""
    totals = [
        max((math.ceil(size / stride) - 1) * stride + window - size, 0)
        for size, window, stride in zip(sizes, windows, strides, strict=True)
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return small + large if node.get("auto_pad") == "SAME_UPPER" else large + small


def _window(node: Node, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads (begins, then ends) of a convolution or pooling."""
    rank = x.ndim - 2
    strides, dilations = (list(node.get(name) or [1] * rank) for name in ("strides", "dilations"))
    pads = list(node.get("pads") or [0] * 2 * rank)
    if node.get("auto_pad", "NOTSET").startswith("SAME"):
        windows = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        pads = _same_pads(node, x.shape[2:], windows, strides)
    return strides, dilations, pads


def pad_pairs(pads: Sequence[int]) -> list[int]:
    """ONNX's begins and ends as the pairs, last axis first, of `torch.nn.functional.pad`."""
    rank = len(pads) // 2
    return list(itertools.chain.from_iterable((pads[axis], pads[axis + rank]) for axis in reversed(range(rank))))


def _padded(x: Tensor, pads: list[int], value: float = 0.0) -> Tensor:
    return F.pad(x, pad_pairs(pads), value=value) if any(pads) else x


@register("Conv")
def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    strides, dilations, pads = _window(node, x, weight.shape[2:])
    rank = len(strides)
    if pads[:rank] != pads[rank:]:
        x, pads = _padded(x, pads), [0] * rank
    call: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return call(x, weight, bias, strides, pads[:rank], dilations, node.get("group", 1))


@register("ConvTranspose")
def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel, rank = weight.shape[2:], x.ndim - 2
    strides, dilations, pads = _window(node, x, kernel)
    extra = list(node.get("output_padding") or [0] * rank)
    auto = node.get("auto_pad", "NOTSET")
    sizes = node.get("output_shape")
    if sizes or auto.startswith("SAME"):
        sizes = sizes or [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
        totals = [
            max(stride * (have - 1) + more + (size - 1) * dilation + 1 - want, 0)
            for stride, have, more, size, dilation, want in zip(
                strides, x.shape[2:], extra, kernel, dilations, sizes[-rank:], strict=True
            )
        ]
        small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
        pads = small + large if auto == "SAME_UPPER" else large + small
    call: Callable[..., Tensor] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    even = pads[:rank] if pads[:rank] == pads[rank:] else [0] * rank
    y = call(x, weight, bias, strides, even, extra, node.get("group", 1), dilations)
    return y if pads[:rank] == pads[rank:] else _padded(y, [-pad for pad in pads])


@register("MaxPool")
def _max_pool(node: Node, x: Tensor) -> Tensor:
    kernel = list(node.get("kernel_shape"))
    strides, dilations, pads = _window(node, x, kernel)
    rank, ceil = len(kernel), bool(node.get("ceil_mode", 0))
    if pads[:rank] != pads[rank:] or any(2 * pad > size for pad, size in zip(pads, kernel * 2, strict=True)):
        x, pads = _padded(x, _whole_windows(node, x, kernel), -math.inf), [0] * rank
    call: Callable[..., Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    return call(x, kernel, strides, pads[:rank], dilations, ceil)


def _whole_windows(node: Node, x: Tensor, kernel: Sequence[int]) -> list[int]:
    """Pads with the ends that `ceil_mode` looks at; a last window that begins beyond the data does not count."""
    strides, dilations, pads = _window(node, x, kernel)
    rank = len(kernel)
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        have, span = x.shape[2 + axis] + pads[axis], (size - 1) * dilation + 1
        rounded = math.ceil if node.get("ceil_mode", 0) else math.floor
        last = rounded((have + pads[rank + axis] - span) / stride)
        pads[rank + axis] = (last - (last * stride >= have)) * stride + span - have
    return pads


@register("AveragePool")
def _average_pool(node: Node, x: Tensor) -> Tensor:
    kernel = list(node.get("kernel_shape"))
    strides, dilations, pads = _window(node, x, kernel)
    rank, ceil, include = len(kernel), bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0))
    if dilations != [1] * rank:
        raise node.refuse("has dilations")
    call: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    if pads[:rank] == pads[rank:] and all(2 * pad <= size for pad, size in zip(pads, kernel * 2, strict=True)):
        return call(x, kernel, strides, pads[:rank], ceil, include)
    if include:
        return call(_padded(x, pads), kernel, strides, 0, ceil)
    pads = _whole_windows(node, x, kernel)
    shares = call(_padded(torch.ones_like(x[:1, :1]), pads), kernel, strides)
    return call(_padded(x, pads), kernel, strides) / shares


_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL1": lambda x, axes, keepdim: x.abs().sum(axes, keepdim),
    "ReduceL2": lambda x, axes, keepdim: torch.linalg.vector_norm(x, 2, axes, keepdim),
    "ReduceSumSquare": lambda x, axes, keepdim: x.square().sum(axes, keepdim),
    "ReduceLogSum": lambda x, axes, keepdim: x.sum(axes, keepdim).log(),
    "ReduceLogSumExp": torch.logsumexp,
}


@register(*_REDUCTIONS, "ReduceProd", static=(1,))
def _reduce(node: Node, x: Tensor, axes: Any = None) -> Tensor:
    chosen = axes_of(node, axes, x.ndim)
    if not chosen and node.get("noop_with_empty_axes", 0):
        return x
    chosen, keepdim = chosen or list(range(x.ndim)), bool(node.get("keepdims", 1))
    if node.op_type != "ReduceProd":
        return _REDUCTIONS[node.op_type](x, chosen, keepdim=keepdim)
    return functools.reduce(lambda y, axis: y.prod(axis, keepdim), sorted(chosen, reverse=True), x)


@register("ArgMax", "ArgMin")
def _arg(node: Node, x: Tensor) -> Tensor:
    if node.get("select_last_index", 0):
        raise node.refuse("selects the last of equal elements")
    function: Callable[..., Tensor] = torch.argmax if node.op_type == "ArgMax" else torch.argmin
    return function(x, node.get("axis", 0), keepdim=bool(node.get("keepdims", 1)))


@register("TopK", static=(1,))
def _top_k(node: Node, x: Tensor, k: Any = None) -> Sequence[Tensor]:
    (count,) = integers(node, node.get("k") if k is None else k)
    return torch.topk(x, count, node.get("axis", -1), bool(node.get("largest", 1)), bool(node.get("sorted", 1)))


@register("CumSum", static=(1,))
def _cum_sum(node: Node, x: Tensor, axis: Any) -> Tensor:
    (axis,) = integers(node, axis)
    x = x.flip(axis) if node.get("reverse", 0) else x
    y = x.cumsum(axis, dtype=x.dtype)
    y = y - x if node.get("exclusive", 0) else y
    return y.flip(axis) if node.get("reverse", 0) else y


@register("Trilu", static=(1,))
def _trilu(node: Node, x: Tensor, k: Any = None) -> Tensor:
    diagonal = int(number(node, k, 0))
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)
