"""A file without its weights is small, and becomes a model with the same kernels again."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from milliseek.devices.local import LocalDevice
from milliseek.devices.runtimes.onnx_runtime import OnnxRuntime
from milliseek.devices.target import Target
from milliseek.kernels.onnx.file import check_model, precision
from milliseek.kernels.onnx.quantise import quantise_for_timing
from milliseek.kernels.onnx.reader import instrument, split
from milliseek.kernels.skeleton import fill, strip
from milliseek.kernels.tflite.file import check_tflite, read_tflite
from milliseek.kernels.tflite.graph import constant_bytes, scales
from milliseek.kernels.tflite.reader import split_tflite
from milliseek.kernels.tflite.writer import Quantisation, TFLiteWriter

from .conftest import NETWORKS, Net, attention, branching, mobile

SMALLEST_NORMAL = np.finfo(np.float32).tiny
DEPTH = 40


def kernel_counts(device: LocalDevice, model: bytes) -> Counter[str]:
    optimised = device.optimise(model)
    return Counter(use.kernel.hash for use in split(optimised, device.tensor_shapes(instrument(optimised))))


def activations(model: bytes) -> list[np.ndarray]:
    """All float tensors between the nodes, in one run on standard normal inputs."""
    session = OnnxRuntime().load(instrument(model), Target("here", "onnxruntime", "fp32"), optimise=False)
    found = [value.numpy() for value in session.outputs]
    return [value for value in found if value.dtype.kind == "f" and value.size > 1]


def deep(activation: str) -> bytes:
    """A stem, and many residual blocks on a few channels."""
    net = Net(1, 3, 8, 8)
    x = net.conv("input", 3, 16, 3)
    for _ in range(DEPTH):
        x = net.op("Add", x, net.conv(net.conv(x, 16, 64, 1, act=activation), 64, 16, 1, act=""))
    return net.build(x)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"branching"}))
def test_a_filled_skeleton_has_the_kernels_of_the_file(device: LocalDevice, name: str) -> None:
    model = NETWORKS[name]()
    filled = fill(strip(model, "onnx"), "onnx")
    assert precision(check_model(filled)) == precision(check_model(model))
    assert kernel_counts(device, filled) == kernel_counts(device, model)


def test_control_flow_survives(device: LocalDevice) -> None:
    filled = fill(strip(branching(), "onnx"), "onnx")
    assert [node.op_type for node in check_model(filled).graph.node] == [
        node.op_type for node in check_model(branching()).graph.node
    ]
    assert device.tensor_shapes(filled)


def test_a_skeleton_is_small_and_says_nothing_but_the_structure() -> None:
    model = onnx.ModelProto.FromString(mobile())
    model.doc_string = model.graph.doc_string = "where it came from"
    model.graph.node[0].doc_string = "line 7"
    model.metadata_props.add(key="author", value="somebody")
    skeleton = strip(model.SerializeToString(), "onnx")
    assert len(skeleton) < len(mobile()) / 10
    for word in (b"where it", b"line 7", b"somebody", b"node0", b"const0"):
        assert word not in skeleton


def test_small_constants_stay() -> None:
    def kept(model: bytes) -> list[list[float]]:
        tensors = onnx.ModelProto.FromString(model).graph.initializer
        return [numpy_helper.to_array(t).ravel().tolist() for t in tensors if len(t.raw_data) <= 64]

    assert kept(attention()) == kept(fill(strip(attention(), "onnx"), "onnx"))


def test_indices_stay() -> None:
    net = Net(1, 8)
    picked = net.const(np.arange(100) % 8, "int32")
    model = net.build(net.op("Gather", "input", picked, axis=1))
    (indices,) = check_model(fill(strip(model, "onnx"), "onnx")).graph.initializer
    assert numpy_helper.to_array(indices).tolist() == [index % 8 for index in range(100)]


def test_the_seed_decides_on_the_weights() -> None:
    skeleton = strip(mobile(), "onnx")
    assert fill(skeleton, "onnx", seed=1) == fill(skeleton, "onnx", seed=1) != fill(skeleton, "onnx", seed=2)
    assert strip(fill(skeleton, "onnx", seed=1), "onnx") == skeleton


@pytest.mark.parametrize("build", [mobile, *(partial(deep, name) for name in ("Relu", "HardSwish", "Tanh"))])
def test_activations_neither_overflow_nor_fade(build: partial[bytes]) -> None:
    for values in activations(fill(strip(build(), "onnx"), "onnx")):
        assert np.isfinite(values).all()
        assert np.all((values == 0) | (np.abs(values) >= SMALLEST_NORMAL))
        assert 1e-3 < values.std() < 1e3


def test_int8_weights_fit_seven_bits_and_channels_share_a_scale() -> None:
    graph = onnx.ModelProto.FromString(fill(strip(NETWORKS["mobile_int8"](), "onnx"), "onnx")).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [value for value in constants.values() if value.dtype == np.int8 and value.ndim == 4]
    assert weights
    assert max(np.abs(value).max() for value in weights) <= 63
    vectors = [constants[node.input[1]] for node in graph.node if node.op_type == "DequantizeLinear"]
    assert any(value.size > 1 for value in vectors)
    assert all(np.ptp(value) == 0 for value in vectors)


def test_a_filled_skeleton_can_be_quantised_with_the_kernels_of_the_quantised_file(device: LocalDevice) -> None:
    quantised = quantise_for_timing(fill(strip(mobile(), "onnx"), "onnx"))
    assert kernel_counts(device, quantised) == kernel_counts(device, NETWORKS["mobile_int8"]())


def tflite_network(dtype: str) -> bytes:
    """Convolution, depthwise convolution and a classifier; per-channel scales in INT8."""
    rng, writer = np.random.default_rng(0), TFLiteWriter()
    quantised = dtype == "int8"
    x = source = writer.tensor((1, 8, 8, 16), dtype, quantisation=Quantisation((0.02,)) if quantised else None)
    layers = [
        ("CONV_2D", (32, 3, 3, 16), 0, (1, 8, 8, 32)),
        ("DEPTHWISE_CONV_2D", (1, 3, 3, 32), 3, (1, 8, 8, 32)),
        ("CONV_2D", (32, 1, 1, 32), 0, (1, 8, 8, 32)),
    ]
    for op, shape, axis, made in layers:
        channels = shape[axis]
        steps = rng.uniform(0.01, 0.02, channels) if quantised else None
        weights = rng.integers(-100, 100, shape) if quantised else rng.standard_normal(shape)
        w = writer.tensor(shape, dtype, weights, None if steps is None else Quantisation(tuple(steps), axis=axis))
        bias = np.zeros(channels)
        b = writer.tensor(
            (channels,),
            "int32" if quantised else dtype,
            bias,
            None if steps is None else Quantisation(tuple(steps * 0.02)),
        )
        y = writer.tensor(made, dtype, quantisation=Quantisation((0.5,)) if quantised else None, name=f"layer of {op}")
        writer.operator(op, [x, w, b], [y], {"strideH": 1, "strideW": 1, "fusedActivationFunction": 1})
        x = y
    return writer.finish([source], [x], description="who made it")


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_filled_tflite_skeleton_has_the_kernels_of_the_file(dtype: str) -> None:
    model = tflite_network(dtype)
    skeleton = strip(model, "tflite")
    filled = check_tflite(fill(skeleton, "tflite"))
    assert len(skeleton) < len(model) / 2
    assert b"layer of" not in skeleton
    assert b"who made it" not in skeleton
    assert [use.kernel.hash for use in split_tflite(filled)] == [use.kernel.hash for use in split_tflite(model)]
    assert strip(filled, "tflite") == skeleton


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_filled_tflite_skeleton_runs_with_lively_outputs(dtype: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    filled = fill(strip(tflite_network(dtype), "tflite"), "tflite")
    interpreter = Interpreter(model_content=filled, num_threads=1)
    interpreter.allocate_tensors()
    values = np.random.default_rng(0).standard_normal((1, 8, 8, 16))
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], (values * 40).clip(-127, 127).astype(dtype))
    interpreter.invoke()
    result = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert np.isfinite(result).all()
    assert result.std() > 0


def test_tflite_channels_share_a_scale_and_constants_lie_inside() -> None:
    filled = fill(strip(tflite_network("int8"), "tflite"), "tflite")
    model = read_tflite(filled)
    vectors = [scales(tensor) for tensor in model.subgraphs[0].tensors]
    assert any(value.size > 1 for value in vectors)
    assert all(np.ptp(value) == 0 for value in vectors if value.size)
    weights = [constant_bytes(model, filled, tensor) for tensor in model.subgraphs[0].tensors]
    assert any(found is not None and found.view(np.int8).max() > 100 for found in weights)
    assert all(buffer.offset == 0 for buffer in model.buffers)
