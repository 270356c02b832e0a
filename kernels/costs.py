"""How much work a kernel is: multiply-accumulates and bytes, from shapes alone.

Shapes are those that the runtime executes. In the blocked layout (`com.microsoft.nchwc`) the channels of
activations and filters are padded to a multiple of the block (8 with AVX2, 16 with AVX-512); the padding is
computed and moved like anything else, so it is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from .kernel import TFLITE_DOMAIN, Kernel, TensorSpec

_BITS = {
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 64),
    "complex128": 128,
    **dict.fromkeys(("float32", "int32", "uint32"), 32),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 16),
    **dict.fromkeys(("int4", "uint4"), 4),
    "int2": 2,
}

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
_TFLITE_VIEWS = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
_TFLITE_FOLDED = frozenset({"DEQUANTIZE", "DENSIFY"})
"""Run once on a constant, before the first inference."""


def macs(kernel: Kernel) -> int:
    """Multiply-accumulates of convolutions, matrix products, attention and recurrent layers; 0 for the rest."""
    count = _MACS.get(kernel.op_type)
    return count(kernel) if count else 0


def input_bytes(kernel: Kernel) -> int:
    """Bytes of the activations that the kernel reads."""
    return _bytes(spec for spec in kernel.inputs if spec is not None and not spec.constant)


def weight_bytes(kernel: Kernel) -> int:
    """Bytes of the constants that the kernel reads: weights, biases, scales, shapes."""
    return _bytes(spec for spec in kernel.inputs if spec is not None and spec.constant)


def output_bytes(kernel: Kernel) -> int:
    """Bytes that the kernel writes."""
    return _bytes(spec for spec in kernel.outputs if spec is not None)


def element_bits(dtype: str) -> int:
    """Bits of one element, by numpy's name of its type; 8 for what is not known."""
    return _BITS.get(dtype, 8)


def is_view(kernel: Kernel) -> bool:
    """Whether the runtime gives the node its input's buffer as output when it stands inside a network.

    Timed alone such a kernel copies its input, as its output is a graph output then; inside it costs the
    dispatch of a node only. So does what TFLite unpacks of a constant once.
    """
    if kernel.domain == TFLITE_DOMAIN:
        folded = kernel.op_type in _TFLITE_FOLDED and not input_bytes(kernel)
        return folded or kernel.op_type in _TFLITE_VIEWS
    return not kernel.domain and kernel.op_type in _VIEWS


