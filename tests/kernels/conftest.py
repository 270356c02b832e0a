"""Small networks that between them use every path of the runtime's CPU kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from milliseek.devices.local import LocalDevice
from milliseek.devices.target import Target
from milliseek.kernels.onnx.quantise import quantise_for_timing


class Net:
    """A graph under construction; every method takes and returns names of tensors."""

    def __init__(self, *shape: int | str, dtype: int = TensorProto.FLOAT) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("input", dtype, shape)]

    def const(self, value: object, dtype: str = "float32") -> str:
        name = f"const{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        return self.const(self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])))

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"t{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=f"node{len(self.nodes)}", **attributes))
        return names[0]

    def conv(self, x: str, cin: int, cout: int, k: int, *, stride: int = 1, group: int = 1, act: str = "Relu") -> str:
        weights = self.weight(cout, cin // group, k, k)
        bias = self.const(self.rng.uniform(-0.1, 0.1, cout))
        y = self.op("Conv", x, weights, bias, kernel_shape=[k, k], strides=[stride] * 2, pads=[k // 2] * 4, group=group)
        return self.op(act, y) if act else y

    def build(self, *outputs: str, opset: int = 17) -> bytes:
        infos = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, infos, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model).SerializeToString()


def mobile() -> bytes:
    """Regular, depthwise, grouped and pointwise convolutions, a residual, squeeze-and-excite, a classifier."""
    net = Net(1, 3, 32, 32)
    x = net.conv("input", 3, 16, 3, stride=2)
    y = net.conv(net.conv(x, 16, 48, 1), 48, 48, 3, group=48)
    gate = net.op("GlobalAveragePool", y)
    gate = net.op("HardSigmoid", net.conv(net.conv(gate, 48, 12, 1), 12, 48, 1, act=""))
    y = net.conv(net.op("Mul", y, gate), 48, 16, 1, act="")
    x = net.op("Add", x, y)
    x = net.conv(x, 16, 36, 3, stride=2, group=4, act="Relu")
    x = net.conv(x, 36, 67, 5, act="Sigmoid")
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.build(net.op("Softmax", net.op("Gemm", x, net.weight(10, 67), net.const(np.ones(10)), transB=1)))


def pooled() -> bytes:
    """Max and average pooling, concatenation, resizing, splitting, slicing, padding, a transposed convolution."""
    net = Net(1, 8, 20, 20)
    x = net.op("MaxPool", "input", kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    x = net.op("Concat", net.conv(x, 8, 8, 3), y, axis=1)
    x = net.op("Resize", x, "", net.const([1.0, 1.0, 2.0, 2.0]), mode="nearest")
    x = net.op("Slice", x, net.const([0, 2], "int64"), net.const([16, 18], "int64"), net.const([1, 2], "int64"))
    x = net.op("Pad", x, net.const([0, 0, 1, 1, 0, 0, 1, 1], "int64"))
    net.op("Split", x, net.const([4, 12], "int64"), outputs=2, axis=1)
    a, b = net.nodes[-1].output
    b = net.op("ConvTranspose", b, net.weight(12, 4, 2, 2), strides=[2, 2])
    a = net.op("Pow", net.op("ReduceMean", a, axes=[2, 3], keepdims=1), net.const(2.0))
    return net.build(net.op("Reshape", net.op("Mul", a, net.op("LeakyRelu", b)), net.const([1, -1], "int64")))


def attention() -> bytes:
    """Embedding, layer normalisation, one attention head pair, GELU."""
    net = Net(1, 12, dtype=TensorProto.INT64)
    x = net.op("Gather", net.weight(50, 32), "input")
    x = net.op("LayerNormalization", x, net.const(np.ones(32)), net.const(np.zeros(32)), axis=-1)
    heads = []
    for permutation in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        y = net.op("Add", net.op("MatMul", x, net.weight(32, 32)), net.const(np.ones(32)))
        y = net.op("Reshape", y, net.const([0, 0, 2, 16], "int64"))
        heads.append(net.op("Transpose", y, perm=permutation))
    scores = net.op("Softmax", net.op("Div", net.op("MatMul", heads[0], heads[1]), net.const(4.0)), axis=-1)
    y = net.op("Transpose", net.op("MatMul", scores, heads[2]), perm=[0, 2, 1, 3])
    y = net.op("MatMul", net.op("Reshape", y, net.const([0, 0, 32], "int64")), net.weight(32, 64))
    erf = net.op("Add", net.op("Erf", net.op("Div", y, net.const(np.sqrt(2)))), net.const(1.0))
    y = net.op("Mul", net.op("Mul", y, erf), net.const(0.5))
    return net.build(net.op("Add", x, net.op("MatMul", y, net.weight(64, 32))))


def branching() -> bytes:
    """An If whose condition is computed, and whose branches use an outer weight and an outer activation."""
    net = Net(1, 8)
    x = net.op("Relu", "input")
    weight = net.const(np.ones((8, 8)))
    condition = net.op("Greater", net.op("ReduceSum", x, keepdims=0), net.const(0.0))

    def branch(op_type: str) -> onnx.GraphProto:
        nodes = [
            helper.make_node("MatMul", [x, weight], ["product"]),
            helper.make_node(op_type, ["product"], ["result"]),
        ]
        return helper.make_graph(nodes, op_type, [], [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)])

    y = net.op("If", condition, then_branch=branch("Tanh"), else_branch=branch("Sigmoid"))
    return net.build(net.op("Abs", y))


def dynamic() -> bytes:
    """Data-dependent shapes, a node with an unused middle output, a sequence between nodes, a Constant node."""
    net = Net(3, 1, 6)
    net.nodes.append(helper.make_node("LSTM", ["input", "w", "r"], ["", "hidden"], name="lstm", hidden_size=5))
    for name, shape in (("w", (1, 20, 6)), ("r", (1, 20, 5))):
        net.constants.append(numpy_helper.from_array(net.rng.standard_normal(shape).astype("float32"), name))
    picked = net.op("NonZero", "hidden")
    rows = net.op("Transpose", picked, perm=[1, 0])
    values = net.op("GatherND", "hidden", rows)
    length = net.op("Shape", values)
    parts = net.op("SplitToSequence", net.op("Reshape", values, length), axis=0, keepdims=1)
    constant = net.op("Constant", value_int=1)
    return net.build(net.op("SequenceAt", parts, constant), values)


FP32: dict[str, Callable[[], bytes]] = {
    "mobile": mobile,
    "pooled": pooled,
    "attention": attention,
    "branching": branching,
    "dynamic": dynamic,
}
NETWORKS: dict[str, Callable[[], bytes]] = {
    **FP32,
    "mobile_int8": lambda: quantise_for_timing(mobile(), weight_bits=7),
    "pooled_int8": lambda: quantise_for_timing(pooled()),
    "attention_int8": lambda: quantise_for_timing(attention()),
}


@pytest.fixture(scope="session")
def device() -> Iterator[LocalDevice]:
    with LocalDevice(Target("here", "onnxruntime", "fp32")) as local:
        yield local


@pytest.fixture(params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> bytes:
    return NETWORKS[request.param]()
