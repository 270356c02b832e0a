"""Kernels of networks and of layers: the device optimises, `kernels` reads what it made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...devices.measuring_device import MeasuringDevice
from ...devices.runtimes.runtime import ZEROS
from ...errors import MeasurementError
from ...kernels.kernel import Kernel, KernelUse
from ...kernels.onnx.hollow import hollow, without_weights
from ...kernels.onnx.reader import instrument, split
from ...kernels.tflite.file import is_tflite
from ...kernels.tflite.reader import split_tflite
from ...spaces.groups import LayerGroup
from ...spaces.layers import Op, is_stem
from ...spaces.onnx_network import layers_model
from ...spaces.tflite_network import layer_operators
from ..targets import DeviceTarget

_GRAPH_INPUT = re.compile(r"in:(\d+):\d+")
"""Names that `layers_model` gives to the inputs of groups."""


def joined_operations(target: DeviceTarget) -> tuple[Op, ...]:
    """Operations whose layers are split together with what feeds them: for `spaces.groups.layer_groups`.

    ONNX Runtime chooses the layout of a convolution before the classifier, and fuses an fp32 sum into a convolution.
    The operators of a TFLite file are what is executed.
    """
    if target.format == "tflite":
        return ()
    return ("linear",) if target.precision == "int8" else ("add", "linear")


def split_network(device: MeasuringDevice, model: bytes) -> list[KernelUse]:
    """Every node that the runtime executes for a model file."""
    if is_tflite(model):
        return split_tflite(model)
    if (uses := split_hollow(device, hollow(model, ZEROS))) is not None:
        return uses
    return split_whole(device, model)


def split_whole(device: MeasuringDevice, model: bytes) -> list[KernelUse]:
    """The same for an ONNX model whose weights decide what is executed."""
    optimised = device.optimise(model)
    return split(optimised, device.tensor_shapes(instrument(optimised)))


def split_hollow(device: MeasuringDevice, model: bytes) -> list[KernelUse] | None:
    """The same for a hollow ONNX model (`kernels.onnx_hollow`); None where only the whole file tells."""
    try:
        optimised = device.optimise(model, hollow=True)
        shapes = device.tensor_shapes(instrument(without_weights(optimised)), run=False)
    except MeasurementError:
        return None
    return split(optimised, shapes) if shapes else None


def split_groups(
    device: MeasuringDevice, groups: Sequence[LayerGroup], target: DeviceTarget
) -> list[tuple[Kernel, ...]]:
    """Kernels that the runtime executes for each group of layers inside a network."""
    if target.format == "tflite":
        return layer_operators([layer for (layer,) in groups], target.precision)
    model = layers_model(groups, target.precision, target.weight_bits)
    return _attribute(split_network(device, model), groups)


def _attribute(uses: Sequence[KernelUse], groups: Sequence[LayerGroup]) -> list[tuple[Kernel, ...]]:
    """Nodes strictly between the neighbours of each group, by following the tensors.

    The runtime renames, adds and drops nodes, so only structure is trusted: on the way from a graph input `in:i:j`
    the first convolution is a neighbour before group i, and a convolution with none behind it is one after it.
    """
    owner: dict[str, int] = {}  # constants have none: the runtime shares equal ones between groups
    chains: list[list[KernelUse]] = [[] for _ in groups]
    for use in uses:
        owners = {owner[name] for name in use.inputs if name in owner}
        owners |= {int(found[1]) for name in use.inputs if (found := _GRAPH_INPUT.fullmatch(name))}
        if len(owners) != 1:
            raise AssertionError(f"{use.name} joins the groups {sorted(owners)}")
        (i,) = owners
        owner.update(dict.fromkeys(use.outputs, i))
        chains[i].append(use)
    return [tuple(_inside(chain, group)) for chain, group in zip(chains, groups, strict=True)]


def _inside(chain: Sequence[KernelUse], group: LayerGroup) -> Iterable[Kernel]:
    before_last: set[str] = set()  # tensors that reach a convolution
    after = set()
    for use in reversed(chain):
        reaches = not before_last.isdisjoint(use.outputs)
        is_convolution = use.kernel.filter is not None
        if is_convolution and not reaches and group[-1].op != "linear":
            after.add(use.outputs[0])
        if is_convolution or reaches:
            before_last.update(use.inputs)
    behind_first: set[str] = set()
    behind_last: set[str] = set()
    for use in chain:
        if use.outputs[0] in after or not behind_last.isdisjoint(use.inputs):
            behind_last.update(use.outputs)
            continue
        inside = is_stem(group[0]) or not behind_first.isdisjoint(use.inputs)
        if inside or use.kernel.filter is not None:
            behind_first.update(use.outputs)
        if inside:
            yield use.kernel
