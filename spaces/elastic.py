"""Elastic networks: an interpreter of a layer list over parameters that all networks of a space share.

Every layer name that can occur in a space owns one parameter tensor of the largest shape; a layer of a subnet runs on
a slice of it: the first output and input channels and the central crop of the kernel (once-for-all, SpaceEvo).
Batch norm has no running statistics of its own, because those of one subnet are wrong for the next: a pass either
uses the statistics of its batch or those measured for one subnet (`Statistics`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import BlockChoice, BlockType
from .layers import INPUT, Activation, Layer, Network, NetworkBuilder
from .space import Space, extreme_subnet

NORM_EPSILON = 1e-5
"""Added to the variance by every batch norm."""


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "none": _identity,
    "relu": F.relu,
    "relu6": F.relu6,
    "hswish": F.hardswish,
    "swish": F.silu,
    "hsigmoid": F.hardsigmoid,
}


class Numerics:
    """How numbers are represented while a network is interpreted; this one is plain floating point."""

    def picture(self, x: Tensor) -> Tensor:
        """The network's input (batch, 3, height, width) as the first layer sees it."""
        return x

    def weight(self, layer: Layer, weight: Tensor) -> Tensor:  # noqa: ARG002 - others need the layer
        """The sliced weight of a `conv` or `linear` layer as the product sees it."""
        return weight

    def activate(self, layer: Layer, y: Tensor) -> Tensor:
        """The layer's activation and whatever happens to its result."""
        return ACTIVATIONS[layer.act](y)


FLOAT = Numerics()


@dataclass
class Statistics:
    """Mean and variance of every batch norm of one subnet, by layer name: float32 (cout,) each.

    `momentum` None: a pass uses them. Otherwise a pass normalises by its batch and moves them towards the batch's by
    that share (1 / k in the k-th batch gives the average).
    """

    values: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    momentum: float | None = None


