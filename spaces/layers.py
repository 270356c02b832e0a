"""A network as a list of layers: the one description that is trained, counted, timed and exported."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Op = Literal["conv", "add", "scale", "pool", "linear"]
Activation = Literal["none", "relu", "relu6", "hswish", "swish", "hsigmoid"]

INPUT = "input"
"""Name of the picture, the input of the first layer."""

PICTURE_CHANNELS = 3


@dataclass(frozen=True)
class Layer:
    """One layer; its output carries its name.

    `conv` is a convolution with batch norm (`norm`) or a bias, then the activation; `add` adds two inputs, then the
    activation; `scale` multiplies the first input by the second, a gate of 1 x 1 per channel; `pool` averages
    over height and width; `linear` is a fully connected layer with bias. Height equals width: `in_hw`, `out_hw`.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    cin: int
    cout: int
    in_hw: int
    out_hw: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    act: Activation = "none"
    norm: bool = True

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and fully connected layers, batch 1."""
        if self.op == "conv":
            return self.out_hw**2 * self.kernel**2 * self.cout * self.cin // self.groups
        return self.cin * self.cout if self.op == "linear" else 0

    @property
    def params(self) -> int:
        """Weights, biases, and the scale and shift of batch norm."""
        if self.op == "conv":
            weights = self.kernel**2 * self.cout * self.cin // self.groups
            return weights + (2 if self.norm else 1) * self.cout
        return (self.cin + 1) * self.cout if self.op == "linear" else 0

    @property
    def workload(self) -> Layer:
        """The layer without its place in a network: equal for layers that do the same work."""
        return replace(self, name="", inputs=("",) * len(self.inputs))


@dataclass(frozen=True)
class Network:
    """Layers in topological order; the last one gives the logits (batch, classes)."""

    layers: tuple[Layer, ...]
    resolution: int
    channels: int = PICTURE_CHANNELS

    @property
    def macs(self) -> int:
        """Multiply-accumulates, batch 1."""
        return sum(layer.macs for layer in self.layers)

    @property
    def params(self) -> int:
        """Number of trained parameters."""
        return sum(layer.params for layer in self.layers)

    def without_last(self) -> Network:
        """All layers but the last one, whose inputs it gives."""
        return replace(self, layers=self.layers[:-1])


@dataclass
class NetworkBuilder:
    """Appends layers and keeps track of each output's channels and size."""

    resolution: int
    channels: int = PICTURE_CHANNELS
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._shapes = {INPUT: (self.channels, self.resolution)}

    def shape(self, name: str) -> tuple[int, int]:
        """(channels, height) of an output."""
        return self._shapes[name]

    def _append(self, layer: Layer) -> str:
        self.layers.append(layer)
        self._shapes[layer.name] = (layer.cout, layer.out_hw)
        return layer.name

    def conv(
        self,
        name: str,
        x: str,
        cout: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        depthwise: bool = False,
        act: Activation = "none",
        norm: bool = True,
    ) -> str:
        """Convolution with padding kernel // 2."""
        cin, hw = self._shapes[x]
        groups = cin if depthwise else 1
        out_hw = (hw - 1) // stride + 1
        return self._append(Layer(name, "conv", (x,), cin, cout, hw, out_hw, kernel, stride, groups, act, norm))

    def add(self, name: str, a: str, b: str, act: Activation = "none") -> str:
        """Sum of two outputs of one shape."""
        if self._shapes[a] != self._shapes[b]:
            raise AssertionError(f"{name}: {self._shapes[a]} != {self._shapes[b]}")
        channels, hw = self._shapes[a]
        return self._append(Layer(name, "add", (a, b), channels, channels, hw, hw, act=act))

    def squeeze_excite(self, name: str, x: str, middle: int) -> str:
        """Pool, two 1 x 1 convolutions with bias, hard-sigmoid gate, product."""
        channels, hw = self._shapes[x]
        squeezed = self._append(Layer(f"{name}.pool", "pool", (x,), channels, channels, hw, 1))
        reduced = self.conv(f"{name}.reduce", squeezed, middle, act="relu", norm=False)
        gate = self.conv(f"{name}.gate", reduced, channels, act="hsigmoid", norm=False)
        return self._append(Layer(f"{name}.scale", "scale", (x, gate), channels, channels, hw, hw))

    def pool(self, name: str, x: str) -> str:
        """Global average pooling."""
        channels, hw = self._shapes[x]
        return self._append(Layer(name, "pool", (x,), channels, channels, hw, 1))

    def linear(self, name: str, x: str, cout: int) -> str:
        """Fully connected layer on a pooled output."""
        return self._append(Layer(name, "linear", (x,), self._shapes[x][0], cout, 1, 1))

    def build(self) -> Network:
        """The finished network."""
        return Network(tuple(self.layers), self.resolution, self.channels)


def is_stem(layer: Layer) -> bool:
    """Whether the layer reads the picture: runtimes treat such a convolution apart, and nothing comes before it."""
    return layer.op == "conv" and layer.cin == PICTURE_CHANNELS


def quantised_points(layer: Layer) -> tuple[str, ...]:
    """Names of the tensors of a layer that are quantised to uint8, in order; the last one is its output.

    A runtime fuses relu and relu6 into the integer kernel, so only their result is quantised; other activations
    are computed on a quantised convolution result, `NAME:pre`. The classifier's logits stay floating point. The
    picture is quantised too, under the name `input`.
    """
    if layer.op == "linear":
        return ()
    if layer.act in ("hswish", "swish", "hsigmoid"):
        return (f"{layer.name}:pre", layer.name)
    return (layer.name,)
