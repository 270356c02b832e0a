"""TFLite files: the numbers of the ONNX files of the same networks, all of them in XNNPACK, in both precisions."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from milliseek.kernels.tflite.reader import split_tflite
from milliseek.kernels.tflite.schema import schema
from milliseek.spaces.hyperspace import ONNXW, SMALL32, TINY32
from milliseek.spaces.layers import Layer, NetworkBuilder, quantised_points
from milliseek.spaces.onnx_network import network_model, random_parameters
from milliseek.spaces.parameters import Quantiser
from milliseek.spaces.space import Space, random_subnet
from milliseek.spaces.tflite_network import layer_operators, tflite_layers_model, tflite_model

litert = pytest.importorskip("ai_edge_litert.interpreter")

PRECISIONS = ["fp32", "int8"]
SUBNETS = [
    *((TINY32, (block,) * 4, 24) for block in range(len(TINY32.blocks))),
    (SMALL32, (0, 1, 2, 3), 28),
    (SMALL32, (4, 5, 2, 1), 32),
    (ONNXW, (1, 3, 0, 5, 4, 2), 160),
]
BLOCKS = [block.name for block in TINY32.blocks]


def subnet_name(value):
    hyperspace, blocks, resolution = value
    return f"{hyperspace.name}-{'+'.join(dict.fromkeys(hyperspace.blocks[b].name for b in blocks))}-{resolution}"


def network_of(hyperspace, blocks, resolution, classes=10):
    space = Space(hyperspace, blocks, (0,) * len(blocks))
    return random_subnet(space, np.random.default_rng(sum(blocks)), resolution=resolution).network(classes)


def calm_parameters(network):
    """Random numbers under which signals don't grow along the residual sums."""
    parameters = random_parameters(network.layers)
    layers = dict(parameters.layers)
    for name, p in layers.items():
        if name.endswith(("pw2", "project", "restore")):
            layers[name] = replace(p, weight=p.weight / 2, weight_scale=p.weight_scale / 2)
    return replace(parameters, layers=layers)


def pictures(network, count=1, seed=1):
    shape = (count, 1, network.channels, network.resolution, network.resolution)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def interpreter(model, **options):
    found = litert.Interpreter(model_content=model, num_threads=1, **options)
    found.allocate_tensors()
    return found


def run(model, x):
    """Logits (pictures, classes) for x (pictures, 1, channels, height, width)."""
    runtime = interpreter(model)
    (source,), (target,) = runtime.get_input_details(), runtime.get_output_details()
    assert (source["name"], target["name"]) == ("input", "logits")
    assert source["dtype"] == target["dtype"] == np.float32
    found = []
    for picture in x:
        runtime.set_tensor(source["index"], np.ascontiguousarray(picture.transpose(0, 2, 3, 1)))
        runtime.invoke()
        found.append(runtime.get_tensor(target["index"])[0])
    return np.array(found)


def run_onnx(model, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"input": picture})[0] for picture in x])


