"""What a kernel costs in hardware terms: the code path that runs it, and the quantities its time is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ...kernels.costs import input_bytes, macs, output_bytes, weight_bytes
from ...kernels.kernel import TFLITE_DOMAIN, Kernel, TensorSpec

FIRST_CHANNELS = 4
"""A dense convolution with so few input channels (the picture's) takes a path of its own in every runtime."""
MAX_XNNPACK_INPUTS = 5
"""Of a concatenation; those of more tensors run on TFLite's built-in kernel."""
BLOCK = 8
"""Channels of one vector register with AVX2; the NCHWc convolution works on sets of four such blocks."""

TERMS = (
    "constant",
    "macs",
    "padded_macs",
    "rows",
    "column_bytes",
    "input_bytes",
    "output_bytes",
    "weight_bytes",
    "edge_rows",
    "tail_macs",
    "one_block_macs",
    "two_block_macs",
    "three_block_macs",
    "window_reads",
    "chunks",
)
"""Terms of the physics fit; a kernel's latency is a non-negative combination of them."""

SIMPLE_TERMS = frozenset(("constant", "macs", "input_bytes", "output_bytes", "weight_bytes"))
"""The terms of the bytes-and-MACs model, for kernels of which there is no data."""

_ELEMENTWISE = (
    *("relu", "relu6", "sigmoid", "logistic", "tanh", "hardsigmoid", "hardswish", "clip", "gelu", "erf", "exp", "sqrt"),
    *("elu", "leakyrelu", "softplus", "abs", "neg", "reciprocal", "log", "rsqrt", "add", "sub", "mul", "div", "pow"),
    *("min", "max", "minimum", "maximum", "squareddifference", "prelu", "quantizelinear", "dequantizelinear"),
    *("quantize", "dequantize", "cast", "square", "where", "quickgelu", "biasgelu", "fastgelu", "floor", "sin", "cos"),
)
_MOVES = (
    *("transpose", "concat", "concatenation", "split", "splitv", "slice", "stridedslice", "gather", "pad", "padv2"),
    *(
        "mirrorpad",
        "expand",
        "broadcastto",
        "tile",
        "resize",
        "resizebilinear",
        "resizenearestneighbor",
        "reorderinput",
    ),
    *("reorderoutput", "depthtospace", "spacetodepth", "pack", "unpack", "upsample", "roll", "reversev2", "gathernd"),
)


def path(kernel: Kernel) -> str:
    """The code path of the runtime that runs the kernel: kernels of one path share a model.

    Operator and type of its first activation (and of its weights where that differs); convolutions further by what
    their implementations differ in.
    """
    name = f"{kernel.op}:{_dtype(kernel)}"
    filters = kernel.filter
    if filters is None:
        variant = _variant(kernel)
        return f"{name}:{variant}" if variant else name
    if kernel.is_depthwise:
        return f"{name}:depthwise"
    if kernel.groups > 1:
        return f"{name}:grouped"
    if filters.shape[1] <= FIRST_CHANNELS:
        return f"{name}:first"
    return f"{name}:{'pointwise' if math.prod(filters.shape[2:]) == 1 else 'dense'}"


def _variant(kernel: Kernel) -> str:
    """What the implementations of an operator that is no convolution differ in."""
    if kernel.op_type.upper() == "TRANSPOSE":
        return transposition(kernel)
    if kernel.op_type == "CONCATENATION":
        return "many" if len(kernel.inputs) > MAX_XNNPACK_INPUTS else ""
    # One row is bound by reading the weights, many by multiplying.
    return "row" if macs(kernel) and product_shape(kernel)[0] == 1 else ""


def transposition(kernel: Kernel) -> str:
    """How a transpose moves elements: `blocks` stay whole, `matrix` swaps two groups of axes, `general` is the rest.

    Axes of size 1, and axes that stay neighbours, count as one; `copy` moves nothing.
    """
    out = kernel.outputs[0] if kernel.outputs else None
    perm = kernel.ints("perm") or tuple(reversed(range(len(out.shape) if out is not None else 0)))
    if out is None or len(perm) != len(out.shape):
        return "general"
    moved = [axis for axis, size in zip(perm, out.shape, strict=True) if size != 1]
    order = [sorted(moved).index(axis) for axis in moved]
    merged = [axis for i, axis in enumerate(order) if i == 0 or axis != order[i - 1] + 1]
    if len(merged) <= 1:
        return "copy"
    if order[-1] == len(order) - 1:
        return "blocks"
    return "matrix" if len(merged) == 2 or (len(merged) == 3 and order[0] == 0) else "general"


def family(kernel: Kernel) -> str:
    """A group of paths with alike costs, to stand in for a path without data: `*elementwise:float32`."""
    name = kernel.op_type.removeprefix("QLinear").removeprefix("Fused").lower().replace("_", "")
    kind = "other"
    if macs(kernel):
        kind = "depthwise" if kernel.is_depthwise else "product"
    elif name in _ELEMENTWISE:
        kind = "elementwise"
    elif name in _MOVES:
        kind = "move"
    return f"*{kind}:{_dtype(kernel)}"


def _dtype(kernel: Kernel) -> str:
    specs = [spec for spec in kernel.inputs if spec is not None]
    if not specs:
        return "none"
    first = next(iter(activations(kernel)), specs[0])  # some list shapes or weights before their data
    filters = kernel.filter
    mixed = filters is not None and filters.dtype[:5] != first.dtype[:5] and "int" not in first.dtype
    return f"{first.dtype}*{filters.dtype}" if mixed and filters is not None else first.dtype


def physics_terms(kernel: Kernel) -> np.ndarray:
    """(terms,): the non-negative quantities of `TERMS`, in thousands except the constant.

    `padded_macs` counts what vector units execute: outputs rounded up to 16, summands to 4, for each group;
    `column_bytes` is the traffic of gathering windows into columns (im2col), absent for pointwise and depthwise;
    `edge_rows` are output rows, each of which starts and ends with a partial tile; `tail_macs` is the work in channels
    beyond the last full vector of 16, done one by one. `*_block_macs` is the work in the one, two or three blocks of 8
    output channels that are left when a group's channels are taken four blocks at a time. `window_reads` are the
    elements that poolings read; `chunks` the contiguous runs of elements that a kernel goes through.
    """
    m, n, k = product_shape(kernel)
    work = macs(kernel)
    groups = kernel.groups
    per_group = n // groups
    dense = work and not kernel.is_depthwise
    # XNNPACK computes a partial vector of channels like a full one; ONNX Runtime has code of its own for the rest.
    tails = work and kernel.domain != TFLITE_DOMAIN
    padded = m * groups * _up(per_group, 16) * _up(k, 4) if dense else 0
    gathers = kernel.filter is not None and math.prod(kernel.window) > 1 and not kernel.is_depthwise
    sources = activations(kernel)
    element_bytes = input_bytes(kernel) / max(1, sum(spec.size for spec in sources))
    out = kernel.outputs[0] if kernel.outputs else None
    height = height_of(kernel, out.shape) if out is not None else 1
    left_blocks = math.ceil(per_group / BLOCK) % 4 if dense and tails else 0
    left_macs = m * groups * k * left_blocks * BLOCK
    pooled = not work and math.prod(kernel.window) > 1
    terms = (
        work,
        padded,
        m * groups if work else m,
        m * k * groups * element_bytes if gathers else 0,
        input_bytes(kernel),
        output_bytes(kernel),
        weight_bytes(kernel),
        height * n if work else height,
        m * k * (n % 16) if tails else 0,
        *(left_macs if left_blocks == blocks else 0 for blocks in (1, 2, 3)),
        math.prod(kernel.window) * (out.size if out is not None else 0) if pooled else 0,
        0 if work else chunks(kernel),
    )
    return np.array([1.0, *(term / 1000 for term in terms)])


def product_shape(kernel: Kernel) -> tuple[int, int, int]:
    """(m, n, k) of the matrix product behind the kernel: positions, outputs, summands; (elements, 1, 1) for others."""
    out = kernel.outputs[0] if kernel.outputs else None
    elements = out.size if out is not None else 0
    if (filters := kernel.filter) is not None:
        n = max(1, filters.shape[0])
        return elements // n, n, math.prod(filters.shape[1:])
    work = macs(kernel)
    if work and out is not None and out.shape:
        n = max(1, out.shape[-1])
        return elements // n, n, max(1, work // max(1, elements))
    return elements, 1, 1


def activations(kernel: Kernel) -> list[TensorSpec]:
    """Inputs that are no constants."""
    return [spec for spec in kernel.inputs if spec is not None and not spec.constant]


def height_of(kernel: Kernel, shape: Sequence[int]) -> int:
    """Rows of a picture in the kernel's layout; of other tensors the dimension before the last."""
    if len(shape) == 4:
        return shape[1] if kernel.domain == TFLITE_DOMAIN or kernel.attribute("channels_last") == 1 else shape[2]
    return shape[-2] if len(shape) >= 2 else 1


def chunks(kernel: Kernel) -> int:
    """Contiguous runs of elements that the kernel handles one after another.

    Of a transpose those that keep their order; of kernels that cut, join or pad those up to the axis where shapes
    differ; of all others the rows along the last dimension.
    """
    out = kernel.outputs[0] if kernel.outputs else None
    if out is None or not out.size:
        return 0
    count = _CHUNKS.get(kernel.op_type.lower().replace("_", ""))
    return count(kernel, out) if count else out.size // max(1, out.shape[-1] if out.shape else 1)


def _transposed(kernel: Kernel, out: TensorSpec) -> int:
    perm = kernel.ints("perm") or tuple(reversed(range(len(out.shape))))
    run = 1
    for axis in reversed(range(len(out.shape))):
        if axis >= len(perm) or perm[axis] != axis:
            break
        run *= out.shape[axis]
    return out.size // max(1, run)


def _cut_or_joined(kernel: Kernel, out: TensorSpec) -> int:
    total = 0
    wholes = [spec for spec in (*activations(kernel)[:1], out) if spec.shape]
    whole = max(wholes, key=lambda spec: spec.size, default=out)
    parts = [spec for spec in (*activations(kernel), *kernel.outputs) if spec is not None and spec is not whole]
    for part in parts:
        run = 1
        if len(part.shape) == len(whole.shape):
            for size, whole_size in zip(reversed(part.shape), reversed(whole.shape), strict=True):
                run *= size
                if size != whole_size:
                    break
        else:
            run = part.shape[-1] if part.shape else 1
        total += part.size // max(1, run)
    return total


_CHUNKS: dict[str, Callable[[Kernel, TensorSpec], int]] = {
    "transpose": _transposed,
    **dict.fromkeys(("concat", "concatenation", "qlinearconcat", "split", "splitv", "slice"), _cut_or_joined),
    **dict.fromkeys(("stridedslice", "pad", "padv2", "mirrorpad", "gather"), _cut_or_joined),
}


def _up(value: int, step: int) -> int:
    return math.ceil(value / step) * step
