"""Every kind of TFLite operator: built alone it runs, and reads as itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("ai_edge_litert")

from ai_edge_litert.interpreter import Interpreter

from milliseek.errors import InvalidInput
from milliseek.kernels import costs
from milliseek.kernels.kernel import AttributeValue, Kernel, TensorSpec
from milliseek.kernels.tflite.builder import one_kernel_tflite
from milliseek.kernels.tflite.reader import split_tflite
from milliseek.kernels.tflite.schema import members

F32, I32 = "float32", "int32"


def loaded(model: bytes) -> Interpreter:
    """The file after one inference: floats are 0.5 to 1.5, 8-bit integers use their range, others are 0."""
    rng = np.random.default_rng(0)
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    for entry in interpreter.get_input_details():
        shape, dtype = entry["shape"], np.dtype(entry["dtype"])
        values = rng.random(shape) + 0.5 if dtype.kind == "f" else np.zeros(shape)
        if dtype == np.int8:
            values = rng.integers(-128, 128, shape)
        interpreter.set_tensor(entry["index"], values.astype(dtype))
    interpreter.invoke()
    return interpreter


def act(*shape: int, dtype: str = F32) -> TensorSpec:
    return TensorSpec(shape, dtype)


def const(*shape: int, dtype: str = F32, value: tuple[int, ...] | None = None) -> TensorSpec:
    return TensorSpec(shape, dtype, constant=True, value=value)


def ints(*values: int, shape: tuple[int, ...] | None = None) -> TensorSpec:
    return TensorSpec((len(values),) if shape is None else shape, I32, constant=True, value=values)


def kernel(
    op_type: str, inputs: list[TensorSpec | None], *outputs: TensorSpec, version: int = 1, **attributes: AttributeValue
) -> Kernel:
    return Kernel("tflite", op_type, tuple(sorted(attributes.items())), tuple(inputs), outputs, version)


TYPES = members("TensorType")
WINDOW = {"strides": (1, 1), "padding": "SAME"}
IMAGE, VECTOR = act(1, 8, 8, 16), act(2, 16)
CONV = kernel("CONV_2D", [IMAGE, const(24, 3, 3, 16), const(24)], act(1, 8, 8, 24), activation="Relu", **WINDOW)
GROUPED = kernel("CONV_2D", [IMAGE, const(24, 1, 1, 4), const(24)], act(1, 8, 8, 24), version=6, group=4, **WINDOW)
DEPTHWISE = kernel(
    "DEPTHWISE_CONV_2D", [IMAGE, const(1, 5, 5, 16), const(16)], act(1, 8, 8, 16), group=16, version=2,
    dilations=(2, 2), **WINDOW,
)  # fmt: skip
PADDED = kernel(
    "CONV_2D", [act(1, 7, 9, 3), const(8, 3, 3, 3), const(8)], act(1, 4, 5, 8),
    strides=(2, 2), padding="VALID", pads=(1, 1, 1, 1), activation="Relu6",
)  # fmt: skip
TRANSPOSED = kernel(
    "TRANSPOSE_CONV", [ints(1, 16, 16, 4), const(4, 2, 2, 16), IMAGE], act(1, 16, 16, 4),
    strides=(2, 2), padding="VALID",
)  # fmt: skip
DENSE = kernel("FULLY_CONNECTED", [VECTOR, const(10, 16), None], act(2, 10), version=5, keep_num_dims=1)
PRODUCT = kernel("BATCH_MATMUL", [act(3, 5, 7), act(3, 9, 7)], act(3, 5, 9), adj_y=1)
CONV_3D = kernel(
    "CONV_3D", [act(1, 4, 4, 4, 2), const(3, 3, 3, 2, 5)], act(1, 4, 4, 4, 5), strides=(1, 1, 1), padding="SAME"
)
RESHAPE = kernel("RESHAPE", [IMAGE, ints(1, 64, 16)], act(1, 64, 16))
POOL = kernel("AVERAGE_POOL_2D", [IMAGE], act(1, 4, 4, 16), kernel_shape=(2, 2), strides=(2, 2), padding="VALID")

KERNELS = [
    *(CONV, GROUPED, DEPTHWISE, PADDED, TRANSPOSED, DENSE, PRODUCT, CONV_3D, RESHAPE, POOL),
    kernel("MAX_POOL_2D", [IMAGE], act(1, 7, 7, 16), kernel_shape=(2, 2), strides=(1, 1), padding="VALID"),
    *(kernel(name, [IMAGE, IMAGE], IMAGE, activation="Relu") for name in ("ADD", "SUB", "MUL", "DIV")),
    *(kernel(name, [IMAGE, const(16)], IMAGE) for name in ("ADD", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE")),
    *(kernel(name, [IMAGE], IMAGE) for name in ("RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "HARD_SWISH")),
    kernel("ELU", [IMAGE], IMAGE),
    *(kernel(name, [IMAGE], IMAGE) for name in ("ABS", "NEG", "EXP", "SIN", "COS", "SQRT", "RSQRT", "SQUARE", "LOG")),
    *(kernel(name, [IMAGE], IMAGE) for name in ("CEIL", "FLOOR", "ROUND", "L2_NORMALIZATION", "LOG_SOFTMAX")),
    kernel("LEAKY_RELU", [IMAGE], IMAGE, alpha=0.125),
    kernel("PRELU", [IMAGE, const(1, 1, 16)], IMAGE),
    kernel("GELU", [IMAGE], IMAGE, approximate=1),
    kernel("SOFTMAX", [VECTOR], VECTOR, beta=1.0),
    kernel("POW", [IMAGE, TensorSpec((), F32, constant=True, value=(2.0,))], IMAGE),
    *(kernel(name, [IMAGE, ints(1, 2)], act(1, 1, 1, 16), axes=(1, 2), keep_dims=1) for name in ("MEAN", "SUM")),
    kernel("REDUCE_MAX", [IMAGE, ints(-1)], act(1, 8, 8), axes=(-1,)),
    kernel("REDUCE_PROD", [IMAGE, ints(-1)], act(1, 8, 8), axes=(-1,)),
    kernel("SQUEEZE", [act(1, 1, 1, 16)], act(1, 16), squeeze_dims=(1, 2)),
    kernel("EXPAND_DIMS", [VECTOR, ints(1, shape=())], act(2, 1, 16), axis=1),
    kernel("TRANSPOSE", [IMAGE, ints(0, 3, 1, 2)], act(1, 16, 8, 8), perm=(0, 3, 1, 2)),
    kernel("CONCATENATION", [IMAGE, IMAGE, const(1, 8, 8, 4)], act(1, 8, 8, 36), axis=3),
    kernel("SPLIT", [ints(3, shape=()), IMAGE], *[act(1, 8, 8, 8)] * 2, axis=3),
    kernel("SPLIT_V", [IMAGE, ints(4, 12), ints(3, shape=())], act(1, 8, 8, 4), act(1, 8, 8, 12), axis=3),
    kernel("PACK", [VECTOR, VECTOR], act(2, 2, 16), axis=1),
    kernel("UNPACK", [VECTOR], *[act(16)] * 2),
    kernel("SLICE", [IMAGE, ints(0, 1, 1, 0), ints(1, 4, 4, 16)], act(1, 4, 4, 16)),
    kernel("STRIDED_SLICE", [IMAGE, ints(0, 0, 0, 0), ints(1, 8, 8, 16), ints(1, 2, 2, 1)], act(1, 4, 4, 16)),
    kernel("PAD", [IMAGE, ints(0, 0, 1, 2, 1, 2, 0, 0, shape=(4, 2))], act(1, 11, 11, 16)),
    kernel("PADV2", [IMAGE, ints(0, 0, 1, 2, 1, 2, 0, 0, shape=(4, 2)), const()], act(1, 11, 11, 16)),
    kernel("MIRROR_PAD", [IMAGE, ints(0, 0, 1, 1, 1, 1, 0, 0, shape=(4, 2))], act(1, 10, 10, 16), mode=1),
    kernel("RESIZE_BILINEAR", [IMAGE, ints(16, 16)], act(1, 16, 16, 16), version=3, half_pixel_centers=1),
    kernel("RESIZE_NEAREST_NEIGHBOR", [IMAGE, ints(4, 4)], act(1, 4, 4, 16)),
    kernel("DEPTH_TO_SPACE", [IMAGE], act(1, 16, 16, 4), block_size=2),
    kernel("SPACE_TO_DEPTH", [IMAGE], act(1, 4, 4, 64), block_size=2),
    kernel("GATHER", [VECTOR, const(80, dtype=I32)], act(2, 80), axis=1),
    kernel("GATHER", [VECTOR, act(3, dtype=I32)], act(3, 16)),
    kernel("TILE", [VECTOR, ints(1, 3)], act(2, 48)),
    kernel("BROADCAST_TO", [act(1, 16), ints(2, 16)], VECTOR, version=2),
    kernel("REVERSE_V2", [VECTOR, ints(1)], VECTOR),
    kernel("CUMSUM", [VECTOR, ints(1, shape=())], VECTOR, axis=1, exclusive=1),
    kernel("ARG_MAX", [VECTOR, ints(1, shape=())], act(2, dtype="int64"), axis=1, output_type=TYPES["INT64"]),
    kernel("TOPK_V2", [VECTOR, ints(3, shape=())], act(2, 3), act(2, 3, dtype=I32)),
    kernel("SELECT_V2", [act(2, 16, dtype="bool"), VECTOR, VECTOR], VECTOR),
    kernel("GREATER", [VECTOR, VECTOR], act(2, 16, dtype="bool")),
    kernel("CAST", [VECTOR], act(2, 16, dtype=I32)),
    kernel("SHAPE", [VECTOR], act(2, dtype=I32), out_type=TYPES["INT32"]),
    kernel("EMBEDDING_LOOKUP", [act(3, dtype=I32), const(50, 16)], act(3, 16)),
]  # fmt: skip
FLOAT_ONLY = {
    *("CONV_3D", "ELU", "SIN", "COS", "EXP", "LOG", "ROUND", "FLOOR", "CEIL", "POW", "CAST", "SQUARE", "CUMSUM"),
    *("REDUCE_PROD", "MIRROR_PAD", "EMBEDDING_LOOKUP", "NEG", "ABS", "RELU_N1_TO_1"),
}
"""Operators for which TFLite has no int8 kernel, or whose int8 kernel no converter writes."""


FIRST_VERSION = {"RESHAPE", "HARD_SWISH", "PRELU", "EXPAND_DIMS", "SHAPE"}
"""Operators whose int8 kernel came without a new version."""


def quantised(item: Kernel) -> Kernel:
    """The same kernel on int8 activations and weights, with int32 biases."""

    def changed(position: int, spec: TensorSpec | None) -> TensorSpec | None:
        bias = position == 2 and item.op_type in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        return spec and (dataclasses.replace(spec, dtype=I32 if bias else "int8") if spec.dtype == F32 else spec)

    return dataclasses.replace(
        item,
        inputs=tuple(changed(position, spec) for position, spec in enumerate(item.inputs)),
        outputs=tuple(changed(0, spec) for spec in item.outputs),
        opset=item.opset if item.op_type in FIRST_VERSION else max(2, item.opset),
    )


def with_weights(item: Kernel, dtype: str) -> Kernel:
    first, weights, *rest = item.inputs
    assert weights is not None
    return dataclasses.replace(item, inputs=(first, dataclasses.replace(weights, dtype=dtype), *rest))


INT8 = [quantised(item) for item in KERNELS if item.op_type not in FLOAT_ONLY]
HYBRID = [with_weights(item, "int8") for item in (CONV, DENSE)] + [with_weights(DENSE, "int4")]
OTHERS = [
    kernel("QUANTIZE", [IMAGE], act(1, 8, 8, 16, dtype="int8")),
    kernel("QUANTIZE", [act(4, 4, dtype="int8")], act(4, 4, dtype="int8")),
    kernel("DEQUANTIZE", [act(4, 4, dtype="int8")], act(4, 4), version=2),
]


def label(item: Kernel) -> str:
    first = next(spec.dtype for spec in item.inputs if spec)
    return f"{item.kind}-{first}".replace(" ", "-")


@pytest.mark.parametrize("item", [*KERNELS, *INT8, *HYBRID, *OTHERS], ids=label)
def test_a_kernel_built_alone_runs_and_reads_as_itself(item: Kernel) -> None:
    model = one_kernel_tflite(item)
    assert model == one_kernel_tflite(item)
    (use,) = split_tflite(model)
    assert use.kernel == item
    assert use.kernel.hash == item.hash
    details = loaded(model).get_output_details()
    assert [(tuple(entry["shape"]), np.dtype(entry["dtype"]).name) for entry in details] == [
        (spec.shape, spec.dtype) for spec in item.outputs if spec
    ]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["CONV_2D", "DEPTHWISE_CONV_2D"]),
    st.tuples(*[st.integers(1, 9)] * 4),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
    st.sampled_from([None, "Relu", "Relu6", "ReluN1To1", "Tanh"]),
    st.booleans(),
)
def test_any_convolution_reads_as_itself(
    op_type: str,
    sizes: tuple[int, int, int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    pads: list[int],
    activation: str | None,
    is_int8: bool,
) -> None:
    height, width, channels, out = sizes
    depthwise = op_type == "DEPTHWISE_CONV_2D"
    out = channels * out if depthwise else out
    filters = const(1, *window, out) if depthwise else const(out, *window, channels)
    shape = [size + before + after for size, before, after in zip((height, width), pads[:2], pads[2:], strict=True)]
    steps = [max(1, (size - part) // step + 1) for size, part, step in zip(shape, window, strides, strict=True)]
    attributes: dict[str, AttributeValue] = {"padding": "VALID", "strides": strides}
    if any(pads):
        attributes["pads"] = tuple(pads)
    if activation:
        attributes["activation"] = activation
    if depthwise and channels > 1:
        attributes["group"] = channels
    item = kernel(op_type, [act(1, height, width, channels), filters, const(out)], act(1, *steps, out), **attributes)
    item = quantised(item) if is_int8 else item
    (use,) = split_tflite(one_kernel_tflite(item))
    assert use.kernel == item


def test_names_of_the_paths() -> None:
    assert CONV.kind == "CONV_2D 3x3"
    assert GROUPED.kind == "CONV_2D 1x1 grouped"
    assert DEPTHWISE.kind == "DEPTHWISE_CONV_2D 5x5 dw"
    assert POOL.kind == "AVERAGE_POOL_2D 2x2"
    assert PADDED.config == "1x7x9x3 -> 1x4x5x8 s2 Relu6"
    assert TRANSPOSED.window == (2, 2)


@pytest.mark.parametrize(
    ("item", "shape"),
    [
        (CONV, (24, 16, 3, 3)),
        (GROUPED, (24, 4, 1, 1)),
        (DEPTHWISE, (16, 1, 5, 5)),
        (TRANSPOSED, (4, 16, 2, 2)),
        (CONV_3D, (5, 2, 3, 3, 3)),
    ],
)
def test_filters_have_the_axes_of_onnx(item: Kernel, shape: tuple[int, ...]) -> None:
    assert item.filter is not None
    assert item.filter.shape == shape
    assert item.filter.constant


@pytest.mark.parametrize(
    ("item", "macs"),
    [
        (CONV, 24 * 64 * 9 * 16),
        (GROUPED, 24 * 64 * 4),
        (DEPTHWISE, 16 * 64 * 25),
        (TRANSPOSED, 64 * 16 * 4 * 4),
        (DENSE, 2 * 16 * 10),
        (PRODUCT, 3 * 5 * 9 * 7),
        (dataclasses.replace(PRODUCT, inputs=(act(3, 7, 5), act(3, 7, 9)), attributes=(("adj_x", 1),)), 3 * 5 * 9 * 7),
        (CONV_3D, 5 * 64 * 27 * 2),
        (RESHAPE, 0),
    ],
)
def test_macs(item: Kernel, macs: int) -> None:
    assert costs.macs(item) == macs


def test_views_and_bytes() -> None:
    assert costs.is_view(RESHAPE)
    assert costs.is_view(kernel("DEQUANTIZE", [const(8, dtype="float16")], act(8)))
    assert not costs.is_view(kernel("DEQUANTIZE", [act(8, dtype="int8")], act(8)))
    assert not costs.is_view(CONV)
    assert costs.weight_bytes(with_weights(DENSE, "int4")) == 80


def test_weights_of_one_scale_or_along_another_axis_are_told_apart() -> None:
    usual = quantised(CONV)
    whole = dataclasses.replace(usual, attributes=tuple(sorted((*usual.attributes, ("weight_quantisation", "tensor")))))
    right = quantised(kernel("BATCH_MATMUL", [act(1, 5, 7), const(1, 7, 9)], act(1, 5, 9)))
    along = dataclasses.replace(right, attributes=(("weight_quantisation", "axis 2"),))
    for item in (usual, whole, right, along):
        (use,) = split_tflite(one_kernel_tflite(item))
        assert use.kernel == item
    assert len({usual.hash, whole.hash, right.hash, along.hash}) == 4


def test_custom_operators_keep_their_name_and_options() -> None:
    item = kernel("MyOperator", [VECTOR], VECTOR, custom_options=b"\x01\x02".hex())
    (use,) = split_tflite(one_kernel_tflite(item))
    assert use.kernel == item


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (kernel("UNIDIRECTIONAL_SEQUENCE_LSTM", [VECTOR], VECTOR), "state"),
        (kernel("READ_VARIABLE", [act(1, dtype="resource")], VECTOR), "state"),
        (kernel("CAST", [act(1, dtype="str")], VECTOR), "other things than numbers"),
        (kernel("RESHAPE", [VECTOR, act(2, dtype=I32)], act(4, 8)), "values of input 1"),
        (kernel("TRANSPOSE", [VECTOR, const(2, dtype=I32)], VECTOR), "values of input 1"),
        (kernel("ADD", [VECTOR, VECTOR], VECTOR, activation="Softsign"), "ActivationFunctionType"),
        (kernel("FULLY_CONNECTED", [VECTOR, const()], VECTOR), "index"),
        (kernel("FULLY_CONNECTED", [VECTOR, const(8, 16, dtype="int4")], VECTOR, weight_quantisation="block"), "block"),
    ],
)
def test_what_cannot_stand_alone_is_refused(item: Kernel, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        one_kernel_tflite(item)
    assert caught.value.remedy


@pytest.mark.parametrize("item", [CONV, DEPTHWISE, DENSE], ids=label)
def test_int8_outputs_use_their_range(item: Kernel) -> None:
    interpreter = loaded(one_kernel_tflite(quantised(item)))
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).astype(int)
    output = output[output > -3] if item.attribute("activation") else output
    assert np.mean((output > -128) & (output < 127)) > 0.8
    assert np.abs(output + 3).mean() > 20


def test_another_seed_is_another_file_of_the_same_kernel() -> None:
    assert one_kernel_tflite(CONV, 1) != one_kernel_tflite(CONV, 2)
    assert split_tflite(one_kernel_tflite(CONV, 1))[0].kernel == split_tflite(one_kernel_tflite(CONV, 2))[0].kernel