class ElasticLayer(nn.Module):
    """The shared parameters of one `conv` or `linear` layer, in the largest shape that occurs."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.norm = layer.op == "conv" and layer.norm
        depthwise = layer.groups > 1
        shape: tuple[int, ...] = (layer.cout, 1 if depthwise else layer.cin)
        if layer.op == "conv":
            shape += (layer.kernel, layer.kernel)
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear" if layer.op == "linear" else "relu")
        if layer.name.endswith("shortcut"):
            # Where neighbouring widths differ a projection stands in for the identity: it has to start as one, or the
            # blocks behind it see other features in every subnet and only the uniform subnets learn.
            with torch.no_grad():
                self.weight.mul_(0.1)
                self.weight.diagonal().add_(1.0)
        self.bias = nn.Parameter(torch.zeros(layer.cout))
        if self.norm:
            self.gain = nn.Parameter(torch.ones(layer.cout))

    def slice(self, layer: Layer) -> Tensor:
        """The weight of this layer: (cout, cin / groups, kernel, kernel) or (classes, cin)."""
        weight = self.weight[: layer.cout, : layer.cin // layer.groups]
        if layer.op == "conv":
            edge = (weight.shape[2] - layer.kernel) // 2
            weight = weight[:, :, edge : edge + layer.kernel, edge : edge + layer.kernel]
        return weight

    def forward(self, layer: Layer, x: Tensor, numerics: Numerics, statistics: Statistics | None) -> Tensor:
        """The product, with batch norm or bias, before the activation."""
        weight = numerics.weight(layer, self.slice(layer))
        bias = self.bias[: layer.cout]
        if layer.op == "linear":
            return F.linear(x.flatten(1), weight, bias)
        shift = None if self.norm else bias
        y = F.conv2d(x, weight, shift, layer.stride, layer.kernel // 2, groups=layer.groups)
        if not self.norm:
            return y
        gain = self.gain[: layer.cout]
        if statistics is None:
            return F.batch_norm(y, None, None, gain, bias, training=True, eps=NORM_EPSILON)
        momentum = statistics.momentum
        if momentum is not None and layer.name not in statistics.values:
            statistics.values[layer.name] = (y.new_zeros(layer.cout), y.new_ones(layer.cout))
        mean, variance = statistics.values[layer.name]
        return F.batch_norm(y, mean, variance, gain, bias, momentum is not None, momentum or 0.0, eps=NORM_EPSILON)


class ElasticLayers(nn.Module):
    """Shared parameters by layer name, and the interpreter that runs a layer list on them."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        super().__init__()
        self.layers = dict(layers)
        self.parts = nn.ModuleDict(
            {module_key(name): ElasticLayer(each) for name, each in layers.items() if each.op in ("conv", "linear")}
        )

    def part(self, name: str) -> ElasticLayer:
        """The parameters of a layer."""
        part = self.parts[module_key(name)]
        assert isinstance(part, ElasticLayer)
        return part

    def forward(
        self,
        network: Network,
        x: Tensor,
        numerics: Numerics = FLOAT,
        statistics: Statistics | None = None,
        drop: Callable[[Tensor], Tensor] = _identity,
    ) -> Tensor:
        """Output of the network's last layer for x of (batch, channels, resolution, resolution).

        `statistics` None: batch norm uses the statistics of the batch. `drop` is applied to the classifier's input.
        """
        x = x.contiguous(memory_format=torch.channels_last)  # two to four times faster than NCHW on CPUs
        values = {INPUT: numerics.picture(x)}
        uses = Counter(name for layer in network.layers for name in layer.inputs)
        y = x
        for layer in network.layers:
            inputs = [values[name] for name in layer.inputs]
            for name in layer.inputs:
                uses[name] -= 1
                if not uses[name]:
                    del values[name]  # what nobody needs any more is freed, which matters without gradients
            y = self._run(layer, inputs, numerics, statistics, drop)
            values[layer.name] = y
        return y

    def _run(
        self,
        layer: Layer,
        inputs: Sequence[Tensor],
        numerics: Numerics,
        statistics: Statistics | None,
        drop: Callable[[Tensor], Tensor],
    ) -> Tensor:
        match layer.op:
            case "conv":
                y = self.part(layer.name)(layer, inputs[0], numerics, statistics)
            case "linear":
                y = self.part(layer.name)(layer, drop(inputs[0]), numerics, statistics)
            case "add":
                y = inputs[0] + inputs[1]
            case "scale":
                y = inputs[0] * inputs[1]
            case "pool":
                y = inputs[0].mean((2, 3), keepdim=True)
        return numerics.activate(layer, y)


class ElasticNetwork(ElasticLayers):
    """All subnets of a space at once: `forward(subnet.network(classes), x)` gives logits (batch, classes)."""

    def __init__(self, space: Space, classes: int) -> None:
        super().__init__(space_layers(space, classes))
        self.space = space
        self.classes = classes


class StandaloneNetwork(nn.Module):
    """One subnet with parameters and statistics of its own; equal, bit for bit, to the slice it came from."""

    def __init__(self, network: Network, source: ElasticLayers, statistics: Statistics) -> None:
        super().__init__()
        self.network = network
        self.body = ElasticLayers({layer.name: layer for layer in network.layers})
        self._norms: list[str] = []
        with torch.no_grad():
            for layer in network.layers:
                if layer.op not in ("conv", "linear"):
                    continue
                mine, shared = self.body.part(layer.name), source.part(layer.name)
                mine.weight.copy_(shared.slice(layer))
                mine.bias.copy_(shared.bias[: layer.cout])
                if mine.norm:
                    mine.gain.copy_(shared.gain[: layer.cout])
                    mean, variance = statistics.values[layer.name]
                    self.register_buffer(f"mean:{module_key(layer.name)}", mean.clone())
                    self.register_buffer(f"variance:{module_key(layer.name)}", variance.clone())
                    self._norms.append(layer.name)

    def forward(self, x: Tensor, numerics: Numerics = FLOAT) -> Tensor:
        """Logits (batch, classes) for x of (batch, channels, resolution, resolution)."""
        keys = ((name, module_key(name)) for name in self._norms)
        values = {name: (self.get_buffer(f"mean:{key}"), self.get_buffer(f"variance:{key}")) for name, key in keys}
        output: Tensor = self.body(self.network, x, numerics, Statistics(values))
        return output


