"""What a runtime executes of a list of operators: published fusion behaviour, for devices that cannot be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from ..kernel import Kernel, KernelUse

Fusion = Literal["operators", "linked", "inplace"]
"""`operators`: batch normalisations and activations become part of what they follow, as in TFLite files on CPUs.
`linked`: elementwise operators are computed inside the kernel before them, too, as by TFLite's GPU delegate.
`inplace`: as `operators`, but a lone batch normalisation is one kernel, a hard swish three, and what joins or cuts
tensors moves nothing, as its neighbours write and read in place: OpenVINO's plug-in for Myriad VPUs."""
FUSIONS: tuple[Fusion, ...] = ("operators", "linked", "inplace")

_SIGNS: dict[Fusion, tuple[str, ...]] = {
    "inplace": ("openvino", "myriad", "vpu"),
    "linked": ("gpu", "adreno", "mali", "opencl"),
}


def usual_fusion(*names: str) -> Fusion:
    """How runtimes with such a name fuse, as far as a device or a column of a table names its runtime."""
    text = " ".join(names).lower()
    return next((fusion for fusion, signs in _SIGNS.items() if any(sign in text for sign in signs)), "operators")


_PRODUCTS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"})
_ACTIVATIONS = {"RELU": "Relu", "RELU6": "Relu6"}
_ACTIVATED = _PRODUCTS | {"ADD", "MUL"}
_JOINTS = frozenset({"CONCATENATION", "SPLIT"})
_LINKED = frozenset({"ADD", "MUL", "SUB", "DIV", "RELU", "RELU6", "HARD_SWISH", "LOGISTIC", "TANH", "ELU", "PRELU"})


def fused(uses: Sequence[KernelUse], fusion: Fusion) -> list[Kernel]:
    """The kernels that run, in order; nothing is left out, what is fused into another kernel costs nothing of its own.

    The hard swish of x * relu6(x + 3) / 6 is one HARD_SWISH.
    """
    graph = _Graph(uses)
    if fusion != "inplace":
        graph.join_hard_swish()
    graph.fold_normalisations()
    if fusion == "inplace":
        graph.join_normalisations()
        graph.drop_joints()
    graph.fuse_activations()
    if fusion == "linked":
        graph.link()
    return [use.kernel for use in graph.uses if use is not None]


class _Graph:
    def __init__(self, uses: Sequence[KernelUse]) -> None:
        self.uses: list[KernelUse | None] = list(uses)
        self._makers = {name: i for i, use in enumerate(uses) for name in use.outputs}
        self._readers: dict[str, list[int]] = {}
        for i, use in enumerate(uses):
            for name in use.inputs:
                self._readers.setdefault(name, []).append(i)

    def join_hard_swish(self) -> None:
        """x + 3 -> relu6 -> * x -> / 6 as TFLite's converter joins them, whichever side x is on."""
        for first, use in enumerate(list(self.uses)):
            if use is None or use.kernel.op_type != "ADD" or not _by_constant(use.kernel):
                continue
            clipped = self._next(first, "RELU6")
            product = self._next(clipped, "MUL")
            scaled = self._next(product, "MUL")
            if clipped is None or product is None or scaled is None or use.inputs[0] not in self._of(product).inputs:
                continue
            if not _by_constant(self._of(scaled).kernel):
                continue
            kernel = Kernel(
                use.kernel.domain, "HARD_SWISH", (), use.kernel.inputs[:1], self._of(scaled).kernel.outputs, 1
            )
            for gone in (first, clipped, product):
                self.uses[gone] = None
            readers = self._readers[use.inputs[0]]
            readers[:] = [scaled, *(reader for reader in readers if reader not in (first, product))]
            self._replace(scaled, KernelUse(kernel, self._of(scaled).name, use.inputs[:1], self._of(scaled).outputs))

    def fold_normalisations(self) -> None:
        """Products and sums by a constant after a convolution are part of its weights."""
        for i, use in enumerate(self.uses):
            if use is not None and use.kernel.op_type in _PRODUCTS:
                while (j := self._next(i, "MUL", "ADD")) is not None and _by_constant(self._of(j).kernel):
                    self._absorb(i, j)

    def join_normalisations(self) -> None:
        """A product by a vector and the sum with another one are a single pass."""
        for i, use in enumerate(self.uses):
            if use is None or use.kernel.op_type != "MUL" or not _by_constant(use.kernel):
                continue
            if (j := self._next(i, "ADD")) is not None and _by_vector(self._of(j).kernel):
                self._absorb(i, j)

    def drop_joints(self) -> None:
        """CONCATENATION and SPLIT go; what they join stays connected by names alone."""
        for i, use in enumerate(self.uses):
            if use is not None and use.kernel.op_type in _JOINTS:
                self.uses[i] = None

    def fuse_activations(self) -> None:
        """A ReLU after a convolution, a sum or a product is computed in it."""
        for i, use in enumerate(self.uses):
            if use is None or use.kernel.op_type not in _ACTIVATED:
                continue
            if (j := self._next(i, *_ACTIVATIONS)) is not None:
                name = _ACTIVATIONS[self._of(j).kernel.op_type]
                self._absorb(i, j, activation=name)

    def link(self) -> None:
        """Elementwise operators become part of the kernel that makes their last input, if nothing else reads that."""
        for i, use in enumerate(self.uses):
            if use is None or use.kernel.op_type not in _LINKED:
                continue
            makers = [self._makers[name] for name in use.inputs if name in self._makers]
            if makers and self._next(max(makers)) == i:
                self._absorb(max(makers), i)

    def _absorb(self, keeper: int, gone: int, activation: str | None = None) -> None:
        kept, last = self._of(keeper), self._of(gone)
        attributes = dict(kept.kernel.attributes)
        if activation is not None:
            attributes["activation"] = activation
        kernel = replace(kept.kernel, attributes=tuple(sorted(attributes.items())), outputs=last.kernel.outputs)
        extra = tuple(name for name in last.inputs if name not in kept.outputs)
        self.uses[gone] = None
        for name in extra:
            self._readers[name] = [keeper if reader == gone else reader for reader in self._readers[name]]
        self._replace(keeper, KernelUse(kernel, kept.name, (*kept.inputs, *extra), last.outputs))

    def _replace(self, position: int, use: KernelUse) -> None:
        self.uses[position] = use
        self._makers.update(dict.fromkeys(use.outputs, position))

    def _next(self, position: int | None, *op_types: str) -> int | None:
        """The only reader of the only output, if its operator is one of these (any if none are given)."""
        use = self.uses[position] if position is not None else None
        if use is None or len(use.outputs) != 1:
            return None
        readers = self._readers.get(use.outputs[0], [])
        found = self.uses[readers[0]] if len(readers) == 1 else None
        return readers[0] if found is not None and (not op_types or found.kernel.op_type in op_types) else None

    def _of(self, position: int) -> KernelUse:
        use = self.uses[position]
        assert use is not None
        return use


def _by_constant(kernel: Kernel) -> bool:
    """Whether one activation meets constants: a batch normalisation, or a number."""
    return len(kernel.inputs) == 2 and [spec is not None and spec.constant for spec in kernel.inputs] == [False, True]


def _by_vector(kernel: Kernel) -> bool:
    """Whether the constant has an element for each channel."""
    constant = kernel.inputs[1] if _by_constant(kernel) else None
    return constant is not None and len(constant.shape) == 1
