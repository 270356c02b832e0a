"""What subnets cost without being run: predicted latency, multiply-accumulates, parameters, file size, memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from ...kernels.skeleton import Format
from ...predictors.lookups.lookup import LatencyLookup
from ...spaces.codes import encode_genes
from ...spaces.counting import count
from ...spaces.layers import INPUT, Network
from ...spaces.space import Space, Subnet, extreme_subnet
from .objectives import TOP1, Constraint, Goal, Metric, MetricKind

REMEMBERED = 4096
CHANNEL_BYTES: Mapping[Format, int] = {"onnx": 17, "tflite": 28}
"""Of an output channel: its bias, and scales and zero points of weight and bias, as wide as the format has them."""
LAYER_BYTES: Mapping[Format, int] = {"onnx": 950, "tflite": 390}
"""Of a layer's nodes, names and activation scales: fitted to files of random subnets, see the tests."""


class SubnetCosts:
    """Costs of the subnets of one space, for networks of `classes` outputs in files of one format."""

    def __init__(
        self, space: Space, lookups: Mapping[str, LatencyLookup], classes: int, file_format: Format = "onnx"
    ) -> None:
        self.space = space
        self.lookups = dict(lookups)

        @lru_cache(maxsize=REMEMBERED)
        def of_network(kind: MetricKind, subnet: Subnet) -> float:
            if kind in ("macs", "params"):
                return float(getattr(count(subnet), kind))
            network = subnet.network(classes)
            return float(file_bytes(network, file_format) if kind == "size" else peak_memory_bytes(network))

        self._of_network = of_network

    def of(self, metric: Metric, subnets: Sequence[Subnet]) -> np.ndarray:
        """Values (subnets,) of a metric other than `top1`, in its own unit."""
        if metric.kind == "latency":
            return self.lookups[metric.target].subnets_ms(self.space, encode_genes(subnets))
        return np.array([self._of_network(metric.kind, subnet) for subnet in subnets])

    def all_of(self, metrics: Iterable[Metric], subnet: Subnet) -> dict[Metric, float]:
        """The values of one subnet, `top1` left out."""
        return {metric: float(self.of(metric, [subnet])[0]) for metric in metrics if metric != TOP1}

    def fitting(self, constraints: Iterable[Constraint], subnets: Sequence[Subnet]) -> np.ndarray:
        """Indices, ascending, of the subnets that meet all constraints, none of them on `top1`."""
        left = np.arange(len(subnets))
        # Latencies are looked up by the thousand; the others need the layers of what is left.
        for constraint in sorted(constraints, key=lambda each: each.metric.kind != "latency"):
            if len(left):
                values = self.of(constraint.metric, [subnets[int(i)] for i in left])
                left = left[[constraint.violation(value) <= 0 for value in values]]
        return left


def reference_values(goal: Goal, costs: SubnetCosts, top1: float = 0.0) -> dict[Metric, float]:
    """The worst values that count towards the hypervolume: of a cost its bound, or else the largest subnet's."""
    largest = costs.all_of(goal.objectives, extreme_subnet(costs.space, largest=True))
    worst = {metric: min(value, goal.upper_bound(metric)) for metric, value in largest.items()}
    return {metric: top1 if metric == TOP1 else worst[metric] for metric in goal.objectives}


def file_bytes(network: Network, file_format: Format) -> int:
    """Bytes of the INT8 file of a network without metadata, to about 1 %."""
    total = 0
    for layer in network.layers:
        if layer.op == "conv":
            total += layer.kernel**2 * layer.cin // layer.groups * layer.cout
        elif layer.op == "linear":
            total += layer.cin * layer.cout
        else:
            continue
        total += CHANNEL_BYTES[file_format] * layer.cout
    return total + LAYER_BYTES[file_format] * len(network.layers)


def peak_memory_bytes(network: Network) -> int:
    """Most bytes that activations take at once, one each: a layer's inputs, its output, and what is needed later.

    That of a runtime that runs layer by layer in the given order, frees what nobody needs any more and works on nothing
    in place; scratch memory of its kernels is not counted.
    """
    size = {INPUT: network.channels * network.resolution**2}
    uses = Counter(name for layer in network.layers for name in layer.inputs)
    alive, peak = size[INPUT], 0
    for layer in network.layers:
        size[layer.name] = layer.cout * layer.out_hw**2
        alive += size[layer.name]
        peak = max(peak, alive)
        for name in layer.inputs:
            uses[name] -= 1
            if not uses[name]:
                alive -= size[name]
    return peak
