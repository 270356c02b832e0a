"""Small models, as bytes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from milliseek.devices.protocol import ProtocolConfig


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


MODELS = {"convolution": convolution, "endless": endless, "failing": failing}


@pytest.fixture
def model(request: pytest.FixtureRequest) -> bytes:
    """The model that the test names by indirect parametrisation, else the convolution."""
    return MODELS[getattr(request, "param", "convolution")]()


@pytest.fixture
def quick() -> ProtocolConfig:
    """A protocol for a busy machine: short visits, little patience."""
    return ProtocolConfig(visit_ms=2.0, slice_ms=1.0, patience_ms=50.0)
