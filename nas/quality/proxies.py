"""Training-free proxies: numbers that shall tell how good a network would be, from its untrained weights or its sizes.

None of them is to be trusted before its rank correlation with measured networks of the same task is known
(`proxy_trust`): plain sizes, `params` and `macs`, often do better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InvalidInput
from ...spaces.counting import count
from ...spaces.elastic import ElasticLayers, Numerics, Statistics
from ...spaces.layers import Layer, Network
from ...spaces.space import Subnet
from ..pictures.data import Batches, Pictures, resize

BATCHES, BATCH = 2, 32
LAST_STAGE_WEIGHT = 8.0
RESNET_DEPTH, MBCONV_DEPTH = 0.3, 0.5
"""Blocks over the geometric mean of their widths up to which DeepMAD holds a network for trainable."""


@dataclass(frozen=True)
class ProxyTask:
    """What untrained networks are shown: training batches ((pictures, 3, size, size), labels) and the classes."""

    batches: tuple[tuple[Tensor, Tensor], ...]
    classes: int
    seed: int = 0

    @classmethod
    def of(cls, pictures: Pictures, seed: int = 0, batch: int = BATCH) -> ProxyTask:
        """A task on the first training batches."""
        batches = Batches(pictures, batch, seed)
        return cls(tuple(batches.at(step) for step in range(BATCHES)), len(pictures.classes), seed)


Proxy = Callable[[Subnet, ProxyTask], float]


def deepmad(subnet: Subnet, task: ProxyTask) -> float:
    """DeepMAD (CVPR 2023): entropy of the features of every stage, less for stages of unequal depth.

    Sum over stages w (ln C + ln r^2) H, with C channels of r x r pixels behind the stage, w 1 and 8 for the last stage,
    H the sum over the convolutions of the main path up to there of ln(fan-in) / 2, minus 10 exp(standard deviation of
    the depths). Networks too deep for their width to be trained are worth -inf.
    """
    depths = [len(blocks) for blocks in subnet.stages]
    widths = [block.width for blocks in subnet.stages for block in blocks]
    searched = range(1, len(subnet.stages))
    resnet = all(subnet.space.stage_type(s).name.startswith("resnet") for s in searched)
    if sum(depths) / math.exp(np.log(widths).mean()) > (RESNET_DEPTH if resnet else MBCONV_DEPTH):
        return -math.inf
    layers = subnet.network(task.classes).layers
    total, entropy = 0.0, 0.0
    for s in range(len(subnet.stages)):
        own = [layer for layer in layers if layer.name.startswith(f"s{s}.")]
        path = [layer for layer in own if layer.op == "conv" and layer.in_hw > 1 and ".shortcut" not in layer.name]
        entropy += sum(math.log(layer.cin / layer.groups * layer.kernel**2) / 2 for layer in path)
        weight = LAST_STAGE_WEIGHT if s == len(subnet.stages) - 1 else 1.0
        total += weight * (math.log(own[-1].cout) + 2 * math.log(own[-1].out_hw)) * entropy
    return total - 10 * math.exp(float(np.std(depths)))


def zico(subnet: Subnet, task: ProxyTask) -> float:
    """ZiCo (ICLR 2023): sum over layers of ln of the sum over weights of mean |g| / std(g) over batches."""
    network, layers = _untrained(subnet, task)
    gradients: list[list[Tensor]] = []
    for x, labels in task.batches:
        layers.zero_grad()
        F.cross_entropy(layers(network, resize(x, subnet.resolution)), labels).backward()
        gradients.append([w.grad.clone() for w in _weights(layers) if w.grad is not None])
    total = 0.0
    for each in zip(*gradients, strict=True):
        stacked = torch.stack(each)
        spread = stacked.std(0, correction=0)
        ratio = stacked.abs().mean(0)[spread > 0] / spread[spread > 0]
        if len(ratio):
            total += math.log(float(ratio.double().sum()))
    return total


@torch.no_grad()
def naswot(subnet: Subnet, task: ProxyTask) -> float:
    """NASWOT (ICML 2021): ln |det(X X' + (1 - X)(1 - X)')| of the signs X before all activations, a row a picture."""
    network, layers = _untrained(subnet, task)
    kernel = _SignKernel()
    layers(network, resize(task.batches[0][0], subnet.resolution), kernel)
    return float(torch.linalg.slogdet(kernel.matrix).logabsdet)


def synflow(subnet: Subnet, task: ProxyTask) -> float:
    """SynFlow (NeurIPS 2020): ln of the sum over weights of |w dR/dw|, for absolute weights and a picture of ones.

    R is the sum of the logits, in float64 and without batch norm. As there everything is positive, activations are the
    identity, also those that saturate; gates are open.
    """
    network, layers = _untrained(subnet, task)
    layers.double()
    with torch.no_grad():
        for weight in _weights(layers):
            weight.abs_()
    ones = torch.ones(1, 3, subnet.resolution, subnet.resolution, dtype=torch.float64)
    idle = Statistics(
        {
            layer.name: (ones.new_zeros(layer.cout), ones.new_ones(layer.cout))
            for layer in network.layers
            if layer.op == "conv" and layer.norm
        }
    )
    layers(network, ones, _Linear(), idle).sum().backward()
    flow = sum(float((w.detach() * w.grad).abs().sum()) for w in _weights(layers) if w.grad is not None)
    return math.log(flow)


def params(subnet: Subnet, _: ProxyTask) -> float:
    """Number of parameters."""
    return float(count(subnet).params)


def macs(subnet: Subnet, _: ProxyTask) -> float:
    """Multiply-accumulates."""
    return float(count(subnet).macs)


PROXIES: Mapping[str, Proxy] = {
    "deepmad": deepmad,
    "zico": zico,
    "naswot": naswot,
    "synflow": synflow,
    "params": params,
    "macs": macs,
}
SIZES = ("params", "macs")
"""Shown beside whatever proxy is asked for."""


def proxies_named(names: Sequence[str]) -> dict[str, Proxy]:
    """Those of these names, all if there are none, and the sizes; raises InvalidInput."""
    for name in names:
        if name not in PROXIES:
            raise InvalidInput(f"There is no proxy '{name}'.", f"Use {', '.join(PROXIES)}.")
    return {name: proxy for name, proxy in PROXIES.items() if not names or name in names or name in SIZES}


class _SignKernel(Numerics):
    """Adds up, over activations, how many of its units any two pictures switch alike."""

    def __init__(self) -> None:
        self.matrix = torch.zeros(())

    def activate(self, layer: Layer, y: Tensor) -> Tensor:
        """The activation, after its signs were noted."""
        if layer.act != "none":
            on = (y > 0).flatten(1).double()
            self.matrix = self.matrix + on @ on.T + (1 - on) @ (1 - on).T
        return super().activate(layer, y)


class _Linear(Numerics):
    """Activations that let everything pass."""

    def activate(self, layer: Layer, y: Tensor) -> Tensor:
        """The identity; 1 for a gate."""
        return torch.ones_like(y) if layer.act == "hsigmoid" else y


def _untrained(subnet: Subnet, task: ProxyTask) -> tuple[Network, ElasticLayers]:
    """A network and freshly drawn weights in its own shapes."""
    network = subnet.network(task.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        return network, ElasticLayers({layer.name: layer for layer in network.layers})


def _weights(layers: ElasticLayers) -> list[Tensor]:
    return [parameter for name, parameter in layers.named_parameters() if name.endswith("weight")]
