"""Kernels of networks and of layers: the device optimises, `kernels` reads what it made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..devices.local import LocalDevice
from ..kernels.kernel import Kernel
from ..kernels.onnx_reader import KernelUse, instrument, split
from ..spaces.layers import Layer, is_stem
from ..spaces.onnx_network import Precision, layers_model

_GRAPH_INPUT = re.compile(r"in:(\d+)(?::\d+)?")
"""Names that `layers_model` gives to the inputs of layers."""


def split_network(device: LocalDevice, model: bytes) -> list[KernelUse]:
    """Every node that the runtime executes for a model file."""
    optimised = device.optimise(model)
    return split(optimised, device.tensor_shapes(instrument(optimised)))


def split_layers(
    device: LocalDevice, layers: Sequence[Layer], precision: Precision, weight_bits: int
) -> list[tuple[Kernel, ...]]:
    """Kernels that the runtime executes for each layer inside a network."""
    uses = split_network(device, layers_model(layers, precision, weight_bits))
    return _attribute(uses, layers)


def _attribute(uses: Sequence[KernelUse], layers: Sequence[Layer]) -> list[tuple[Kernel, ...]]:
    """Nodes strictly between the neighbours of each layer, by following the tensors.

    The runtime renames, adds and drops nodes, so only structure is trusted: on the way from a graph input `in:i:j`
    the first convolution is the neighbour before layer i, and the last convolution of the chain is the one after
    it. What the runtime fuses across two layers (in fp32 a residual sum into a convolution) counts as the
    neighbour's.
    """
    owner: dict[str, int] = {}  # constants have none: the runtime shares equal ones between layers
    chains: list[list[KernelUse]] = [[] for _ in layers]
    for use in uses:
        owners = {owner[name] for name in use.inputs if name in owner}
        owners |= {int(found[1]) for name in use.inputs if (found := _GRAPH_INPUT.fullmatch(name))}
        if len(owners) != 1:
            raise AssertionError(f"{use.name} joins the layers {sorted(owners)}")
        (i,) = owners
        owner.update(dict.fromkeys(use.outputs, i))
        chains[i].append(use)
    return [tuple(_inside(chain, layer)) for chain, layer in zip(chains, layers, strict=True)]


def _inside(chain: Sequence[KernelUse], layer: Layer) -> Iterable[Kernel]:
    convolutions = [use for use in chain if use.kernel.filter is not None]
    after = convolutions[-1] if layer.op != "linear" else None
    behind_first: set[str] = set()
    behind_last: set[str] = set()
    for use in chain:
        if use is after or not behind_last.isdisjoint(use.inputs):
            behind_last.update(use.outputs)
            continue
        inside = is_stem(layer) or not behind_first.isdisjoint(use.inputs)
        if inside or use.kernel.filter is not None:
            behind_first.update(use.outputs)
        if inside:
            yield use.kernel
