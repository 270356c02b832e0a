"""Features of the trees: what a kernel looks like, in numbers."""

from __future__ import annotations

import math

import numpy as np

from ...kernels.costs import input_bytes, macs, output_bytes, weight_bytes
from ...kernels.kernel import Kernel
from .physics import activations, chunks, height_of, product_shape

ACTIVATIONS = ("Relu", "Clip", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu", "Relu6", "ReluN1To1", "HardSwish")

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
    "dilation",
    "groups",
    "group_out",
    "chunks",
    "last_in",
    "last_out",
    "n_mod_8",
    "n_mod_16",
    "n_mod_32",
    "n_fill_16",
    "k_mod_4",
    "k_mod_8",
    "m_mod_6",
    "activation",
    "inputs",
    "constants",
    "broadcast",
    "physics",
)
"""Features of the trees; sizes as log2(1 + x)."""


def tree_features(kernel: Kernel, physics_ms: float) -> np.ndarray:
    """(features,) float32, in the order of `FEATURES`."""
    m, n, k = product_shape(kernel)
    sources = activations(kernel)
    biggest = max(sources, key=lambda spec: spec.size, default=None)
    shape_in = biggest.shape if biggest is not None else ()
    out = kernel.outputs[0] if kernel.outputs else None
    shape_out = out.shape if out is not None else ()
    filters = kernel.filter
    group_out = n // kernel.groups
    activation = kernel.attribute("activation")
    smallest = min((spec.size for spec in sources), default=1)
    sizes = (
        macs(kernel),
        input_bytes(kernel),
        output_bytes(kernel),
        weight_bytes(kernel),
        m,
        n,
        k,
        filters.shape[1] * kernel.groups if filters is not None else k,
        height_of(kernel, shape_in),
        height_of(kernel, shape_out),
        math.prod(kernel.window),
        max(kernel.ints("strides"), default=1),
        max(kernel.ints("dilations"), default=1),
        kernel.groups,
        group_out,
        chunks(kernel),
        shape_in[-1] if shape_in else 1,
        shape_out[-1] if shape_out else 1,
    )
    rest = (
        n % 8,
        n % 16,
        group_out % 32,
        n / (math.ceil(n / 16) * 16),
        k % 4,
        k % 8,
        m % 6,
        ACTIVATIONS.index(activation) + 1 if activation in ACTIVATIONS else 0,
        len(sources),
        sum(spec is not None and spec.constant for spec in kernel.inputs),
        smallest / max(1, biggest.size if biggest is not None else 1),
        math.log2(max(physics_ms, 1e-9)),
    )
    return np.array([*(math.log2(1 + size) for size in sizes), *rest], np.float32)
