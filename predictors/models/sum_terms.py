"""What a kernel's time may be made of where only whole networks were timed: amounts in three levels of columns.

Every kernel has terms that all kernels share (a dispatch, elements that it reads and writes), terms that its group
shares (convolutions, depthwise ones, poolings, moves) and the same terms once more for its own path. Sums of a few
hundred networks cannot tell all of these apart; penalties on the finer levels (see `sum_model`) leave to the coarser
ones what does not need to be told apart, and let a path that no network had take the costs of its group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ...kernels.costs import is_view, macs
from ...kernels.kernel import Kernel
from .physics import FIRST_CHANNELS, activations, product_shape


class Column(NamedTuple):
    """A coefficient to be learned: level 0 is shared by all kernels, 1 by a group, 2 belongs to one path."""

    level: int
    owner: str
    term: str

    @property
    def is_product(self) -> bool:
        """Whether its owner is one that most of the time goes to, so that the data can tell its paths apart."""
        return self.owner in _PRODUCTS or self.owner.startswith(_PRODUCT_PATHS)


UNITS = {
    "calls": "calls",
    "macs": "work",
    "padded": "work",
    "middle": "middle",
    "columns": "columns",
    "rows": "rows",
    "weights": "weights",
    "elements": "elements",
    "inputs": "elements",
    "outputs": "elements",
    "window": "elements",
    "profiled": "profiled",
}
"""Terms of one unit can be compared: a coefficient is penalised by what the unit costs in the network as a whole."""

_PRODUCTS = frozenset({"convolution", "first", "depthwise", "grouped"})
_PRODUCT_PATHS = ("depthwise", "3x3", "1x1", "large")
"""How `_window` and `_product` begin the names of their paths."""

_DEAR = {"TRANSPOSE": 3.0, "HARD_SWISH": 1.5}
"""Traffic of an operator in that of a plain copy, where the data do not tell."""
_ELEMENTWISE = frozenset({"ADD", "SUB", "MUL", "DIV", "RELU", "RELU6", "HARD_SWISH", "LOGISTIC", "TANH", "GELU", "ELU"})
_POOLINGS = frozenset({"MAX_POOL_2D", "AVERAGE_POOL_2D"})


@dataclass(frozen=True)
class KernelTerms:
    """Amounts of one kernel: `shared` by all kernels, and `own`, which count for its group and for its path."""

    group: str
    path: str
    shared: dict[str, float]
    own: dict[str, float]

    def columns(self) -> dict[Column, float]:
        """The amounts by column."""
        found = {Column(0, "*", term): amount for term, amount in self.shared.items()}
        found |= {Column(1, self.group, term): amount for term, amount in self.own.items()}
        if self.path != self.group:
            found |= {Column(2, self.path, term): amount for term, amount in self.own.items()}
        return {column: amount for column, amount in found.items() if amount}


def kernel_terms(kernel: Kernel) -> KernelTerms | None:
    """The terms of a kernel, in elements and multiply-accumulates; None for a view, which costs nothing."""
    if is_view(kernel):
        return None
    sources = activations(kernel)
    read, written = sum(spec.size for spec in sources), sum(spec.size for spec in kernel.outputs if spec is not None)
    shared = {"calls": 1.0, "elements": float(read + written)}
    if macs(kernel):
        return _product(kernel, sources[0].size if sources else 0, written, shared)
    if kernel.op_type in _POOLINGS:
        own = {"calls": 1.0, "elements": float(read + written), "window": float(written * math.prod(kernel.window))}
        return KernelTerms("pooling", kernel.op_type, shared, own)
    if kernel.op_type == "MEAN":
        # No dispatch of its own: most networks have exactly one, which would take up what every network costs.
        return KernelTerms(
            "pooling", "MEAN", shared, {"calls": 1.0, "elements": float(read + written), "window": float(read)}
        )
    traffic = _DEAR.get(kernel.op_type, 1.0) * (read + written)
    path = "elementwise" if kernel.op_type in _ELEMENTWISE else kernel.op_type
    own = {"calls": 1.0, "elements": traffic, "outputs": float(written)}
    return KernelTerms("move", path, {"calls": 1.0, "elements": traffic}, own)


def _product(kernel: Kernel, read: int, written: int, shared: dict[str, float]) -> KernelTerms:
    m, n, k = product_shape(kernel)
    work = float(macs(kernel))
    weights = float(sum(spec.size for spec in kernel.inputs if spec is not None and spec.constant))
    if kernel.is_depthwise:
        own = {
            "calls": 1.0,
            "macs": work,
            "padded": float(m * k * _up(n, 32)),
            "rows": float(m),
            "inputs": float(read),
            "outputs": float(written),
        }
        return KernelTerms("depthwise", f"depthwise {_window(kernel)}", shared, own)
    if m == 1:
        return KernelTerms("row", "row", {"calls": 1.0}, {"weights": weights})
    per_group = n // kernel.groups
    own = {
        "calls": 1.0,
        "macs": work,
        "padded": float(m * kernel.groups * _up(per_group, 8) * _up(k, 4)),
        "middle": work / math.sqrt(per_group * k),
        "columns": float(m * k * kernel.groups),
        "rows": float(m * kernel.groups),
        "weights": weights,
        "inputs": float(read),
        "outputs": float(written),
    }
    if kernel.groups > 1:
        return KernelTerms("grouped", "grouped", shared, own)
    if kernel.filter is not None and kernel.filter.shape[1] <= FIRST_CHANNELS:
        del own["calls"]  # every network has exactly one: it would take up whatever a network costs beside its kernels
        return KernelTerms("first", "first", shared, own)
    return KernelTerms("convolution", _window(kernel), shared, own)


def _window(kernel: Kernel) -> str:
    """Convolutions of one window size are a path; of dense ones the rare sizes share theirs."""
    size, stride = "x".join(map(str, kernel.window)) or "1x1", max(kernel.ints("strides"), default=1)
    if size == "1x1" and not kernel.is_depthwise:
        return size
    if not kernel.is_depthwise and size != "3x3":
        return "large"
    return f"{size}/{stride}" if stride > 1 else size


def _up(value: int, step: int) -> int:
    return math.ceil(value / step) * step
