"""Small models, as bytes, for either runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from milliseek.devices.protocol import ProtocolConfig
from milliseek.devices.target import Target

from .phone.adbd import AdbServer, Phone


def convolution(channels: int = 16) -> bytes:
    """Two convolutions with ReLU on (batch, channels, 16, 16)."""
    rng = np.random.default_rng(0)
    nodes, constants = [], []
    for index, (source, target) in enumerate((("x", "a"), ("r", "y"))):
        weights = rng.standard_normal((channels, channels, 3, 3)).astype("float32") / np.float32(channels)
        constants.append(numpy_helper.from_array(weights, f"w{index}"))
        nodes.append(helper.make_node("Conv", [source, f"w{index}"], [target], pads=[1, 1, 1, 1]))
        if index == 0:
            nodes.append(helper.make_node("Relu", [target], ["r"]))
    return _model(nodes, ["batch", channels, 16, 16], constants)


def endless() -> bytes:
    """A loop of 2**62 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["still"]), helper.make_node("Abs", ["state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [4]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [4]),
        ],
    )
    constants = [
        numpy_helper.from_array(np.array(2**62), "rounds"),
        numpy_helper.from_array(np.array(True), "go"),
    ]
    return _model([helper.make_node("Loop", ["rounds", "go", "x"], ["y"], body=body)], [4], constants)


def hungry() -> bytes:
    """A run that takes 1 GiB for a moment."""
    constants = [numpy_helper.from_array(np.array([1 << 26, 4]), "shape")]
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["y"], axes=[0]),
    ]
    return _model(nodes, [4], constants)


def failing() -> bytes:
    """Loads, but an index is out of bounds in every run."""
    constants = [
        numpy_helper.from_array(np.array([9.0], "float32"), "nine"),
        numpy_helper.from_array(np.array([0.0], "float32"), "zero"),
    ]
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "nine"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["x", "index"], ["y"]),
    ]
    return _model(nodes, [4], constants)


def _model(nodes: list[onnx.NodeProto], shape: list[int | str], constants: list[TensorProto]) -> bytes:
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "g", [source], [onnx.ValueInfoProto(name="y")], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def tflite_tensor(name: str, shape: list[int], dtype: str = "FLOAT32", buffer: int = 0) -> schema.TensorT:
    return schema.TensorT(name=name, shape=shape, type=getattr(schema.TensorType, dtype), buffer=buffer)


def tflite_operator(
    code: int, inputs: list[int], outputs: list[int], options: Any = None, options_type: int = 0
) -> schema.OperatorT:
    return schema.OperatorT(
        opcodeIndex=code, inputs=inputs, outputs=outputs, builtinOptions=options, builtinOptionsType=options_type
    )


def tflite_graph(
    tensors: list[schema.TensorT], operators: list[schema.OperatorT], inputs: list[int], outputs: list[int]
) -> schema.SubGraphT:
    return schema.SubGraphT(tensors=tensors, operators=operators, inputs=inputs, outputs=outputs)


def tflite_file(graphs: list[schema.SubGraphT], operators: list[str], constants: list[np.ndarray]) -> bytes:
    """`operators` are what opcode indices 0, 1, ... mean, `constants` the buffers 1, 2, ..."""
    numbers = [getattr(schema.BuiltinOperator, name) for name in operators]
    data = [np.frombuffer(constant.tobytes(), np.uint8) for constant in constants]
    model = schema.ModelT(
        version=3,
        operatorCodes=[schema.OperatorCodeT(builtinCode=n, deprecatedBuiltinCode=min(n, 127)) for n in numbers],
        buffers=[schema.BufferT(), *(schema.BufferT(data=array) for array in data)],
        subgraphs=graphs,
    )
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def tflite_chain(operators: list[str], shape: list[int]) -> bytes:
    """Operators without options, one after the other, on float32 tensors of one shape."""
    tensors = [tflite_tensor(f"t{index}", shape) for index in range(len(operators) + 1)]
    steps = [tflite_operator(index, [index], [index + 1]) for index in range(len(operators))]
    return tflite_file([tflite_graph(tensors, steps, [0], [len(operators)])], operators, [])