def _bytes(specs: Iterable[TensorSpec]) -> int:
    return sum((spec.size * element_bits(spec.dtype) + 7) // 8 for spec in specs)


def _shape(specs: tuple[TensorSpec | None, ...], position: int) -> tuple[int, ...]:
    spec = specs[position] if len(specs) > position else None
    return spec.shape if spec is not None else ()


def _out_size(kernel: Kernel) -> int:
    return math.prod(_shape(kernel.outputs, 0))


def _conv(kernel: Kernel) -> int:
    """Every output element sums over (in / groups) x window."""
    filters = kernel.filter
    return _out_size(kernel) * math.prod(filters.shape[1:]) if filters else 0


def _conv_transpose(kernel: Kernel) -> int:
    """Every input element is spread over (out / groups) x window; filters are (in, out / groups, *window)."""
    filters = kernel.filter
    return math.prod(_shape(kernel.inputs, 0)) * math.prod(filters.shape[1:]) if filters else 0


def _matmul(kernel: Kernel) -> int:
    """Every output element sums over the inner dimension of the left matrix."""
    left = _shape(kernel.inputs, 0)
    if not left:
        return 0
    inner = -2 if kernel.attribute("transA") and len(left) > 1 else -1
    if kernel.attribute("transBatchA"):
        inner = 0 if kernel.attribute("transA") else inner
    return _out_size(kernel) * left[inner]


def _matmul_blocked_weights(kernel: Kernel) -> int:
    depth = kernel.attribute("K")
    return _out_size(kernel) * depth if isinstance(depth, int) else 0


def _attention(kernel: Kernel) -> int:
    """Projection to queries, keys and values, then scores and their weighted sum over the sequence."""
    source, weights, output = _shape(kernel.inputs, 0), _shape(kernel.inputs, 1), _shape(kernel.outputs, 0)
    if len(source) != 3 or len(weights) != 2 or len(output) != 3:
        return 0
    batch, sequence, _ = source
    return batch * sequence * math.prod(weights) + 2 * batch * sequence * sequence * output[2]


def _multi_head_attention(kernel: Kernel) -> int:
    """Scores and their weighted sum; queries are (batch, sequence, hidden), keys (batch, keys, hidden)."""
    query, key = _shape(kernel.inputs, 0), _shape(kernel.inputs, 1)
    if len(query) != 3 or len(key) < 3:
        return 0
    keys = key[1] if len(key) == 3 else key[2]
    return 2 * math.prod(query) * keys


def _recurrent(kernel: Kernel) -> int:
    """X is (sequence, batch, input), W (directions, gates * hidden, input), R (directions, gates * hidden, hidden)."""
    source, weights, recurrence = (_shape(kernel.inputs, position) for position in range(3))
    if len(source) != 3 or not weights or not recurrence:
        return 0
    return source[0] * source[1] * (math.prod(weights) + math.prod(recurrence))


def _einsum(kernel: Kernel) -> int:
    """The product of the sizes of all indices."""
    equation = kernel.attribute("equation")
    if not isinstance(equation, str) or "." in equation:
        return 0
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for position, term in enumerate(terms):
        sizes.update(zip(term, _shape(kernel.inputs, position), strict=False))
    return math.prod(sizes.values()) if len(terms) > 1 else 0


def _tflite_transpose_conv(kernel: Kernel) -> int:
    """Every input element is spread over out x window; the input is the third, after the output's shape."""
    filters = kernel.filter
    return math.prod(_shape(kernel.inputs, 2)) * filters.size // filters.shape[1] if filters and filters.size else 0


def _tflite_fully_connected(kernel: Kernel) -> int:
    """Weights are (out, in)."""
    weights = _shape(kernel.inputs, 1)
    return _out_size(kernel) * weights[-1] if weights else 0


def _tflite_batch_matmul(kernel: Kernel) -> int:
    left = _shape(kernel.inputs, 0)
    return _out_size(kernel) * left[-2 if kernel.attribute("adj_x") else -1] if len(left) > 1 else 0


def _tflite_sequence(kernel: Kernel) -> int:
    """Every matrix is applied at every step; the first input is (steps, batch, size) or (batch, steps, size)."""
    source = _shape(kernel.inputs, 0)
    matrices = (spec.size for spec in kernel.inputs if spec is not None and spec.constant and len(spec.shape) == 2)
    return source[0] * source[1] * sum(matrices) if len(source) == 3 else 0


_TFLITE_SEQUENCES = ("UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_LSTM")

_MACS: dict[str, Callable[[Kernel], int]] = {
    **dict.fromkeys(("Conv", "FusedConv", "QLinearConv", "ConvInteger", "NhwcConv", "NhwcFusedConv"), _conv),
    **dict.fromkeys(("ConvTranspose", "ConvTransposeWithDynamicPads", "QLinearConvTranspose"), _conv_transpose),
    **dict.fromkeys(("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "QGemm", "GemmFastGelu", "GemmFloat8"), _matmul),
    **dict.fromkeys(("QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulInteger16"), _matmul),
    **dict.fromkeys(("DynamicQuantizeMatMul", "TransposeMatMul", "SparseToDenseMatMul"), _matmul),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4", "MatMulFpQ4"), _matmul_blocked_weights),
    **dict.fromkeys(("Attention", "QAttention"), _attention),
    **dict.fromkeys(("MultiHeadAttention", "DecoderMaskedMultiHeadAttention"), _multi_head_attention),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _recurrent),
    "Einsum": _einsum,
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D"), _conv),
    **dict.fromkeys(("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"), _tflite_transpose_conv),
    **dict.fromkeys(_TFLITE_SEQUENCES, _tflite_sequence),
    "FULLY_CONNECTED": _tflite_fully_connected,
    "BATCH_MATMUL": _tflite_batch_matmul,
}