def fitting_parameters(network, parameters, x):
    """With quantisers that hold what the fp32 file has in every tensor for pictures x."""
    runtime = interpreter(
        tflite_model(network, parameters, "fp32"),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    points = {"input", *(point for layer in network.layers for point in quantised_points(layer))}
    tensors = {detail["name"]: detail["index"] for detail in runtime.get_tensor_details()}
    gates = {f"{layer.name}:pre" for layer in network.layers if layer.act == "hsigmoid"}
    ranges = dict.fromkeys(points | {"logits"}, (0.0, 1e-3))
    for picture in x:
        runtime.set_tensor(tensors["input"], np.ascontiguousarray(picture.transpose(0, 2, 3, 1)))
        runtime.invoke()
        for point, (low, high) in ranges.items():
            values = runtime.get_tensor(tensors[point]) - 3 * (point in gates)  # the file has relu6(x + 3) there
            ranges[point] = min(low, float(values.min())), max(high, float(values.max()))
    quantisers = {
        point: Quantiser((high - low) / 255, round(255 * -low / (high - low))) for point, (low, high) in ranges.items()
    }
    return replace(parameters, quantisers={**quantisers, network.layers[-1].name: quantisers["logits"]})


def assert_all_in_xnnpack(runtime):
    operators = runtime._get_ops_details()
    (delegate,) = (operator for operator in operators if operator["op_name"] == "DELEGATE")
    assert {detail["index"] for detail in runtime.get_input_details()} <= set(delegate["inputs"])
    assert {detail["index"] for detail in runtime.get_output_details()} == set(delegate["outputs"])


@pytest.mark.parametrize("subnet", SUBNETS, ids=subnet_name)
def test_fp32_files_give_the_logits_of_onnx_files(subnet):
    network = network_of(*subnet)
    parameters, x = calm_parameters(network), pictures(network)
    expected = run_onnx(network_model(network, parameters, "fp32"), x)
    found = run(tflite_model(network, parameters, "fp32"), x)
    assert found.shape == expected.shape == (1, 10)
    assert np.abs(found - expected).max() < 3e-5 * np.abs(expected).max()


@pytest.mark.parametrize("subnet", SUBNETS[:-1], ids=subnet_name)
def test_int8_files_agree_with_onnx_files(subnet):
    network = network_of(*subnet)
    parameters = calm_parameters(network)
    parameters = fitting_parameters(network, parameters, pictures(network, 4, seed=2))
    x = pictures(network, 16)
    expected = run_onnx(network_model(network, parameters, "int8"), x)
    found = run(tflite_model(network, parameters, "int8"), x)
    step = parameters.quantisers[network.layers[-1].name].scale
    assert np.abs(found - expected).mean() < 3 * step
    assert np.mean(found.argmax(1) == expected.argmax(1)) > 0.8
    in_floats = run_onnx(network_model(network, parameters, "fp32"), x)
    assert np.abs(found - expected).mean() < np.abs(expected - in_floats).mean() + step, (
        "closer than the rounding itself"
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("subnet", SUBNETS, ids=subnet_name)
def test_everything_runs_in_xnnpack(subnet, precision):
    network = network_of(*subnet)
    assert_all_in_xnnpack(interpreter(tflite_model(network, random_parameters(network.layers), precision)))


LAYERS = [
    *(Layer("", "conv", ("",), 16, 24, 9, 9, kernel=3, act=act)
      for act in ("none", "relu", "relu6", "hswish", "swish", "hsigmoid")),
    *(Layer("", "conv", ("",), 8, 8, hw, (hw - 1) // stride + 1, kernel, stride, groups)
      for kernel in (1, 3, 5, 7) for hw in (2, 8, 9) for stride in (1, 2) for groups in (1, 8)),
    Layer("", "add", ("", ""), 16, 16, 8, 8),
    Layer("", "add", ("", ""), 16, 16, 8, 8, act="relu"),
    Layer("", "scale", ("", ""), 16, 16, 8, 8),
    Layer("", "pool", ("",), 16, 16, 8, 1),
    Layer("", "linear", ("",), 64, 10, 1, 1),
]  # fmt: skip


def run_layers(precision):
    """Outputs of all LAYERS as real numbers, for the same inputs in each precision."""
    runtime = interpreter(tflite_layers_model(LAYERS, precision))
    assert_all_in_xnnpack(runtime)
    rng = np.random.default_rng(0)
    for detail in sorted(runtime.get_input_details(), key=lambda detail: detail["name"]):
        codes = rng.integers(-128, 128, detail["shape"])
        codes = codes if precision == "int8" else codes * np.float32(8 / 255)
        runtime.set_tensor(detail["index"], codes.astype(detail["dtype"]))
    runtime.invoke()
    found = {}
    for detail in runtime.get_output_details():
        scale, zero_point = detail["quantization"] if precision == "int8" and detail["dtype"] == np.int8 else (1, 0)
        found[detail["name"]] = scale * (runtime.get_tensor(detail["index"]).astype(float) - zero_point)
    return [found[f"out:{i}"] for i in range(len(LAYERS))]


def test_int8_layers_compute_what_fp32_layers_do():
    for layer, exact, found in zip(LAYERS, run_layers("fp32"), run_layers("int8"), strict=True):
        unsigned = layer.act in ("relu", "relu6", "hsigmoid")
        step, zero_point = (6 / 255, 0) if unsigned else (8 / 255, 128)
        kept = np.clip(exact, -zero_point * step, (255 - zero_point) * step)
        steps = 3 if layer.act == "swish" else 1.5  # its input saturates before the sigmoid has become 1
        assert np.abs(found - kept).max() < steps * step, layer


def test_convolutions_pad_as_onnx_does():
    for hw in (7, 8, 12, 13):
        b = NetworkBuilder(hw)
        x = "input"
        for i, kernel in enumerate((3, 5, 7, 3)):
            x = b.conv(f"conv{i}", x, 8, kernel, stride=1 + (i < 3), depthwise=i == 1)
        b.linear("classifier", b.pool("pool", x), 5)
        network = b.build()
        parameters, x = random_parameters(network.layers), pictures(network)
        expected = run_onnx(network_model(network, parameters, "fp32"), x)
        assert run(tflite_model(network, parameters, "fp32"), x) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_layers_of_a_network_have_its_operators(precision):
    network = network_of(ONNXW, (1, 2, 3, 4, 5, 0), 224)
    whole = split_tflite(tflite_model(network, random_parameters(network.layers), precision))
    unique = list({layer.workload: None for layer in network.layers})
    of_layer = dict(zip(unique, layer_operators(unique, precision), strict=True))
    parts = Counter(kernel.hash for layer in network.layers for kernel in of_layer[layer.workload])
    assert parts == Counter(use.kernel.hash for use in whole)
    if precision == "int8":
        ends = ("QUANTIZE", "DEQUANTIZE")
        assert (whole[0].kernel.op_type, whole[-1].kernel.op_type) == ends


@pytest.mark.parametrize("precision", PRECISIONS)
def test_equal_calls_give_equal_bytes(precision):
    network = network_of(TINY32, (2, 3, 4, 5), 24)
    one, other = (tflite_model(network, random_parameters(network.layers), precision, {"a": "1"}) for _ in range(2))
    assert one == other
    assert tflite_layers_model(LAYERS, precision) == tflite_layers_model(LAYERS, precision)


def parsed(data):
    return schema().ModelT.InitFromPackedBuf(data, 0)


def test_files_carry_metadata():
    network = network_of(TINY32, (1,) * 4, 24)
    said = {"milliseek.classes": '["Katze", "B\u00e4r"]', "made by": "a test"}
    model = parsed(tflite_model(network, random_parameters(network.layers), "fp32", said))
    found = {entry.name.decode(): bytes(model.buffers[entry.buffer].data).decode() for entry in model.metadata}
    assert found == said


@pytest.mark.parametrize(("bits", "top"), [(7, 63), (8, 127)])
def test_codes_and_scales_in_the_file_are_those_of_the_parameters(bits, top):
    network = network_of(TINY32, (1,) * 4, 24)
    parameters = random_parameters(network.layers, bits)
    model = parsed(tflite_model(network, parameters, "int8"))
    tensors = {tensor.name.decode(): tensor for tensor in model.subgraphs[0].tensors}

    def codes(name, dtype):
        return np.frombuffer(bytes(model.buffers[tensors[name].buffer].data), dtype).reshape(tensors[name].shape)

    for name, axes, axis in (("s1.0.expand", (0, 3, 1, 2), 0), ("s1.0.dw", (3, 0, 1, 2), 3)):
        p = parameters.layers[name]
        weight = codes(f"{name}:weight", np.int8).transpose(axes)
        assert np.array_equal(weight, np.rint(p.weight / p.weight_scale[:, None, None, None]))
        assert np.abs(weight.astype(int)).max() == top
        scales = tensors[f"{name}:weight"].quantization
        assert np.array_equal(scales.scale, p.weight_scale)
        assert scales.quantizedDimension == axis
    before, p = parameters.quantisers["s0.0.add"], parameters.layers["s1.0.expand"]
    step = p.weight_scale * before.scale
    assert np.abs(codes("s1.0.expand:bias", np.int32) * step - p.bias).max() <= 0.51 * step.max()
    said = tensors["s0.0.add"].quantization
    assert (said.scale, said.zeroPoint) == (np.float32(before.scale), before.zero_point - 128)


def test_int8_needs_scales():
    network = network_of(TINY32, (1,) * 4, 24)
    parameters = random_parameters(network.layers)
    floats = {name: replace(p, weight_scale=None) for name, p in parameters.layers.items()}
    with pytest.raises(AssertionError, match="stem: no weight scale"):
        tflite_model(network, replace(parameters, layers=floats), "int8")
    quantisers = {name: q for name, q in parameters.quantisers.items() if name != "head.classifier"}
    with pytest.raises(AssertionError, match=r"head\.classifier: no quantiser of the logits"):
        tflite_model(network, replace(parameters, quantisers=quantisers), "int8")
