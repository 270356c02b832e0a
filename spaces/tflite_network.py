"""Networks as TFLite files: the numbers of `onnx_network`, in operators that XNNPACK takes, all of them.

Activations are (1, height, width, channels). Where there is a choice, operators and options are those of converted
PyTorch networks, so that what was measured on other networks holds for these files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..kernels.kernel import Kernel
from ..kernels.tflite.schema import members
from ..kernels.tflite.writer import Quantisation, TFLiteWriter
from .layers import INPUT, Layer, Network, is_stem
from .onnx_network import OUTPUT, Precision, random_parameters
from .parameters import NetworkParameters, Quantiser

WEIGHT_BITS = 8
"""XNNPACK multiplies int8 by int8 without saturating, on every CPU."""


def tflite_model(
    network: Network,
    parameters: NetworkParameters,
    precision: Precision,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A whole network: input `input` (1, height, width, channels), normalised float32; output `logits` (1, classes).

    An int8 file needs a quantiser of the classifier's name, the range of the logits: unlike ONNX Runtime, TFLite has no
    integer product whose result is floating point.
    """
    writer = _Writer(parameters, precision)
    picture = writer.file.tensor((1, network.resolution, network.resolution, network.channels), name=INPUT)
    values = {INPUT: writer.quantised(picture, INPUT, network.resolution, network.channels)}
    last = network.layers[-1]
    for layer in network.layers:
        inputs = [values[name] for name in layer.inputs]
        values[layer.name] = writer.layer(layer, inputs, OUTPUT if layer is last else layer.name)
    return writer.file.finish([picture], [values[last.name]], metadata=metadata)


def tflite_layers_model(layers: Sequence[Layer], precision: Precision) -> bytes:
    """Many layers side by side, with random numbers; a layer alone is executed as inside a network.

    The inputs of layer i are `in:i:0`, ..., its output `out:i`, all int8 where the precision is. What a network has at
    its borders belongs to the layers there: the stem has a floating point input, a classifier such an output.
    """
    named = [
        replace(layer, name=f"layer:{i}", inputs=tuple(f"in:{i}:{j}" for j in range(len(layer.inputs))))
        for i, layer in enumerate(layers)
    ]
    parameters = random_parameters(named, WEIGHT_BITS)
    borders = {name: Quantiser(8 / 255, 128) for layer in named for name in layer.inputs}
    writer = _Writer(replace(parameters, quantisers={**parameters.quantisers, **borders}), precision)
    inputs, outputs = [], []
    for i, layer in enumerate(named):
        values = []
        for j, name in enumerate(layer.inputs):
            hw = 1 if layer.op == "scale" and j == 1 else layer.in_hw
            shape = (1, hw, hw, layer.cin)
            inputs.append(writer.file.tensor(shape, name=name) if is_stem(layer) else writer.value(name, shape))
            values.append(writer.quantised(inputs[-1], name, hw, layer.cin) if is_stem(layer) else inputs[-1])
        outputs.append(writer.layer(layer, values, f"out:{i}"))
    return writer.file.finish(inputs, outputs)


_OWNER = re.compile(r"(?:in|layer|out):(\d+)")
_CHUNK = 100
"""Layers in one file: few enough for the 2 GiB of a flatbuffer."""


def layer_operators(layers: Sequence[Layer], precision: Precision) -> list[tuple[Kernel, ...]]:
    """The operators that each layer consists of, in order; those of a network are the operators of its layers."""
    from ..kernels.tflite.reader import split_tflite

    found: list[list[Kernel]] = [[] for _ in layers]
    for start in range(0, len(layers), _CHUNK):
        for use in split_tflite(tflite_layers_model(layers[start : start + _CHUNK], precision)):
            owner = _OWNER.match(use.outputs[0])
            if owner is None:
                raise AssertionError(f"{use.outputs[0]} belongs to no layer")
            found[start + int(owner[1])].append(use.kernel)
    return [tuple(kernels) for kernels in found]


_FUSED = {"none": "NONE", "relu": "RELU", "relu6": "RELU6"}
_SAME, _VALID = "SAME", "VALID"
_SIGMOID = Quantiser(1 / 256, 0)
"""The only one that LOGISTIC gives."""


