"""ONNX networks as TFLite's operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from milliseek.errors import InvalidInput
from milliseek.kernels.costs import macs
from milliseek.kernels.kernel import Kernel
from milliseek.kernels.onnx.hollow import hollow
from milliseek.kernels.operators.fusion import fused
from milliseek.kernels.operators.onnx_graph import read_onnx
from milliseek.kernels.skeleton import strip

from ..conftest import NETWORKS, Net


def kernels(net: Net, *outputs: str, opset: int = 17) -> list[Kernel]:
    return [use.kernel for use in read_onnx(net.build(*outputs, opset=opset), "net.onnx")]


def shapes(kernel: Kernel) -> list[tuple[int, ...]]:
    return [spec.shape for spec in (*kernel.inputs, *kernel.outputs) if spec is not None]


def op_types(found: Sequence[Kernel]) -> list[str]:
    return [kernel.op_type for kernel in found]


def test_convolutions_have_the_channels_last() -> None:
    net = Net(1, 4, 9, 11)
    x = net.conv("input", 4, 8, 3, act="")
    x = net.conv(x, 8, 8, 3, group=8, act="")
    regular, depthwise, grouped = kernels(net, net.conv(x, 8, 16, 3, group=2, act=""))
    assert shapes(regular) == [(1, 9, 11, 4), (8, 3, 3, 4), (8,), (1, 9, 11, 8)]
    assert depthwise.op_type == "DEPTHWISE_CONV_2D"
    assert shapes(depthwise) == [(1, 9, 11, 8), (1, 3, 3, 8), (8,), (1, 9, 11, 8)]
    assert (grouped.op_type, grouped.groups, shapes(grouped)[1]) == ("CONV_2D", 2, (16, 3, 3, 4))
    assert regular.filter is not None
    assert regular.filter.shape == (8, 4, 3, 3)
    assert macs(regular) == 9 * 11 * 8 * 4 * 9


@pytest.mark.parametrize(
    ("size", "attributes", "padding", "pads"),
    [
        (9, {"pads": [1, 1, 1, 1]}, "SAME", ()),
        (9, {"pads": [1, 1, 1, 1], "strides": [2, 2]}, "SAME", ()),
        (8, {"pads": [1, 1, 1, 1], "strides": [2, 2]}, "VALID", (1, 1, 1, 1)),
        (8, {"pads": [0, 0, 1, 1], "strides": [2, 2]}, "SAME", ()),
        (9, {}, "VALID", ()),
        (8, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, "SAME", ()),
        (9, {"pads": [2, 2, 2, 2], "dilations": [2, 2]}, "SAME", ()),
    ],
)
def test_padding_is_same_where_it_pads_the_same(
    size: int, attributes: dict[str, object], padding: str, pads: tuple[int, ...]
) -> None:
    net = Net(1, 4, size, size)
    (kernel,) = kernels(net, net.op("Conv", "input", net.weight(8, 4, 3, 3), **attributes))
    assert (kernel.attribute("padding"), kernel.ints("pads")) == (padding, pads)


def test_a_pad_goes_into_the_only_convolution_that_reads_it() -> None:
    net = Net(1, 4, 8, 8)
    padded = net.op("Pad", "input", net.const([0, 0, 0, 0, 0, 0, 1, 1], "int64"))
    weights = net.weight(8, 4, 3, 3)
    first = net.op("Conv", padded, weights, strides=[2, 2])
    (alone,) = kernels(net, first)
    assert (alone.attribute("padding"), shapes(alone)[0]) == ("SAME", (1, 8, 8, 4))
    both = kernels(net, first, net.op("Conv", padded, weights, strides=[1, 1]))
    assert op_types(both) == ["PAD", "CONV_2D", "CONV_2D"]
    assert both[0].inputs[1].value == (0, 0, 0, 1, 0, 1, 0, 0)  # type: ignore[union-attr]


def test_transposed_convolution() -> None:
    net = Net(1, 8, 5, 5)
    (kernel,) = kernels(net, net.op("ConvTranspose", "input", net.weight(8, 6, 2, 2), strides=[2, 2]))
    assert shapes(kernel) == [(4,), (6, 2, 2, 8), (1, 5, 5, 8), (6,), (1, 10, 10, 6)]
    assert macs(kernel) == 5 * 5 * 8 * 6 * 4


def test_a_convolution_over_a_line_is_one_over_a_picture_of_one_row() -> None:
    net = Net(1, 6, 20)
    found = kernels(net, net.op("Conv", "input", net.weight(4, 6, 3), pads=[1, 1]))
    assert shapes(found[-2]) == [(1, 1, 20, 6), (4, 1, 3, 6), (4,), (1, 1, 20, 4)]
    assert set(op_types(found)) == {"TRANSPOSE", "RESHAPE", "CONV_2D"}


def test_batch_normalisation_is_a_product_and_a_sum_with_vectors_that_fusion_drops() -> None:
    net = Net(1, 4, 8, 8)
    x = net.conv("input", 4, 8, 1, act="")
    x = net.op("BatchNormalization", x, *(net.const(np.ones(8)) for _ in range(4)))
    net.op("Relu", x)
    uses = read_onnx(net.build("t2_0"), "net.onnx")
    assert [use.kernel.op_type for use in uses] == ["CONV_2D", "MUL", "ADD", "RELU"]
    assert shapes(uses[1].kernel) == [(1, 8, 8, 8), (8,), (1, 8, 8, 8)]
    (kernel,) = fused(uses, "operators")
    assert kernel.attribute("activation") == "Relu"


@pytest.mark.parametrize(
    ("op_type", "expected"),
    [
        ("Relu", ["RELU"]),
        ("HardSwish", ["HARD_SWISH"]),
        ("Sigmoid", ["LOGISTIC"]),
        ("Tanh", ["TANH"]),
        ("Elu", ["ELU"]),
        ("LeakyRelu", ["LEAKY_RELU"]),
        ("HardSigmoid", ["ADD", "RELU6", "MUL"]),
        ("Softplus", ["EXP", "ADD", "LOG"]),
        ("Reciprocal", ["DIV"]),
    ],
)
def test_activations(op_type: str, expected: list[str]) -> None:
    net = Net(1, 4, 8, 8)
    found = kernels(net, net.op(op_type, "input"))
    assert op_types(found) == expected
    assert found[-1].outputs[0].shape == (1, 8, 8, 4)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((0.0, 6.0), ["RELU6"]),
        ((0.0, None), ["RELU"]),
        ((0.0, 3.4028234663852886e38), ["RELU"]),
        ((-1.0, 1.0), ["RELU_N1_TO_1"]),
        ((0.0, 1.0), ["RELU_0_TO_1"]),
        ((-2.0, 2.0), ["MAXIMUM", "MINIMUM"]),
        ((None, None), []),
    ],
)
def test_clips_are_the_activations_that_they_mean(
    bounds: tuple[float | None, float | None], expected: list[str]
) -> None:
    net = Net(1, 4, 8, 8)
    names = ["" if bound is None else net.const(bound) for bound in bounds]
    assert op_types(kernels(net, net.op("Clip", "input", *names))) == expected


def test_clips_of_old_files_have_their_bounds_as_attributes() -> None:
    net = Net(1, 4, 8, 8)
    assert op_types(kernels(net, net.op("Clip", "input", min=0.0, max=6.0), opset=9)) == ["RELU6"]


def test_prelu_has_a_slope_per_channel() -> None:
    net = Net(1, 4, 8, 8)
    (kernel,) = kernels(net, net.op("PRelu", "input", net.const(np.ones((4, 1, 1)))))
    assert (kernel.op_type, shapes(kernel)) == ("PRELU", [(1, 8, 8, 4), (4,), (1, 8, 8, 4)])


@pytest.mark.parametrize("halving", ["before", "between", "after"])
def test_a_written_out_gelu_is_one_operator(halving: str) -> None:
    net = Net(1, 16, 8)
    half = net.const(0.5)
    one_more = net.op("Add", net.op("Erf", net.op("Div", "input", net.const(2**0.5))), net.const(1.0))
    if halving == "before":
        end = net.op("Mul", net.op("Mul", "input", half), one_more)
    elif halving == "between":
        end = net.op("Mul", "input", net.op("Mul", one_more, half))
    else:
        end = net.op("Mul", net.op("Mul", "input", one_more), half)
    (kernel,) = kernels(net, end)
    assert (kernel.op_type, shapes(kernel)) == ("GELU", [(1, 16, 8), (1, 16, 8)])


def test_the_hard_swish_of_older_networks_is_left_to_fusion() -> None:
    net = Net(1, 4, 8, 8)
    clipped = net.op("Clip", net.op("Add", "input", net.const(3.0)), net.const(0.0), net.const(6.0))
    end = net.op("Div", net.op("Mul", "input", clipped), net.const(6.0))
    uses = read_onnx(net.build(end), "net.onnx")
    assert [use.kernel.op_type for use in uses] == ["ADD", "RELU6", "MUL", "MUL"]
    assert op_types(fused(uses, "operators")) == ["HARD_SWISH"]


def test_a_squeeze_and_excitation_reads_its_picture_twice() -> None:
    net = Net(1, 8, 6, 6)
    gate = net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", "input"), 8, 8, 1, act=""))
    mean, convolution, sigmoid, product = kernels(net, net.op("Mul", "input", gate))
    assert (mean.op_type, mean.ints("axes"), shapes(mean)) == ("MEAN", (1, 2), [(1, 6, 6, 8), (2,), (1, 1, 1, 8)])
    assert shapes(convolution)[0] == (1, 1, 1, 8)
    assert sigmoid.op_type == "LOGISTIC"
    assert shapes(product) == [(1, 6, 6, 8), (1, 1, 1, 8), (1, 6, 6, 8)]


def test_an_average_over_the_whole_picture_is_a_mean_however_it_is_written() -> None:
    net = Net(1, 8, 6, 6)
    (pooled,) = kernels(net, net.op("AveragePool", "input", kernel_shape=[6, 6]))
    (mean,) = kernels(net, net.op("GlobalAveragePool", "input"))
    (reduced,) = kernels(net, net.op("ReduceMean", "input", axes=[2, 3]))
    assert pooled == mean == reduced
    assert (mean.op_type, shapes(mean)[-1]) == ("MEAN", (1, 1, 1, 8))


def test_global_pooling_before_a_classifier_gives_a_vector_at_once() -> None:
    net = Net(1, 8, 6, 6)
    flat = net.op("Flatten", net.op("GlobalAveragePool", "input"))
    weights, bias = net.weight(10, 8), net.const(np.zeros(10))
    mean, classifier = kernels(net, net.op("Gemm", flat, weights, bias, transB=1))
    assert shapes(mean)[-1] == (1, 8)
    assert mean.attribute("keep_num_dims") is None
    assert (classifier.op_type, shapes(classifier)) == ("FULLY_CONNECTED", [(1, 8), (10, 8), (10,), (1, 10)])
    assert macs(classifier) == 80


def test_pooling_pads_on_its_own_what_tflite_does_not() -> None:
    net = Net(1, 8, 12, 12)
    x = net.op("MaxPool", "input", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    x = net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    found = kernels(net, net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1))
    assert [(kernel.op_type, kernel.attribute("padding"), shapes(kernel)[-1]) for kernel in found] == [
        ("PADV2", None, (1, 14, 14, 8)),
        ("MAX_POOL_2D", "VALID", (1, 6, 6, 8)),
        ("MAX_POOL_2D", "SAME", (1, 3, 3, 8)),
        ("AVERAGE_POOL_2D", "SAME", (1, 3, 3, 8)),
        ("PAD", None, (1, 5, 5, 8)),
        ("AVERAGE_POOL_2D", "VALID", (1, 3, 3, 8)),
    ]


def test_axes_move_with_the_channels() -> None:
    net = Net(1, 8, 6, 4)
    left, _ = net.op("Split", "input", axis=1, outputs=2), "t0_1"
    joined = net.op("Concat", left, "t0_1", left, axis=1)
    cut = net.op("Slice", joined, *(net.const([value], "int64") for value in (2, 100, 1)))
    every = net.op("Slice", cut, *(net.const([value], "int64") for value in (0, 100, 2, 2)))
    found = kernels(net, net.op("Softmax", every, axis=1))
    assert [(kernel.op_type, kernel.attribute("axis"), shapes(kernel)[-1]) for kernel in found] == [
        ("SPLIT", 3, (1, 6, 4, 4)),
        ("CONCATENATION", 3, (1, 6, 4, 12)),
        ("SLICE", None, (1, 6, 4, 10)),
        ("STRIDED_SLICE", None, (1, 3, 4, 10)),
        ("SOFTMAX", None, (1, 3, 4, 10)),
    ]
    assert [spec.value for spec in found[2].inputs[1:] if spec] == [(0, 0, 0, 2), (1, 6, 4, 10)]


def test_a_channel_shuffle_is_one_transposition() -> None:
    net = Net(1, 8, 6, 6)
    apart = net.op("Reshape", "input", net.const([1, 2, 4, 6, 6], "int64"))
    turned = net.op("Transpose", apart, perm=[0, 2, 1, 3, 4])
    found = kernels(net, net.op("Reshape", turned, net.const([1, 8, 6, 6], "int64")))
    assert [(kernel.op_type, shapes(kernel)[-1]) for kernel in found] == [
        ("RESHAPE", (1, 6, 6, 2, 4)),
        ("TRANSPOSE", (1, 6, 6, 4, 2)),
        ("RESHAPE", (1, 6, 6, 8)),
    ]
    assert found[1].ints("perm") == (0, 1, 2, 4, 3)


def test_patches_become_tokens_without_moving() -> None:
    net = Net(1, 3, 8, 8)
    x = net.op("Conv", "input", net.weight(16, 3, 4, 4), strides=[4, 4])
    tokens = net.op("Transpose", net.op("Reshape", x, net.const([1, 16, 4], "int64")), perm=[0, 2, 1])
    found = kernels(net, net.op("MatMul", tokens, net.weight(16, 32)))
    assert op_types(found) == ["CONV_2D", "RESHAPE", "FULLY_CONNECTED"]
    assert shapes(found[-1]) == [(1, 4, 16), (32, 16), (1, 4, 32)]


def test_channels_last_for_a_normalisation_is_free() -> None:
    net = Net(1, 8, 4, 4)
    turned = net.op("Transpose", "input", perm=[0, 2, 3, 1])
    normal = net.op("LayerNormalization", turned, net.const(np.ones(8)), net.const(np.ones(8)))
    x = net.op("Transpose", normal, perm=[0, 3, 1, 2])
    found = kernels(net, net.conv(x, 8, 8, 1, act=""))
    parts = ["MEAN", "SQUARED_DIFFERENCE", "MEAN", "ADD", "RSQRT", "MUL", "SUB", "MUL", "ADD", "MUL", "ADD"]
    assert op_types(found) == [*parts, "CONV_2D"]
    assert found[0].ints("axes") == (3,)


def test_files_that_begin_with_channels_last_are_taken_as_they_are() -> None:
    net = Net(1, 8, 6, 3)
    found = kernels(net, net.conv(net.op("Transpose", "input", perm=[0, 3, 1, 2]), 3, 4, 1, act=""))
    assert [shapes(kernel)[0] for kernel in found] == [(1, 8, 6, 3)]


def test_attention() -> None:
    net = Net(1, 5, 48)
    apart = net.op("Reshape", net.op("MatMul", "input", net.weight(48, 48)), net.const([1, 5, 3, 2, 8], "int64"))
    turned = net.op("Transpose", apart, perm=[2, 0, 3, 1, 4])
    query, key, value = (net.op("Gather", turned, net.const(index, "int64"), axis=0) for index in range(3))
    scores = net.op("Softmax", net.op("MatMul", query, net.op("Transpose", key, perm=[0, 1, 3, 2])))
    found = kernels(net, net.op("MatMul", scores, value))
    assert Counter(op_types(found)) == {
        "FULLY_CONNECTED": 1, "RESHAPE": 4, "TRANSPOSE": 2, "SLICE": 3, "BATCH_MATMUL": 2, "SOFTMAX": 1,
    }  # fmt: skip
    assert sum(map(macs, found)) == 5 * 48 * 48 + 2 * (2 * 5 * 5 * 8)
    assert shapes(found[-1]) == [(1, 2, 5, 5), (1, 2, 5, 8), (1, 2, 5, 8)]


def test_resizing() -> None:
    net = Net(1, 4, 5, 5)
    x = net.op("Resize", "input", "", net.const([1, 1, 2, 2]), mode="nearest")
    shape = net.const([1, 4, 15, 15], "int64")
    found = kernels(net, net.op("Resize", x, "", "", shape, mode="linear"))
    assert [(kernel.op_type, shapes(kernel)[-1]) for kernel in found] == [
        ("RESIZE_NEAREST_NEIGHBOR", (1, 10, 10, 4)),
        ("RESIZE_BILINEAR", (1, 15, 15, 4)),
    ]


def test_shapes_that_exporters_compute_are_not_executed() -> None:
    net = Net(1, 8, 6, 6)
    shape = net.op("Shape", "input")
    half = net.op("Div", net.op("Gather", shape, net.const(1, "int64")), net.const(2, "int64"))
    sizes = net.op("Concat", net.const([1, 2], "int64"), net.op("Unsqueeze", half, net.const([0], "int64")),
                   net.op("Slice", shape, net.const([2], "int64"), net.const([4], "int64")), axis=0)  # fmt: skip
    (kernel,) = kernels(net, net.op("Reshape", "input", sizes))
    assert (kernel.op_type, shapes(kernel)[-1]) == ("RESHAPE", (1, 6, 6, 2, 4))


def test_of_a_condition_that_is_known_one_branch_counts() -> None:
    net = Net(1, 4, 8, 8)
    branches = {}
    for name, op_type in (("then_branch", "Relu"), ("else_branch", "Det")):
        node = onnx.helper.make_node(op_type, ["input"], [f"{name}_out"])
        branches[name] = onnx.helper.make_graph([node], name, [], [onnx.ValueInfoProto(name=f"{name}_out")])
    same = net.op("Equal", net.op("Size", "input"), net.const(256, "int64"))
    assert op_types(kernels(net, net.op("Sigmoid", net.op("If", same, **branches)))) == ["RELU", "LOGISTIC"]


@pytest.mark.parametrize("form", ["hollow", "skeleton"])
def test_weights_are_not_needed(form: str) -> None:
    model = NETWORKS["mobile"]()
    without = hollow(model, "elsewhere") if form == "hollow" else strip(model, "onnx")
    assert [use.kernel for use in read_onnx(without, "net")] == [use.kernel for use in read_onnx(model, "net")]


def test_what_nothing_reads_is_left_out() -> None:
    net = Net(1, 4, 8, 8)
    net.op("Sigmoid", "input")
    assert op_types(kernels(net, net.op("Relu", "input"))) == ["RELU"]


def test_all_operators_that_tflite_lacks_are_listed() -> None:
    net = Net(1, 4, 8, 8)
    x = net.op("Resize", net.op("Erf", "input"), "", net.const([1, 1, 2, 2]), mode="cubic")
    with pytest.raises(InvalidInput, match=r"net\.onnx .* Det, Erf \(other than in a GELU\), Resize \(cubic\)\."):
        kernels(net, net.op("Det", x))


def test_other_domains_are_refused_by_name() -> None:
    node = onnx.helper.make_node("FusedConv", ["input"], ["output"], domain="com.microsoft")
    graph = onnx.helper.make_graph([node], "net", Net(1, 4, 8, 8).inputs, [onnx.ValueInfoProto(name="output")])
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in (("", 17), ("com.microsoft", 1))]
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    with pytest.raises(InvalidInput, match=r"com\.microsoft\.FusedConv"):
        read_onnx(model.SerializeToString(), "net.onnx")


def test_quantised_files_are_refused() -> None:
    net = Net(1, 4, 8, 8)
    with pytest.raises(InvalidInput, match="QuantizeLinear"):
        kernels(net, net.op("QuantizeLinear", "input", net.const(0.1), net.const(0, "uint8")))


def test_sizes_that_only_a_run_tells_are_refused() -> None:
    net = Net(1, 4, 8, 8)
    with pytest.raises(InvalidInput, match="depends on values"):
        kernels(net, net.op("NonZero", "input"))


def test_what_is_no_onnx_file_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is not an ONNX file"):
        read_onnx(b"\xff\xff\xff", "net.onnx")
