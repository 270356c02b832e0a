"""What a kernel costs, in numbers: the terms of the physics fit and the features of the trees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..kernels.costs import input_bytes, macs, output_bytes, weight_bytes
from ..kernels.kernel import Kernel, TensorSpec

ACTIVATIONS = ("Relu", "Clip", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu")
FIRST_CHANNELS = 4
"""A dense convolution with so few input channels (the picture's) takes a path of its own in every runtime."""

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
)
"""Terms of the physics fit; a kernel's latency is a non-negative combination of them."""

FEATURES = (
    "macs",
    "input_bytes",
    "output_bytes",
    "weight_bytes",
    "m",
    "n",
    "k",
    "channels_in",
    "height_in",
    "height_out",
    "window",
    "stride",
    "groups",
    "n_mod_8",
    "n_mod_16",
    "n_fill_16",
    "k_mod_4",
    "k_mod_8",
    "m_mod_6",
    "activation",
    "inputs",
    "broadcast",
    "physics",
)
"""Features of the trees; sizes as log2(1 + x)."""


def path(kernel: Kernel) -> str:
    """The code path of the runtime that runs the kernel: kernels of one path share a model.

    Operator and type of its first input; convolutions further by what their implementations differ in.
    """
    first = next((spec for spec in kernel.inputs if spec is not None), None)
    name = f"{kernel.op}:{first.dtype if first else 'none'}"
    filters = kernel.filter
    if filters is None:
        return name
    if kernel.is_depthwise:
        return f"{name}:depthwise"
    if kernel.groups > 1:
        return f"{name}:grouped"
    if filters.shape[1] <= FIRST_CHANNELS:
        return f"{name}:first"
    return f"{name}:{'pointwise' if math.prod(filters.shape[2:]) == 1 else 'dense'}"


def _product_shape(kernel: Kernel) -> tuple[int, int, int]:
    """(m, n, k) of the matrix product behind the kernel: positions, outputs, summands; (elements, 1, 1) for others."""
    out = kernel.outputs[0]
    elements = out.size if out is not None else 0
    if (filters := kernel.filter) is not None:
        n = max(1, filters.shape[0])
        return elements // n, n, math.prod(filters.shape[1:])
    work = macs(kernel)
    if work and out is not None and out.shape:
        n = max(1, out.shape[-1])
        return elements // n, n, max(1, work // max(1, elements))
    return elements, 1, 1


def _activations(specs: Sequence[TensorSpec | None]) -> list[TensorSpec]:
    return [spec for spec in specs if spec is not None and not spec.constant]


def physics_terms(kernel: Kernel) -> np.ndarray:
    """(terms,): the non-negative quantities of `TERMS`, in thousands except the constant.

    `padded_macs` counts what vector units execute: outputs rounded up to 16, summands to 4, for each group;
    `column_bytes` is the traffic of gathering windows into columns (im2col), absent for pointwise and depthwise;
    `edge_rows` are output rows, each of which starts and ends with a partial tile; `tail_macs` is the work in channels
    beyond the last full vector of 16, done one by one.
    """
    m, n, k = _product_shape(kernel)
    work = macs(kernel)
    groups = kernel.groups
    per_group = math.ceil(n / groups / 16) * 16
    padded = m * groups * per_group * math.ceil(k / 4) * 4 if work and not kernel.is_depthwise else 0
    gathers = kernel.filter is not None and math.prod(kernel.window) > 1 and not kernel.is_depthwise
    sources = _activations(kernel.inputs)
    element_bytes = input_bytes(kernel) / max(1, sum(spec.size for spec in sources))
    out = kernel.outputs[0]
    rows = out.shape[-2] if out is not None and len(out.shape) >= 3 else 1
    terms = (
        work,
        padded,
        m * groups if work else m,
        m * k * groups * element_bytes if gathers else 0,
        input_bytes(kernel),
        output_bytes(kernel),
        weight_bytes(kernel),
        rows * n if work else rows,
        m * k * (n % 16) if work else 0,
    )
    return np.array([1.0, *(term / 1000 for term in terms)])


def tree_features(kernel: Kernel, physics_ms: float) -> np.ndarray:
    """(features,) float32, in the order of `FEATURES`."""
    m, n, k = _product_shape(kernel)
    sources = _activations(kernel.inputs)
    biggest = max(sources, key=lambda spec: spec.size, default=None)
    shape_in = biggest.shape if biggest is not None else ()
    out = kernel.outputs[0]
    shape_out = out.shape if out is not None else ()
    filters = kernel.filter
    channels = filters.shape[1] * kernel.groups if filters is not None else k
    activation = kernel.attribute("activation")
    strides = kernel.ints("strides")
    smallest = min((spec.size for spec in sources), default=1)
    sizes = (
        macs(kernel),
        input_bytes(kernel),
        output_bytes(kernel),
        weight_bytes(kernel),
        m,
        n,
        k,
        channels,
        _height(shape_in),
        _height(shape_out),
        math.prod(kernel.window),
        strides[0] if strides else 1,
        kernel.groups,
    )
    code = ACTIVATIONS.index(activation) + 1 if activation in ACTIVATIONS else 0
    rest = (
        n % 8,
        n % 16,
        n / (math.ceil(n / 16) * 16),
        k % 4,
        k % 8,
        m % 6,
        code,
        len(sources),
        smallest / max(1, biggest.size if biggest is not None else 1),
        math.log2(max(physics_ms, 1e-9)),
    )
    return np.array([*(math.log2(1 + size) for size in sizes), *rest], np.float32)


def _height(shape: Sequence[int]) -> int:
    """Middle dimension: height in both NCHW and NHWC."""
    return shape[2] if len(shape) == 4 else (shape[-2] if len(shape) >= 2 else 1)