class _Writer:
    """Appends the operators of layers; a value is the number of a tensor, int8 where the precision is."""

    def __init__(self, parameters: NetworkParameters, precision: Precision) -> None:
        self.parameters = parameters.layers
        self.quantisers = parameters.quantisers
        self.int8 = precision == "int8"
        self.file = TFLiteWriter()

    def value(self, name: str, shape: Sequence[int], point: str = "", fixed: Quantiser | None = None) -> int:
        """A tensor between operators, quantised as the point of its name, or as `point`, or as `fixed` says."""
        if not self.int8:
            return self.file.tensor(shape, name=name)
        quantiser = fixed or self.quantisers[point or name]
        quantisation = Quantisation((quantiser.scale,), quantiser.zero_point - 128)  # codes of uint8, as int8
        return self.file.tensor(shape, "int8", quantisation=quantisation, name=name)

    def quantised(self, x: int, name: str, hw: int, channels: int) -> int:
        """The floating point tensor `name` as layers read it."""
        if not self.int8:
            return x
        y = self.value(f"{name}:quantised", (1, hw, hw, channels), name)
        self.file.operator("QUANTIZE", [x], [y])
        return y

    def layer(self, layer: Layer, inputs: Sequence[int], name: str) -> int:
        """Operators of one layer; returns its output, a tensor called `name`."""
        if layer.op == "linear":
            return self._classifier(layer, inputs[0], name)
        shape = (1, layer.out_hw, layer.out_hw, layer.cout)
        y = self.value(name, shape, layer.name)
        if layer.act in _FUSED:
            self._product(layer, inputs, y, _FUSED[layer.act])
        elif layer.act == "hsigmoid":
            self._gate(layer, inputs[0], y, shape)
        else:
            x = self.value(f"{layer.name}:pre", shape)
            self._product(layer, inputs, x, "NONE")
            (self._swish if layer.act == "swish" else self._hard_swish)(layer, x, y, shape)
        return y

    def _product(self, layer: Layer, inputs: Sequence[int], y: int, activation: str) -> None:
        if layer.op == "conv":
            self._convolution(layer, inputs[0], y, activation)
        elif layer.op == "pool":
            self.file.operator("MEAN", [*inputs, self._integers(layer.name, [1, 2])], [y], {"keepDims": True})
        else:
            self.file.operator("ADD" if layer.op == "add" else "MUL", inputs, [y], _fused(activation))

    def _convolution(
        self, layer: Layer, x: int, y: int, activation: str, factor: float = 1.0, shift: float = 0.0
    ) -> None:
        """`factor` x the convolution + `shift`, then the activation."""
        padding, edge = _padding(layer), layer.kernel // 2
        if edge and padding == _VALID:
            hw = layer.in_hw + 2 * edge
            padded = self.value(f"{layer.name}:padded", (1, hw, hw, layer.cin), layer.inputs[0])
            edges = [[0, 0], [edge, edge], [edge, edge], [0, 0]]
            self.file.operator("PAD", [x, self._integers(layer.name, edges)], [padded])
            x = padded
        options = {"padding": members("Padding")[padding], "strideH": layer.stride, "strideW": layer.stride}
        options |= _fused(activation)
        depthwise = layer.groups > 1
        if depthwise:
            options["depthMultiplier"] = layer.cout // layer.cin
        op_type = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        self.file.operator(op_type, [x, *self._weights(layer, factor, shift)], [y], options)

    def _weights(self, layer: Layer, factor: float = 1.0, shift: float = 0.0) -> list[int]:
        """Weight, (cout, height, width, cin) or (1, height, width, cout) or (cout, cin), and bias of a layer."""
        p = self.parameters[layer.name]
        axes, axis = _layout(layer)
        names = f"{layer.name}:weight", f"{layer.name}:bias"
        if not self.int8:
            arrays = (factor * p.weight).transpose(axes), factor * p.bias + np.float32(shift)
            return [self.file.tensor(a.shape, "float32", a, name=n) for a, n in zip(arrays, names, strict=True)]
        integers = p.integers(layer.name, self.quantisers[layer.inputs[0]].scale)
        weight = integers.weight.transpose(axes)
        scales, bias_scales = (tuple((factor * s).tolist()) for s in (integers.weight_scale, integers.bias_scale))
        if shift:
            raise AssertionError("a shift would be rounded to the steps of the bias")
        return [
            self.file.tensor(weight.shape, "int8", weight, Quantisation(scales, 0, axis), names[0]),
            self.file.tensor(integers.bias.shape, "int32", integers.bias, Quantisation(bias_scales), names[1]),
        ]

    def _gate(self, layer: Layer, x: int, y: int, shape: Sequence[int]) -> None:
        """A convolution and its hard sigmoid."""
        point = f"{layer.name}:pre"
        if not self.int8:
            six = self.value(point, shape)
            self._convolution(layer, x, six, "RELU6", shift=3)
            self.file.operator("MUL", [six, self._constant(layer.name, 1 / 6)], [y])
            return
        # The zero point of y is 0 (uint8), which ends it below; a sixth of the convolution keeps every code.
        pre = self.quantisers[point]
        sixth = self.value(point, shape, fixed=replace(pre, scale=pre.scale / 6))
        self._convolution(layer, x, sixth, "NONE", factor=1 / 6)
        self.file.operator("ADD", [sixth, self._constant(layer.name, 0.5)], [y], _fused("RELU_N1_TO_1"))

    def _hard_swish(self, layer: Layer, x: int, y: int, shape: Sequence[int]) -> None:
        if not self.int8:
            self.file.operator("HARD_SWISH", [x], [y])
            return
        # XNNPACK takes HARD_SWISH in floating point only; in integers it would cut the network into pieces.
        wide, wide_y = (self.file.tensor(shape, name=f"{layer.name}:{part}") for part in ("float", "hswish"))
        self.file.operator("DEQUANTIZE", [x], [wide])
        self.file.operator("HARD_SWISH", [wide], [wide_y])
        self.file.operator("QUANTIZE", [wide_y], [y])

    def _swish(self, layer: Layer, x: int, y: int, shape: Sequence[int]) -> None:
        gate = self.value(f"{layer.name}:sigmoid", shape, fixed=_SIGMOID)
        self.file.operator("LOGISTIC", [x], [gate])
        self.file.operator("MUL", [x, gate], [y])

    def _classifier(self, layer: Layer, x: int, name: str) -> int:
        shape = (1, layer.cout)
        y = self.file.tensor(shape, name=name)
        if self.int8 and layer.name not in self.quantisers:
            raise AssertionError(f"{layer.name}: no quantiser of the logits; their range must be measured")
        logits = self.value(f"{layer.name}:codes", shape, layer.name) if self.int8 else y
        self.file.operator("FULLY_CONNECTED", [x, *self._weights(layer)], [logits])
        if self.int8:
            self.file.operator("DEQUANTIZE", [logits], [y])
        return y

    def _integers(self, name: str, values: Sequence[int] | Sequence[Sequence[int]]) -> int:
        array = np.array(values, np.int32)
        return self.file.tensor(array.shape, "int32", array, name=f"{name}:axes")

    def _constant(self, name: str, value: float) -> int:
        """A number, int8 where the precision is."""
        if not self.int8:
            return self.file.tensor((), "float32", np.array(value, np.float32), name=f"{name}:constant")
        quantisation = Quantisation((value / 127,))
        return self.file.tensor((), "int8", np.array(127, np.int8), quantisation, f"{name}:constant")


def _fused(activation: str) -> dict[str, Any]:
    return {"fusedActivationFunction": members("ActivationFunctionType")[activation]}


def _padding(layer: Layer) -> str:
    """SAME where it puts kernel // 2 zeros before the first row, as training does; else VALID, after a PAD."""
    if layer.kernel == 1:
        return _VALID
    zeros = max((layer.out_hw - 1) * layer.stride + layer.kernel - layer.in_hw, 0)
    return _SAME if zeros // 2 == layer.kernel // 2 else _VALID


def _layout(layer: Layer) -> tuple[tuple[int, ...], int]:
    """Axes of the parameters' weight in the file's order, and where the output channels are then."""
    if layer.op == "linear":
        return (0, 1), 0
    return ((1, 2, 3, 0), 3) if layer.groups > 1 else ((0, 2, 3, 1), 0)