def extract(source: ElasticLayers, network: Network, statistics: Statistics) -> StandaloneNetwork:
    """A stand-alone copy of one subnet; `statistics` are those measured for it."""
    return StandaloneNetwork(network, source, statistics)


@dataclass(frozen=True)
class StageFragment:
    """One elastic stage between two 1 x 1 projections, for block-wise distillation.

    `channels_in` and `channels_out` are the teacher's, `width_in` is the width that enters the first block;
    `widths` (ascending) and `depths` are what the stage's blocks may choose from.
    """

    block: BlockType
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stride: int
    channels_in: int
    width_in: int
    channels_out: int

    def network(self, choices: Sequence[BlockChoice], hw: int) -> Network:
        """Layers for a stage input of (channels_in, hw, hw)."""
        b = NetworkBuilder(hw, self.channels_in)
        x = b.conv("in", INPUT, self.width_in)
        for i, choice in enumerate(choices):
            x = self.block.emit(b, f"{i}", x, choice, self.stride if i == 0 else 1)
        b.conv("out", x, self.channels_out)
        return b.build()

    def extreme(self, *, largest: bool) -> tuple[BlockChoice, ...]:
        """Every choice at its maximum, or at its minimum."""
        pick = max if largest else min
        block = self.block
        return (BlockChoice(pick(self.widths), pick(block.kernels), pick(block.expands)),) * pick(self.depths)

    def layers(self) -> dict[str, Layer]:
        """Largest shapes by layer name."""
        largest = self.network(self.extreme(largest=True), 16).layers
        blocks = _stage_layers(self.block, "", (self.width_in,), self.widths, max(self.depths), self.stride)
        return largest_layers((*largest, *blocks))


def module_key(name: str) -> str:
    """A layer's name as torch accepts it for a module: without dots."""
    return name.replace(".", "/")


def space_layers(space: Space, classes: int) -> dict[str, Layer]:
    """Largest shape of every layer name that occurs in any subnet of a space."""
    layers = list(extreme_subnet(space, largest=True).network(classes).layers)
    stages = range(len(space.hyperspace.stages))
    widths = (space.hyperspace.stem_widths, *(space.stage_widths(s) for s in stages))
    for s, (widths_in, widths_out) in enumerate(pairwise(widths)):
        stage = space.hyperspace.stages[s]
        layers += _stage_layers(space.stage_type(s), f"s{s}.", widths_in, widths_out, max(stage.depths), stage.stride)
    return largest_layers(layers)


def _stage_layers(
    block: BlockType, prefix: str, widths_in: Sequence[int], widths: Sequence[int], depth: int, stride: int
) -> Iterator[Layer]:
    """Layers of a stage's blocks under every width, kernel and expansion, each block on its own.

    Some layers, such as the projection of a shortcut, occur only under some choices: emitting all of them finds every
    name and its largest shape without knowing what a block type does.
    """
    for i in range(depth):
        entering = widths_in if i == 0 else widths
        for cin, width, kernel, expand in product(entering, widths, block.kernels, block.expands):
            b = NetworkBuilder(16, cin)
            choice = BlockChoice(width, kernel, expand)
            block.emit(b, f"{prefix}{i}", INPUT, choice, stride if i == 0 else 1)
            yield from b.layers


def largest_layers(layers: Iterable[Layer]) -> dict[str, Layer]:
    """Layers by name, each with the largest channel counts and kernel among those of its name."""
    largest: dict[str, Layer] = {}
    for layer in layers:
        known = largest.setdefault(layer.name, layer)
        cin, cout = max(known.cin, layer.cin), max(known.cout, layer.cout)
        depthwise = max(known.groups, layer.groups) > 1
        largest[layer.name] = replace(
            known, cin=cin, cout=cout, kernel=max(known.kernel, layer.kernel), groups=cin if depthwise else 1
        )
    return largest
