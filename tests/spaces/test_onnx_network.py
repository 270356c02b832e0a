"""Networks as files: the runtime computes what the layers say, in integers where the file is INT8, and exactly."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from milliseek.devices.facts import local_facts, weight_bits
from milliseek.spaces.codes import block_keys, block_layers
from milliseek.spaces.groups import layer_groups
from milliseek.spaces.hyperspace import TINY32
from milliseek.spaces.layers import Layer, Network, NetworkBuilder, quantised_points
from milliseek.spaces.onnx_network import layers_model, network_model, random_parameters
from milliseek.spaces.parameters import LayerParameters, NetworkParameters, Quantiser
from milliseek.spaces.space import Space, random_subnet

PRECISIONS = ["fp32", "int8"]
ACTIVATIONS = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "swish": lambda x: x * (1 + np.tanh(x / 2)) / 2,
}


def small_subnet(block, seed=0):
    """A subnet of which every searched stage has block type `block`."""
    rng = np.random.default_rng(seed)
    return random_subnet(Space(TINY32, (block,) * 4, (0,) * 4), rng, resolution=24)


def picture(network, seed=1):
    shape = (1, network.channels, network.resolution, network.resolution)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def some_groups():
    """Single layers, and sums with what feeds them."""
    blocks = [block_layers(TINY32, key) for key in block_keys(TINY32)[::7]]
    found = {group for layers in blocks for group in layer_groups(layers, ("add", "linear"))}
    return sorted(found, key=repr)[::101]


def run(model, x, *, optimise=True):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": x})[0]


def convolution(x, weight, bias, stride, groups):
    """Window by window; x is (1, channels, height, width)."""
    cout, per_group, kernel, _ = weight.shape
    padded = np.pad(x[0], ((0, 0), (kernel // 2,) * 2, (kernel // 2,) * 2))
    size = (x.shape[2] - 1) // stride + 1
    out = np.zeros((1, cout, size, size))
    for o in range(cout):
        first = o // (cout // groups) * per_group
        for dy in range(kernel):
            for dx in range(kernel):
                rows = slice(dy, dy + stride * (size - 1) + 1, stride)
                columns = slice(dx, dx + stride * (size - 1) + 1, stride)
                window = padded[first : first + per_group, rows, columns]
                out[0, o] += np.tensordot(weight[o, :, dy, dx], window, 1)
    return out + bias[None, :, None, None]


def reference(network, layers, x):
    """Every tensor of the network, in float64, by the name of its quantised point."""
    values = {"input": x.astype(np.float64)}
    for layer in network.layers:
        inputs = [values[name] for name in layer.inputs]
        if layer.op == "conv":
            p = layers[layer.name]
            y = convolution(inputs[0], p.weight.astype(np.float64), p.bias, layer.stride, layer.groups)
        elif layer.op == "linear":
            p = layers[layer.name]
            y = inputs[0].reshape(1, -1) @ p.weight.T.astype(np.float64) + p.bias
        elif layer.op == "pool":
            y = inputs[0].mean((2, 3), keepdims=True)
        else:
            y = inputs[0] + inputs[1] if layer.op == "add" else inputs[0] * inputs[1]
        if len(quantised_points(layer)) == 2:
            values[f"{layer.name}:pre"] = y
        values[layer.name] = ACTIVATIONS[layer.act](y)
    return values


def fitting_quantiser(values):
    """The narrowest that holds the values and 0."""
    low, high = min(0.0, values.min()), max(1e-3, values.max())
    scale = (high - low) / 255
    return Quantiser(float(scale), round(-low / scale))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block", range(len(TINY32.blocks)), ids=[b.name for b in TINY32.blocks])
def test_files_are_valid_and_run(block, precision):
    network = small_subnet(block).network(classes=7)
    parameters = random_parameters(network.layers)
    model = network_model(network, parameters, precision, {"made by": "a test"})
    parsed = onnx.load_from_string(model)
    onnx.checker.check_model(parsed, full_check=True)
    assert {entry.key: entry.value for entry in parsed.metadata_props} == {"made by": "a test"}
    logits = run(model, picture(network))
    assert logits.shape == (1, 7)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("block", range(len(TINY32.blocks)), ids=[b.name for b in TINY32.blocks])
def test_fp32_files_compute_what_the_layers_say(block):
    network = small_subnet(block, seed=5).network(classes=7)
    parameters = random_parameters(network.layers)
    x = picture(network)
    expected = reference(network, parameters.layers, x)["head.classifier"]
    scale = np.abs(expected).max()
    assert np.abs(run(network_model(network, parameters, "fp32"), x) - expected).max() < 1e-4 * scale


@pytest.mark.parametrize("block", range(len(TINY32.blocks)), ids=[b.name for b in TINY32.blocks])
def test_int8_files_with_fitting_scales_are_close_to_fp32(block):
    network = small_subnet(block, seed=5).network(classes=7)
    parameters = random_parameters(network.layers)
    x = picture(network)
    values = reference(network, parameters.layers, x)
    quantisers = {name: fitting_quantiser(value) for name, value in values.items()}
    logits = run(network_model(network, replace(parameters, quantisers=quantisers), "int8"), x)
    exact = values["head.classifier"]
    assert np.abs(logits - exact).max() < 0.15 * np.ptp(exact)
    assert np.corrcoef(logits[0], exact[0])[0, 1] > 0.98


@pytest.mark.parametrize("precision", PRECISIONS)
def test_groups_side_by_side_make_a_valid_file(precision, some_groups):
    assert {layer.op for group in some_groups for layer in group} >= {"conv", "add", "scale"}
    parsed = onnx.load_from_string(layers_model(some_groups, precision, weight_bits=7))
    onnx.checker.check_model(parsed, full_check=True)
    owners = {output.name.split(":")[1] for output in parsed.graph.output}
    assert owners == set(map(str, range(len(some_groups))))


def test_an_int8_file_runs_in_integers_from_end_to_end(tmp_path):
    network = small_subnet(1).network(classes=7)  # mbv2: relu6, residual sums, no squeeze-and-excite
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # an optimised file fits one machine only, says the runtime
    model = network_model(network, random_parameters(network.layers), "int8")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    ops = [node.op_type for node in nodes]
    assert ops.count("QLinearConv") == sum(layer.op == "conv" for layer in network.layers)
    assert ops.count("QLinearAdd") == sum(layer.op == "add" for layer in network.layers)
    assert ops.count("QLinearGlobalAveragePool") == 1
    assert ops.count("QGemm") == 1
    assert ops.count("QuantizeLinear") == 1, "only the picture is quantised"
    integer = {"QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm", "QuantizeLinear"}
    assert set(ops) - integer <= {"Flatten", "Reshape", "Transpose"}


def saturating(layer: Layer, sign: int, top: int) -> tuple[Network, NetworkParameters]:
    """`layer`, then pooling and a classifier: activations 255, weights `sign` x `top`, the worst case of all.

    On x86 without VNNI two products of uint8 and int8 are added up in 16 bits, which end at 32 767.
    """
    b = NetworkBuilder(layer.in_hw, layer.cin)
    b.conv("conv", "input", layer.cout, layer.kernel, layer.stride, depthwise=layer.groups > 1)
    network_layers = b.layers
    assert network_layers[0].groups == layer.groups
    b.linear("classifier", b.pool("pool", "conv"), 4)
    fan_in = layer.cin // layer.groups * layer.kernel**2
    weight = np.full((layer.cout, layer.cin // layer.groups, layer.kernel, layer.kernel), sign, np.float32)
    scale = np.float32(1 / top)
    parameters = NetworkParameters(
        {
            "conv": LayerParameters(weight, np.zeros(layer.cout, np.float32), np.full(layer.cout, scale)),
            "classifier": LayerParameters(
                np.full((4, layer.cout), sign, np.float32), np.zeros(4, np.float32), np.full(4, scale)
            ),
        },
        {
            "input": Quantiser(1 / 255, 0),
            "conv": Quantiser(fan_in / 255, 0 if sign > 0 else 255),
            "pool": Quantiser(fan_in / 255, 0 if sign > 0 else 255),
        },
    )
    return b.build(), parameters


WORST = {
    "pointwise": Layer("", "conv", ("",), 64, 32, 8, 8),
    "dense": Layer("", "conv", ("",), 32, 16, 8, 8, kernel=3),
    "dense, strided": Layer("", "conv", ("",), 24, 48, 9, 5, kernel=5, stride=2),
    "depthwise": Layer("", "conv", ("",), 48, 48, 8, 8, kernel=3, groups=48),
    "first": Layer("", "conv", ("",), 3, 16, 8, 8, kernel=3),
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", WORST)
def test_seven_bit_weights_never_saturate(name, sign):
    layer = WORST[name]
    network, parameters = saturating(layer, sign, top=63)
    x = np.ones((1, layer.cin, layer.in_hw, layer.in_hw), np.float32)
    model = network_model(network, parameters, "int8")
    in_integers, in_floats = run(model, x), run(model, x, optimise=False)
    step = layer.cin // layer.groups * layer.kernel**2 / 255
    assert np.abs(in_integers - in_floats).max() <= 1.01 * layer.cout * step, "one rounding step of the pool"
    if name == "pointwise":
        assert in_integers == pytest.approx(np.full((1, 4), 64 * 32.0))


@pytest.mark.skipif(weight_bits(local_facts()) == 8, reason="this CPU multiplies uint8 by int8 without saturating")
def test_eight_bit_weights_would_saturate_here():
    network, parameters = saturating(WORST["pointwise"], 1, top=127)
    x = np.ones((1, 64, 8, 8), np.float32)
    assert run(network_model(network, parameters, "int8"), x).max() < 0.9 * 64 * 32


@pytest.mark.parametrize(("bits", "top"), [(7, 63), (8, 127)])
def test_weights_in_files_keep_within_their_bits(bits, top, some_groups):
    network = small_subnet(2).network(classes=7)
    for model in (
        network_model(network, random_parameters(network.layers, bits), "int8"),
        layers_model(some_groups, "int8", bits),
    ):
        tensors = onnx.load_from_string(model).graph.initializer
        codes = [numpy_helper.to_array(t) for t in tensors if t.name.endswith(":weight")]
        assert all(array.dtype == np.int8 for array in codes)
        largest = max(int(np.abs(array.astype(int)).max()) for array in codes)
        assert largest == top


def test_int8_needs_weight_scales():
    network = small_subnet(1).network(classes=7)
    parameters = random_parameters(network.layers)
    floats = {name: replace(p, weight_scale=None) for name, p in parameters.layers.items()}
    with pytest.raises(AssertionError, match="stem: no weight scale"):
        network_model(network, replace(parameters, layers=floats), "int8")


def test_codes_and_biases_in_the_file_are_those_of_the_parameters():
    network = small_subnet(1).network(classes=7)
    parameters = random_parameters(network.layers)
    tensors = {
        t.name: numpy_helper.to_array(t)
        for t in onnx.load_from_string(network_model(network, parameters, "int8")).graph.initializer
    }
    p = parameters.layers["s1.0.expand"]
    before = parameters.quantisers["s0.0.add"]
    assert np.array_equal(tensors["s1.0.expand:weight"], np.rint(p.weight / p.weight_scale[:, None, None, None]))
    step = p.weight_scale * before.scale
    assert np.abs(tensors["s1.0.expand:bias"] * step - p.bias).max() <= 0.51 * step.max()
    assert tensors["s1.0.expand:bias"].dtype == np.int32
