"""Layers that a runtime runs as one: a group is what can be asked for its kernels apart from the network around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from .layers import Layer, Op

LayerGroup = tuple[Layer, ...]
"""Layers in order, named `0`, `1`, ...; what comes from outside is named `x0`, `x1`, ...: equal for groups that do the
same work."""


def layer_groups(layers: Sequence[Layer], joined: Collection[Op]) -> list[LayerGroup]:
    """The groups of a network or block, in the order of their last layers.

    Layers whose operation is in `joined` take in the convolutions and gated products that feed nothing else: a runtime
    may fuse a sum with one of them, or choose the layout of a pair.
    """
    made = {layer.name: layer for layer in layers}
    uses = Counter(name for layer in layers for name in layer.inputs)
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        group = [layer]
        if layer.op in joined:
            group = [made[name] for name in layer.inputs if uses[name] == 1 and _is_absorbed(made.get(name))] + group
        for member in group:
            groups.pop(member.name, None)
        groups[layer.name] = group
    return [_canonical(group) for group in groups.values()]


def _is_absorbed(layer: Layer | None) -> bool:
    return layer is not None and layer.op in ("conv", "scale")


def _canonical(group: Sequence[Layer]) -> LayerGroup:
    names = {layer.name: str(i) for i, layer in enumerate(group)}
    for layer in group:
        for name in layer.inputs:
            names.setdefault(name, f"x{len(names) - len(group)}")
    return tuple(
        replace(layer, name=names[layer.name], inputs=tuple(names[name] for name in layer.inputs)) for layer in group
    )
