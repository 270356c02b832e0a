"""Networks as ONNX files: fp32, or INT8 with quantise/dequantise pairs that carry given or random scales.

The file that is timed and the file that ships come from the same code: only the numbers differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .groups import LayerGroup
from .layers import INPUT, Layer, Network, is_stem, quantised_points
from .parameters import LayerParameters, NetworkParameters, Quantiser

Precision = Literal["fp32", "int8"]

OPSET = 17
IR_VERSION = 8
"""ONNX 1.12: what runtimes of the last years, agents on boards included, can read."""

OUTPUT = "logits"


def random_parameters(layers: Iterable[Layer], weight_bits: int = 7, seed: int = 0) -> NetworkParameters:
    """Plausible numbers for timing: weights that keep the signal's size, no denormals, legal scales."""
    rng = np.random.default_rng(seed)
    top = 2 ** (weight_bits - 1) - 1
    # Drawing a fresh number for every weight would take longer than everything else together.
    draws = rng.integers(-top, top + 1, 65_521).astype(np.float32)
    parameters: dict[str, LayerParameters] = {}
    quantisers = {INPUT: Quantiser(4 / 255, 128)}
    for layer in layers:
        for point in quantised_points(layer):
            unsigned = point == layer.name and layer.act in ("relu", "relu6", "hsigmoid")
            quantisers[point] = Quantiser(6 / 255, 0) if unsigned else Quantiser(8 / 255, 128)
        if layer.op not in ("conv", "linear"):
            continue
        if layer.op == "linear":
            quantisers[layer.name] = Quantiser(8 / 255, 128)  # of the logits, where a format needs it
        fan_in = layer.cin // layer.groups * layer.kernel**2
        scale = np.float32(np.sqrt(6 / fan_in) / top)  # He et al. 2015, uniform
        parameters[layer.name] = LayerParameters(
            np.resize(draws, weight_shape(layer)) * scale,
            rng.uniform(-0.1, 0.1, layer.cout).astype(np.float32),
            np.full(layer.cout, scale, np.float32),
        )
    return NetworkParameters(parameters, quantisers)


def weight_shape(layer: Layer) -> tuple[int, ...]:
    """(cout, cin / groups, kernel, kernel) of a convolution, (cout, cin) of a linear layer."""
    if layer.op == "linear":
        return layer.cout, layer.cin
    return layer.cout, layer.cin // layer.groups, layer.kernel, layer.kernel


