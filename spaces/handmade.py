"""Hand-made spaces: the block plans of known architectures, to set evolved spaces against."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InvalidInput, NotFound
from .hyperspace import Hyperspace

PLANS: Mapping[str, tuple[str, str]] = {
    "mobilenetv2": ("mbv2", "mbv2"),
    "mobilenetv3": ("mbv2", "mbv3"),
    "resnet": ("resnet", "resnet"),
    "fused": ("fused", "mbv2"),
}
"""Block types of the first and of the second half of the searched stages, by the name of the plan."""


def planned_blocks(hyperspace: Hyperspace, plan: str) -> tuple[int, ...]:
    """Block digits of a plan: one for every searched stage; raises NotFound or InvalidInput.

    A hyperspace that has another variant of a type alone, such as a fused block with squeeze-and-excite, uses that.
    """
    if plan not in PLANS:
        raise NotFound(f"There is no hand-made space named '{plan}'.", f"Known ones: {', '.join(PLANS)}.")
    first, second = (_digit(hyperspace, kind, plan) for kind in PLANS[plan])
    stages = len(hyperspace.searched)
    return (first,) * (stages // 2) + (second,) * (stages - stages // 2)


def _digit(hyperspace: Hyperspace, kind: str, plan: str) -> int:
    names = [block.name for block in hyperspace.blocks]
    for name in (kind, *(name for name in names if name.startswith(f"{kind}_"))):
        if name in names:
            return names.index(name)
    raise InvalidInput(f"'{hyperspace.name}:{plan}' needs a block of type {kind}, which '{hyperspace.name}' lacks.")
