"""ONNX operators as torch computes them, against ONNX Runtime on graphs of one operator; then whole graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from milliseek.errors import InvalidInput
from milliseek.kernels.onnx.torch_module import OnnxModule

Array = np.ndarray[Any, Any]
IMAGE = (2, 6, 9, 8)
EVEN = (1, 8, 6, 4)


def floats(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def ints(*items: int) -> Array:
    return np.array(items, np.int64)


def scalar(value: float) -> Array:
    return np.array(value, np.float32)


def case(
    op_type: str, *inputs: tuple[int, ...] | Array | None, opset: int = 17, outputs: int = 1, **attributes: Any
) -> Any:
    """Shapes are fed, arrays are constants, None is left out."""
    names = ["" if item is None else f"i{index}" for index, item in enumerate(inputs)]
    node = helper.make_node(op_type, names, [f"o{index}" for index in range(outputs)], **attributes)
    return pytest.param(node, inputs, opset, id=f"{op_type}-{opset}-{'-'.join(map(str, attributes))}")


def run(proto: onnx.ModelProto, fed: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, fed)


def one_node(node: onnx.NodeProto, inputs: Any, opset: int) -> tuple[onnx.ModelProto, dict[str, Array], list[Array]]:
    """The model, its inputs, and ONNX Runtime's outputs."""
    named = list(zip(node.input, inputs, strict=True))
    fed = {name: floats(*item) for name, item in named if isinstance(item, tuple)}
    sources = [helper.make_tensor_value_info(name, TensorProto.FLOAT, item.shape) for name, item in fed.items()]
    targets = [onnx.ValueInfoProto(name=name) for name in node.output]
    constants = [numpy_helper.from_array(item, name) for name, item in named if isinstance(item, np.ndarray)]
    graph = helper.make_graph([node], "one", sources, targets, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    wanted = run(proto, fed)
    for target, item in zip(proto.graph.output, wanted, strict=True):
        element = helper.np_dtype_to_tensor_dtype(item.dtype)
        target.CopyFrom(helper.make_tensor_value_info(target.name, element, item.shape))
    return proto, fed, wanted


def assert_agreement(module: OnnxModule, fed: dict[str, Array], wanted: list[Array]) -> None:
    with torch.no_grad():
        found = module(*map(torch.from_numpy, fed.values()))
    for one, other in zip(found if isinstance(found, tuple) else (found,), wanted, strict=True):
        assert one.numpy().dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-4, atol=1e-5)