def network_model(
    network: Network,
    parameters: NetworkParameters,
    precision: Precision,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A whole network: input `input` (1, channels, height, width), normalised float32; output `logits`."""
    writer = _Writer(parameters, precision)
    shape = (1, network.channels, network.resolution, network.resolution)
    writer.graph_input(INPUT, shape)
    values = {INPUT: writer.quantised(INPUT, INPUT)}
    for layer in network.layers:
        values[layer.name] = writer.layer(layer, [values[name] for name in layer.inputs])
    last = network.layers[-1]
    writer.rename_output(values[last.name], OUTPUT, (1, last.cout))
    return writer.model(metadata or {})


def layers_model(groups: Sequence[LayerGroup], precision: Precision, weight_bits: int) -> bytes:
    """Many groups of layers side by side, each between small convolutions that stand for its neighbours in a network.

    A runtime chooses layouts and fuses by what is around a node, so a group alone would be run differently. The graph
    inputs of group i are `in:i:0`, ..., its outputs `out:i:0`, ...; the stem has nothing before it, a classifier
    nothing after it. What a sum gets from outside feeds a further convolution, as in a network.
    """
    chains = [_between_neighbours(group, i) for i, group in enumerate(groups)]
    writer = _Writer(random_parameters([layer for chain in chains for layer in chain], weight_bits), precision)
    for i, chain in enumerate(chains):
        values: dict[str, str] = {}
        for layer in chain:
            for name in layer.inputs:
                if name not in values:
                    writer.graph_input(name, (1, layer.cin, layer.in_hw, layer.in_hw))
                    writer.quantisers[name] = Quantiser(8 / 255, 128)
                    values[name] = writer.quantised(name, name)
            values[layer.name] = writer.layer(layer, [values[name] for name in layer.inputs])
        used = {name for layer in chain for name in layer.inputs}
        for j, last in enumerate(layer for layer in chain if layer.name not in used):
            shape = (1, last.cout) if last.op == "linear" else (1, last.cout, last.out_hw, last.out_hw)
            writer.rename_output(values[last.name], f"out:{i}:{j}", shape)
    return writer.model({})


_NEIGHBOUR_CHANNELS = 8


def _between_neighbours(group: LayerGroup, i: int) -> list[Layer]:
    """The group, its names prefixed, with a 1 x 1 convolution before each input and after the output."""
    inside = [
        replace(layer, name=f"{i}:{layer.name}", inputs=tuple(f"{i}:{name}" for name in layer.inputs))
        for layer in group
    ]
    made = {layer.name for layer in inside}
    before: dict[str, Layer] = {}
    renamed: dict[str, str] = {}
    shared = []
    for layer in inside:
        for j, name in enumerate(layer.inputs):
            if name in made or name in before or name in renamed:
                continue
            source = f"in:{i}:{len(before) + len(renamed)}"
            hw = 1 if layer.op == "scale" and j == 1 else layer.in_hw
            if is_stem(layer):
                renamed[name] = source
                continue
            before[name] = Layer(name, "conv", (source,), _NEIGHBOUR_CHANNELS, layer.cin, hw, hw)
            if layer.op == "add":
                shared.append(_neighbour_after(f"{name}:also", name, layer.cin, hw))
    inside = [replace(layer, inputs=tuple(renamed.get(name, name) for name in layer.inputs)) for layer in inside]
    last = inside[-1]
    after = [_neighbour_after(f"{i}:after", last.name, last.cout, last.out_hw)] if last.op != "linear" else []
    return [*before.values(), *inside, *after, *shared]


def _neighbour_after(name: str, source: str, channels: int, hw: int) -> Layer:
    return Layer(name, "conv", (source,), channels, _NEIGHBOUR_CHANNELS, hw, hw)


class _Writer:
    """Collects nodes and initialisers; `x` always names the (dequantised) float view of a tensor."""

    def __init__(self, parameters: NetworkParameters, precision: Precision) -> None:
        self.parameters = parameters.layers
        self.quantisers = dict(parameters.quantisers)
        self.int8 = precision == "int8"
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def graph_input(self, name: str, shape: Sequence[int]) -> None:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def rename_output(self, value: str, name: str, shape: Sequence[int]) -> None:
        """Make `value` the graph's output `name`; it must not be used otherwise."""
        producer = next(node for node in reversed(self.nodes) if value in node.output)
        producer.output[:] = [name]
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}:out"], name=name, **attributes))
        return f"{name}:out"

    def constant(self, name: str, array: np.ndarray | np.generic) -> str:
        self.initialisers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def quantised(self, value: str, point: str, fixed: Quantiser | None = None) -> str:
        """`value` through a uint8 quantise/dequantise pair (unchanged in fp32)."""
        if not self.int8:
            return value
        quantiser = fixed or self.quantisers[point]
        scale = self.constant(f"{point}:scale", np.float32(quantiser.scale))
        zero = self.constant(f"{point}:zero", np.uint8(quantiser.zero_point))
        codes = self.node("QuantizeLinear", [value, scale, zero], f"{point}:quantise")
        return self.node("DequantizeLinear", [codes, scale, zero], f"{point}:dequantise")

    def weights(self, layer: Layer, point: str) -> tuple[str, str]:
        """Weight and bias; `point` is the quantised tensor that the layer reads."""
        p = self.parameters[layer.name]
        if not self.int8:
            return self.constant(f"{layer.name}:weight", p.weight), self.constant(f"{layer.name}:bias", p.bias)
        integers = p.integers(layer.name, self.quantisers[point].scale)
        weight = self._dequantised(f"{layer.name}:weight", integers.weight, integers.weight_scale)
        return weight, self._dequantised(f"{layer.name}:bias", integers.bias, integers.bias_scale)

    def _dequantised(self, name: str, codes: np.ndarray, scale: np.ndarray) -> str:
        inputs = [
            self.constant(name, codes),
            self.constant(f"{name}_scale", scale),
            self.constant(f"{name}_zero", np.zeros(len(scale), codes.dtype)),
        ]
        return self.node("DequantizeLinear", inputs, f"{name}:dequantise", axis=0)

    def layer(self, layer: Layer, inputs: Sequence[str]) -> str:
        """Nodes of one layer; returns the float view of its output."""
        name = layer.name
        if layer.op == "conv":
            return self._activation(layer, self._conv(layer, inputs[0]))
        if layer.op == "add":
            return self._activation(layer, self.node("Add", list(inputs), name))
        if layer.op == "scale":
            return self.quantised(self.node("Mul", list(inputs), name), name)
        if layer.op == "pool":
            return self.quantised(self.node("GlobalAveragePool", list(inputs), name), name)
        flat = self.node("Flatten", list(inputs), f"{name}:flatten")
        # The same scale again: it changes no number, but the runtime only fuses Gemm with a quantised neighbour.
        flat = self.quantised(flat, f"{name}:flatten", fixed=self.quantisers.get(layer.inputs[0]))
        weight, bias = self.weights(layer, layer.inputs[0])
        return self.node("Gemm", [flat, weight, bias], name, transB=1)

    def _conv(self, layer: Layer, x: str) -> str:
        weight, bias = self.weights(layer, layer.inputs[0])
        return self.node(
            "Conv",
            [x, weight, bias],
            layer.name,
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            pads=[layer.kernel // 2] * 4,
            group=layer.groups,
        )

    def _activation(self, layer: Layer, x: str) -> str:
        name = layer.name
        if layer.act == "relu":
            x = self.node("Relu", [x], f"{name}:relu")
        elif layer.act == "relu6":
            bounds = [self.constant(f"{name}:low", np.float32(0)), self.constant(f"{name}:high", np.float32(6))]
            x = self.node("Clip", [x, *bounds], f"{name}:relu6")
        elif layer.act != "none":
            x = self.quantised(x, f"{name}:pre")
            if layer.act == "hswish":
                x = self.node("HardSwish", [x], f"{name}:hswish")
            elif layer.act == "hsigmoid":
                x = self.node("HardSigmoid", [x], f"{name}:hsigmoid", alpha=1 / 6, beta=0.5)
            else:
                gate = self.node("Sigmoid", [x], f"{name}:sigmoid")
                gate = self.quantised(gate, f"{name}:sigmoid", fixed=Quantiser(1 / 255, 0))
                x = self.node("Mul", [x, gate], f"{name}:swish")
        return self.quantised(x, name)

    def model(self, metadata: Mapping[str, str]) -> bytes:
        graph = helper.make_graph(self.nodes, "milliseek", self.inputs, self.outputs, self.initialisers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="milliseek",
        )
        helper.set_model_props(model, dict(metadata))
        return bytes(model.SerializeToString())