def tflite_convolution(dtype: str = "FLOAT32", channels: int = 16) -> bytes:
    """Two convolutions with ReLU on (batch, 16, 16, channels)."""
    rng = np.random.default_rng(0)
    tensors = [tflite_tensor("x", [1, 16, 16, channels], dtype)]
    operators, constants = [], []
    for index in range(2):
        weights = rng.standard_normal((channels, 3, 3, channels)) * 16
        bias_type = "FLOAT32" if dtype == "FLOAT32" else "INT32"
        constants += [weights.astype(dtype.lower()), np.zeros(channels, bias_type.lower())]
        tensors += [
            tflite_tensor(f"w{index}", list(weights.shape), dtype, buffer=len(constants) - 1),
            tflite_tensor(f"b{index}", [channels], bias_type, buffer=len(constants)),
            tflite_tensor(f"y{index}", [1, 16, 16, channels], dtype),
        ]
        options = schema.Conv2DOptionsT(
            strideH=1, strideW=1, fusedActivationFunction=schema.ActivationFunctionType.RELU
        )
        operators.append(
            tflite_operator(
                0,
                [3 * index, 3 * index + 1, 3 * index + 2],
                [3 * index + 3],
                options,
                schema.BuiltinOptions.Conv2DOptions,
            )
        )
    for tensor in tensors if dtype == "INT8" else []:
        scale = 1 / 64 if tensor.type == schema.TensorType.INT8 else 1 / 4096
        tensor.quantization = schema.QuantizationParametersT(scale=[scale], zeroPoint=[0])
    for tensor in (tensors[0], tensors[3], tensors[6]):
        tensor.shapeSignature = [-1, *tensor.shape[1:]]
    return tflite_file([tflite_graph(tensors, operators, [0], [6])], ["CONV_2D"], constants)


def tflite_endless() -> bytes:
    """A WHILE as long as |x| = |x|."""
    x, y = tflite_tensor("x", [4]), tflite_tensor("y", [4])
    going = tflite_tensor("going", [1], "BOOL")
    options = schema.WhileOptionsT(condSubgraphIndex=1, bodySubgraphIndex=2)
    loop = tflite_operator(0, [0], [1], options, schema.BuiltinOptions.WhileOptions)
    first, same = tflite_tensor("first", [1]), tflite_operator(1, [1, 1], [2])
    begin, size = (tflite_tensor(name, [1], "INT32", buffer) for buffer, name in ((1, "begin"), (2, "size")))
    take = tflite_operator(3, [0, 3, 4], [1])
    graphs = [
        tflite_graph([x, y], [loop], [0], [1]),
        tflite_graph([x, first, going, begin, size], [take, same], [0], [2]),
        tflite_graph([x, y], [tflite_operator(2, [0], [1])], [0], [1]),
    ]
    return tflite_file(graphs, ["WHILE", "EQUAL", "ABS", "SLICE"], [np.array([0], "int32"), np.array([1], "int32")])


def tflite_failing() -> bytes:
    """Loads, but an index is out of bounds in every run."""
    tensors = [tflite_tensor("x", [4]), tflite_tensor("index", [1], "INT32", buffer=1), tflite_tensor("y", [1])]
    gather = tflite_operator(0, [0, 1], [2], schema.GatherOptionsT(), schema.BuiltinOptions.GatherOptions)
    return tflite_file([tflite_graph(tensors, [gather], [0], [2])], ["GATHER"], [np.array([9], "int32")])


def tflite_input(dtype: str, shape: list[int], signature: list[int] | None = None) -> bytes:
    """No operator at all: what comes in goes out."""
    tensor = tflite_tensor("x", shape, dtype)
    tensor.shapeSignature = signature
    return tflite_file([tflite_graph([tensor], [], [0], [0])], [], [])


MODELS: dict[str, dict[str, Callable[[], bytes]]] = {
    "onnxruntime": {"convolution": convolution, "endless": endless, "failing": failing},
    "litert": {"convolution": tflite_convolution, "endless": tflite_endless, "failing": tflite_failing},
}


@pytest.fixture
def onnx_models() -> dict[str, Callable[[], bytes]]:
    """Makers of ONNX files by name."""
    return {**MODELS["onnxruntime"], "wide": lambda: convolution(256), "hungry": hungry}


@pytest.fixture(params=list(MODELS))
def here(request: pytest.FixtureRequest) -> Target:
    """A target of either runtime; tests that take it hold for both."""
    return Target("here", request.param, "fp32")


@pytest.fixture
def model(request: pytest.FixtureRequest, here: Target) -> bytes:
    """For the runtime of `here`: the model that the test names by indirect parametrisation, else the convolution."""
    return MODELS[here.runtime][getattr(request, "param", "convolution")]()


@pytest.fixture
def tflite() -> SimpleNamespace:
    """Makers of TFLite files."""
    return SimpleNamespace(convolution=tflite_convolution, chain=tflite_chain, lone_input=tflite_input)


@pytest.fixture
def quick() -> ProtocolConfig:
    """A protocol for a busy machine: short visits, little patience."""
    return ProtocolConfig(visit_ms=2.0, slice_ms=1.0, patience_ms=50.0)


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    """An adb server of the tests' own."""
    if shutil.which("adb") is None:
        pytest.skip("the program adb is not installed: apt install adb")
    with AdbServer(tmp_path_factory.mktemp("adb")) as server:
        yield server


@pytest.fixture
def phone(tmp_path: Path) -> Phone:
    """A phone that is not rooted."""
    return Phone(tmp_path / "phone")