UNARY = [case(name, IMAGE) for name in (
    "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Identity", "IsNaN", "Neg", "Reciprocal", "Relu", "Round",
    "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tan", "Tanh", "GlobalAveragePool", "GlobalMaxPool",
)]  # fmt: skip
ACTIVATIONS = [
    case("Celu", IMAGE, alpha=0.7),
    case("Clip", IMAGE, scalar(-0.5), scalar(0.8)),
    case("Clip", IMAGE, None, scalar(0.8)),
    case("Clip", IMAGE, opset=6, min=-0.5, max=0.8),
    case("Dropout", IMAGE),
    case("Elu", IMAGE, alpha=0.3),
    case("Gelu", IMAGE, opset=20),
    case("Gelu", IMAGE, opset=20, approximate="tanh"),
    case("HardSigmoid", IMAGE),
    case("HardSigmoid", IMAGE, alpha=1 / 6),
    case("LeakyRelu", IMAGE, alpha=0.2),
    case("LogSoftmax", IMAGE, axis=1),
    case("Mish", IMAGE, opset=18),
    case("PRelu", IMAGE, floats(6, 1, 1)),
    case("PRelu", IMAGE, floats(8)),
    case("Selu", IMAGE),
    case("Softmax", IMAGE, axis=-1),
    case("Softmax", IMAGE, opset=11, axis=2),
    case("ThresholdedRelu", IMAGE, alpha=0.4),
]
ARITHMETIC = [
    *(
        case(name, IMAGE, IMAGE)
        for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Equal", "Greater", "LessOrEqual")
    ),
    *(case(name, scalar(0.7), IMAGE) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Less")),
    *(case(name, IMAGE, floats(6, 1, 1)) for name in ("Add", "Sub", "Mul", "Div", "Max", "GreaterOrEqual")),
    *(case(name, IMAGE, (9, 8), floats(1)) for name in ("Sum", "Mean", "Max", "Min")),
    case("Pow", IMAGE, scalar(2)),
    case("Mod", IMAGE, scalar(0.3), fmod=1),
    case("Einsum", (2, 3, 4), (2, 5, 4), equation="bij,bkj->bik"),
    case("Gemm", (3, 5), floats(7, 5), floats(7), transB=1),
    case("Gemm", (5, 3), floats(5, 7), floats(3, 7), transA=1, alpha=0.5, beta=2.0),
    case("Gemm", (3, 5), floats(5, 7)),
    case("MatMul", (2, 3, 4, 5), (2, 3, 5, 6)),
    case("MatMul", (2, 3, 5), floats(5, 6)),
    case("Where", np.array([True, False]), (4, 2), scalar(0)),
]
CONVOLUTIONS = [
    case("Conv", IMAGE, floats(4, 6, 3, 3), floats(4), pads=[1, 1, 1, 1], strides=[2, 1]),
    case("Conv", IMAGE, floats(4, 6, 3, 2), pads=[0, 1, 2, 0], dilations=[2, 1]),
    case("Conv", IMAGE, floats(6, 2, 3, 3), group=3, dilations=[1, 3], pads=[1, 3, 1, 3]),
    case("Conv", IMAGE, floats(6, 1, 5, 5), group=6, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", IMAGE, floats(4, 6, 2, 4), auto_pad="SAME_LOWER", strides=[2, 1]),
    case("Conv", IMAGE, floats(4, 6, 3, 3), auto_pad="VALID"),
    case("Conv", (1, 4, 11), floats(6, 2, 3), floats(6), group=2, pads=[2, 1], strides=[2]),
    case("Conv", (1, 2, 5, 6, 7), floats(3, 2, 3, 3, 3), pads=[1] * 6),
    case("ConvTranspose", IMAGE, floats(6, 4, 2, 2), floats(4), strides=[2, 2]),
    case("ConvTranspose", IMAGE, floats(6, 2, 3, 3), group=3, strides=[2, 3], pads=[1, 1, 1, 1], output_padding=[1, 2]),
    case("ConvTranspose", IMAGE, floats(6, 4, 3, 4), strides=[2, 2], pads=[0, 1, 2, 0], dilations=[2, 1]),
    case("ConvTranspose", IMAGE, floats(6, 4, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", IMAGE, floats(6, 4, 4, 4), strides=[2, 2], auto_pad="SAME_LOWER"),
    case("ConvTranspose", IMAGE, floats(6, 4, 3, 3), strides=[2, 2], output_shape=[18, 15]),
    case("ConvTranspose", (1, 4, 11), floats(4, 3, 3), strides=[2], pads=[1, 1]),
]
POOLS = [
    case(name, IMAGE, opset=opset, kernel_shape=kernel, **attributes)
    for name in ("MaxPool", "AveragePool")
    for opset, kernel, attributes in (
        (17, [3, 2], {"strides": [2, 2]}),
        (17, [3, 3], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        (17, [3, 3], {"pads": [1, 0, 0, 1], "strides": [2, 2]}),
        (17, [3, 3], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        (17, [2, 2], {"auto_pad": "SAME_LOWER"}),
        (19, [3, 3], {"ceil_mode": 1, "strides": [2, 3]}),
        (19, [2, 2], {"ceil_mode": 1, "strides": [2, 2], "pads": [0, 0, 1, 1]}),
        (19, [3, 3], {"ceil_mode": 1, "strides": [3, 3], "pads": [1, 1, 1, 1]}),
    )
] + [
    case("MaxPool", IMAGE, kernel_shape=[2, 3], dilations=[3, 2], pads=[1, 2, 0, 1]),
    case("MaxPool", (1, 3, 13), kernel_shape=[4], strides=[3], pads=[1, 2]),
    case("AveragePool", (1, 3, 13), kernel_shape=[4], strides=[3]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[0, 1, 2, 1], count_include_pad=1, strides=[2, 2]),
    case("LRN", IMAGE, size=3, alpha=0.2, beta=0.6, bias=1.5),
]
REDUCTIONS = [
    *(case(f"Reduce{name}", IMAGE, opset=13, axes=[1, -1], keepdims=0)
      for name in ("Mean", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp", "Prod")),
    *(case(f"Reduce{name}", IMAGE, ints(2, 3), opset=18) for name in ("Mean", "Sum", "Max", "L2")),
    case("ReduceSum", IMAGE),
    case("ReduceSum", IMAGE, noop_with_empty_axes=1),
    case("ArgMax", IMAGE, axis=1, keepdims=0),
    case("ArgMin", IMAGE, axis=-1),
    case("TopK", IMAGE, ints(3), outputs=2, axis=1),
    case("CumSum", IMAGE, np.array(2)),
    case("CumSum", IMAGE, np.array(-1), exclusive=1, reverse=1),
]  # fmt: skip
NORMALISATIONS = [
    case("BatchNormalization", IMAGE, floats(6), floats(6), floats(6), np.abs(floats(6)) + 0.5, epsilon=1e-3),
    case("InstanceNormalization", IMAGE, floats(6), floats(6), epsilon=1e-3),
    case("InstanceNormalization", (2, 3, 10), floats(3), floats(3)),
    case("LayerNormalization", IMAGE, floats(9, 8), floats(9, 8), axis=2),
    case("LayerNormalization", IMAGE, floats(8), epsilon=1e-3),
    case("GroupNormalization", IMAGE, floats(6), floats(6), opset=21, num_groups=3),
]
SHAPES = [
    case("Cast", IMAGE, to=TensorProto.INT32),
    case("Concat", IMAGE, IMAGE, floats(2, 1, 9, 8), axis=1),
    case("DepthToSpace", EVEN, blocksize=2),
    case("DepthToSpace", EVEN, blocksize=2, mode="CRD"),
    case("Expand", (3, 1), ints(2, 1, 4)),
    case("Flatten", IMAGE),
    case("Flatten", IMAGE, axis=-1),
    case("Flatten", IMAGE, axis=0),
    case("Gather", IMAGE, np.array(-1), axis=1),
    case("Gather", IMAGE, np.array([[0, -2], [3, 3]]), axis=1),
    case("Gather", (5, 4), ints(4, 0)),
    case("GatherElements", (3, 4), np.array([[0, 1], [2, 0], [1, 1]]), axis=1),
    case("Pad", IMAGE, ints(0, 1, 2, 0, 1, 0, 0, 3), scalar(0.7)),
    case("Pad", IMAGE, ints(0, 0, 2, 1, 0, 0, 1, 3), mode="reflect"),
    case("Pad", IMAGE, ints(0, 0, 2, 1, 0, 0, 1, 3), mode="edge"),
    case("Pad", IMAGE, ints(1, -1), None, ints(3), opset=18),
    case("Pad", IMAGE, opset=2, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=2.0),
    case("Reshape", IMAGE, ints(0, -1, 4)),
    case("Shape", IMAGE, start=1, end=-1),
    case("Size", IMAGE),
    case("Slice", IMAGE, ints(1, 0), ints(2**62, -2), ints(3, 2), ints(3, 2)),
    case("Slice", IMAGE, ints(-1, 5), ints(-(2**62), 1), ints(1, 3), ints(-2, -1)),
    case("Slice", IMAGE, ints(0), ints(1)),
    case("Slice", IMAGE, opset=9, starts=[2, 1], ends=[100, -1], axes=[2, 1]),
    case("SpaceToDepth", EVEN, blocksize=2),
    case("Split", IMAGE, ints(1, 3, 2), outputs=3, axis=1),
    case("Split", IMAGE, outputs=2, opset=13, axis=-1),
    case("Split", IMAGE, outputs=2, opset=18, axis=2, num_outputs=2),
    case("Split", IMAGE, outputs=2, opset=11, axis=1, split=[2, 4]),
    case("Squeeze", (1, 3, 1, 4), ints(-2)),
    case("Squeeze", (1, 3, 1, 4)),
    case("Squeeze", (1, 3, 1, 4), opset=11, axes=[0, 2]),
    case("Tile", (2, 3), ints(2, 2)),
    case("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    case("Transpose", (2, 3, 4)),
    case("Trilu", (2, 4, 4), np.array(1), upper=0),
    case("Trilu", (2, 4, 4)),
    case("Unsqueeze", (2, 3), ints(0, -1)),
    case("Unsqueeze", (2, 3), opset=11, axes=[1, 3]),
]
NO_ROI = np.empty(0, np.float32)
TWICE = np.array([1, 1, 2, 2], np.float32)
RESIZES = [
    *(case("Resize", IMAGE, NO_ROI, TWICE, mode="nearest", **attributes) for attributes in (
        {}, {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        {"coordinate_transformation_mode": "pytorch_half_pixel"})),
    case("Resize", IMAGE, NO_ROI, TWICE, mode="linear", coordinate_transformation_mode="align_corners"),
    case("Resize", IMAGE, NO_ROI, None, ints(2, 6, 14, 11), mode="linear"),
    case("Resize", IMAGE, NO_ROI, np.array([1, 1, 2, 1.5], np.float32), mode="cubic", cubic_coeff_a=-0.75),
    case("Resize", IMAGE, NO_ROI, np.array([1, 1, 0.5, 0.5], np.float32), mode="linear"),
    case("Resize", IMAGE, np.array([1, 1, 3, 2], np.float32), opset=10, mode="nearest"),
    case("Resize", IMAGE, None, None, ints(12, 5), opset=18, axes=[2, 3], mode="linear"),
    case("Resize", (1, 3, 7), NO_ROI, np.array([1, 1, 2], np.float32), mode="linear"),
    case("Upsample", IMAGE, np.array([1, 1, 2, 3], np.float32), opset=9, mode="nearest"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("node", "inputs", "opset"),
    [*UNARY, *ACTIVATIONS, *ARITHMETIC, *CONVOLUTIONS, *POOLS, *REDUCTIONS, *NORMALISATIONS, *SHAPES, *RESIZES],
)
def test_operators_agree_with_onnx_runtime(node: onnx.NodeProto, inputs: Any, opset: int) -> None:
    proto, fed, wanted = one_node(node, inputs, opset)
    assert_agreement(OnnxModule(proto.SerializeToString()).eval(), fed, wanted)


@pytest.mark.parametrize("network", ["mobile", "pooled", "attention"], indirect=True)
def test_networks_agree_with_onnx_runtime_and_can_be_exported(network: bytes) -> None:
    proto = onnx.ModelProto.FromString(network)
    module = OnnxModule(network).eval()
    (source,), (example,) = proto.graph.input, module.example_inputs()
    value = floats(*example.shape) if example.is_floating_point() else np.ones(example.shape, np.int64)
    wanted = run(proto, {source.name: value})
    assert_agreement(module, {source.name: value}, wanted)
    program = torch.export.export(module, (example,))
    assert_agreement(program.module(), {source.name: value}, wanted)


@pytest.mark.parametrize(
    ("network", "operator"),
    [("branching", "If"), ("dynamic", "LSTM"), ("mobile_int8", "DequantizeLinear")],
    indirect=["network"],
)
def test_unknown_operators_are_named(network: bytes, operator: str) -> None:
    with pytest.raises(InvalidInput, match=rf"\b{operator}\b.* not supported") as caught:
        OnnxModule(network)
    assert caught.value.remedy


def graph(text: str) -> bytes:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> {text}'
    ).SerializeToString()


def operators(module: OnnxModule) -> list[str]:
    """What is left to compute, as torch sees it."""
    nodes = torch.export.export(module, module.example_inputs()).graph.nodes
    return [node.target.__name__.partition(".")[0] for node in nodes if node.op == "call_function"]


def test_sizes_computed_from_shapes_are_plain_numbers() -> None:
    module = OnnxModule(
        graph("""g (float[1,8,4,6] x) => (float[a,b,c] y) {
        two = Constant <value_int: int = 2> () zero = Constant <value_ints: ints = [0]> ()
        shape = Shape (x) height = Gather (shape, two) half = Div (height, two) last = Unsqueeze (half, zero)
        first = Constant <value_ints: ints = [1, -1]> () sizes = Concat <axis: int = 0> (first, last)
        y = Reshape (x, sizes) }""")
    )
    assert module(*module.example_inputs()).shape == (1, 96, 2)
    assert operators(module) == ["reshape"]


@pytest.mark.parametrize(
    "formula",
    [
        "h = Div (x, root) e = Erf (h) p = Add (e, one) m = Mul (x, p) y = Mul (m, half)",
        "h = Mul (inverse, x) e = Erf (h) p = Add (one, e) m = Mul (half, p) y = Mul (m, x)",
        "m = Mul (x, half) h = Div (x, root) e = Erf (h) p = Add (e, one) y = Mul (m, p)",
    ],
)
def test_gelus_written_out_become_one_operation(formula: str) -> None:
    constants = """one = Constant <value_float: float = 1.0> () half = Constant <value_floats: floats = [0.5]> ()
        root = Constant <value_float: float = 1.4142135> () inverse = Constant <value_float: float = 0.70710677> ()"""
    data = graph(f"g (float[2,3] x) => (float[2,3] z) {{ {constants} {formula} z = Relu (y) }}")
    module = OnnxModule(data)
    assert operators(module) == ["gelu", "relu"]
    fed = {"x": floats(2, 3)}
    assert_agreement(module, fed, run(onnx.ModelProto.FromString(data), fed))


@pytest.mark.parametrize("last", ["y = Mul (m, x)", "w = Mul (m, half) y = Add (w, p)", "y = Mul (m, one)"])
def test_what_only_looks_like_a_gelu_stays(last: str) -> None:
    data = graph(f"""g (float[2,3] x) => (float[2,3] y) {{ one = Constant <value_float: float = 1.0> ()
        half = Constant <value_float: float = 0.5> () root = Constant <value_float: float = 1.4142135> ()
        h = Div (x, root) e = Erf (h) p = Add (e, one) m = Mul (x, p) {last} }}""")
    module, fed = OnnxModule(data), {"x": floats(2, 3)}
    assert "erf" in operators(module)
    assert_agreement(module, fed, run(onnx.ModelProto.FromString(data), fed))


def test_several_outputs_and_passed_on_inputs() -> None:
    data = graph("""g (float[2,3] x, float[3] c) => (float[2,3] y, float[2,3] z, float[1] k) {
        y = Identity (x) s = Add (x, c) z = Dropout (s) unused = Exp (x)
        k = Constant <value_floats: floats = [2.0]> () }""")
    module, fed = OnnxModule(data), {"x": floats(2, 3), "c": floats(3)}
    assert_agreement(module, fed, run(onnx.ModelProto.FromString(data), fed))
    assert operators(module) == ["add"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g (float[2,3] x) => (float[2,3] y) { y = com.microsoft.QuickGelu (x) }", "com.microsoft.QuickGelu"),
        ("g (float[2,3] x, int64[1] s) => (float[n] y) { y = Reshape (x, s) }", "Reshape has a size .* depends"),
        ("g (float[2,3] x, float[4,5] z) => (float[n] y) { y = MatMul (x, z) }", "MatMul .* cannot be read"),
        ("g (float[2,3] x) => (bool[2,3] y) { z, mask = Dropout (x) y = Not (mask) }", "Not .* cannot be read: 'mask'"),
        ('g (float[1] x) => (string[1] y) <string[1] s = {"a"}> { y = Identity (s) }', "'s' is of str"),
        ("g (float[N,3] x) => (float[n] y) { y = Relu (x) }", "'x' has no fixed shape"),
    ],
)
def test_graphs_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        OnnxModule(graph(text))
    assert caught.value.remedy
