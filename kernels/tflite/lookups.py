"""What XNNPACK fuses beyond the operators of a file: 8-bit functions of one tensor become one table lookup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ..kernel import TFLITE_DOMAIN, Kernel, KernelUse, TensorSpec

_EIGHT_BITS = ("int8", "uint8")
_ON_CODES = frozenset(("LOGISTIC", "TANH", "ADD", "SUB", "MUL", "DEQUANTIZE"))
"""Delegated on 8-bit inputs; others, such as HARD_SWISH, run on the built-in kernels there."""

_ON_FLOATS = _ON_CODES | {"QUANTIZE", "HARD_SWISH", "GELU", "ELU", "ABS", "NEG", "EXP", "SQRT", "SQUARE", "RELU"}


def fuse_lookups(uses: Sequence[KernelUse], outputs: Sequence[str]) -> list[KernelUse]:
    """The same nodes, with every chain of elementwise ones that depends on a single 8-bit tensor as one LOGISTIC.

    XNNPACK evaluates such a chain once for all 256 codes (`xnn_subgraph_fuse_unary_quantized_into_lut`) and looks
    the result up; which functions they were does not matter for the time. `outputs` are those of the graph.
    """
    makers = {name: i for i, use in enumerate(uses) for name in use.outputs}
    users = Counter(name for use in uses for name in use.inputs) + Counter(outputs)
    replaced: dict[int, KernelUse] = {}
    gone: set[int] = set()
    for last in reversed(range(len(uses))):
        if last not in gone and (chain := _chain(uses, last, makers, users)):
            replaced[last] = _lookup(uses, last, chain)
            gone |= chain - {last}
    return [replaced.get(i, use) for i, use in enumerate(uses) if i not in gone]


def _chain(uses: Sequence[KernelUse], last: int, makers: dict[str, int], users: Counter[str]) -> set[int]:
    """The largest chain of at least two nodes that ends in `last`; empty if there is none."""
    result = uses[last].kernel.outputs
    if not _is_elementwise(uses[last]) or result[0] is None or result[0].dtype not in _EIGHT_BITS:
        return set()
    members, best = {last}, set[int]()
    while True:
        sources = _sources(uses, members)
        if len(members) > 1 and len(sources) == 1 and _fits(next(iter(sources.values())), result[0]):
            best = set(members)
        inside = Counter(name for i in members for name in uses[i].inputs)
        more = {
            makers[name]
            for name in sources
            if name in makers and inside[name] == users[name] and _is_elementwise(uses[makers[name]])
        }
        if not more:
            return best
        members |= more


def _sources(uses: Sequence[KernelUse], members: set[int]) -> dict[str, TensorSpec]:
    """What the members read that none of them makes, constants left out."""
    made = {name for i in members for name in uses[i].outputs}
    read = (
        (name, spec)
        for i in members
        for name, spec in zip(uses[i].inputs, filter(None, uses[i].kernel.inputs), strict=True)
    )
    return {name: spec for name, spec in read if name not in made and not spec.constant}


def _fits(source: TensorSpec, result: TensorSpec) -> bool:
    return source.dtype in _EIGHT_BITS and source.shape == result.shape


def _is_elementwise(use: KernelUse) -> bool:
    kernel = use.kernel
    specs = [spec for spec in kernel.inputs if spec is not None]
    if not specs or any(spec.constant and spec.size > 1 for spec in specs) or kernel.attribute("far_scales"):
        return False
    on_codes = specs[0].dtype in _EIGHT_BITS
    return kernel.op_type in (_ON_CODES if on_codes else _ON_FLOATS)


def _lookup(uses: Sequence[KernelUse], last: int, chain: set[int]) -> KernelUse:
    ((name, source),) = _sources(uses, chain).items()
    use = uses[last]
    kernel = Kernel(TFLITE_DOMAIN, "LOGISTIC", (), (source,), use.kernel.outputs, opset=1)
    return replace(use, kernel=kernel, inputs=(name,))
