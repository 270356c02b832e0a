"""What a profile found out about its predictor: how right it is on what it never saw, and what to measure again."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...kernels.kernel import Kernel
from .accuracy import accuracy
from .correction import Correction

MAX_REFERENCE_ELEMENTS = 1 << 28
"""Elements of all tensors of one reference kernel: a file from elsewhere must not fill this machine's memory."""


class _Tested:
    """What has been predicted and measured, both in milliseconds and positive."""

    measured_ms: float
    predicted_ms: float

    def __post_init__(self) -> None:
        _check_latencies(self.measured_ms, self.predicted_ms)

    @property
    def error(self) -> float:
        """(predicted - measured) / measured."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True)
class TestedKernel(_Tested):
    """A kernel that was never trained on; both latencies are positive."""

    hash: str
    kind: str
    measured_ms: float
    predicted_ms: float


@dataclass(frozen=True)
class TestedNetwork(_Tested):
    """A whole network, predicted with a correction that was fitted without it; both latencies are positive.

    `spread` is that of its `NetworkSum`, which its interval depends on; None where nobody kept it.
    """

    name: str
    measured_ms: float
    predicted_ms: float
    spread: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spread is not None and not 0 <= self.spread < math.inf:
            raise ValueError("a network has a negative spread")

    def covered(self, correction: Correction) -> bool:
        """Whether the interval around its prediction holds what was measured."""
        below, above = correction.interval if self.spread is None else correction.interval_at(self.spread)
        return self.predicted_ms * (1 - below) <= self.measured_ms <= self.predicted_ms * (1 + above)


@dataclass(frozen=True)
class CurvePoint:
    """Shares of held-out kernels within 5 and 10 % after so many seconds of profiling and kernels trained on."""

    seconds: float
    kernels: int
    within_5: float
    within_10: float

    def __post_init__(self) -> None:
        if not (0 <= self.seconds < math.inf and self.kernels >= 0):
            raise ValueError("a point of the learning curve lies before its start")
        if not (0 <= self.within_5 <= 1 and 0 <= self.within_10 <= 1):
            raise ValueError("an accuracy is not a share")


@dataclass(frozen=True)
class ReferenceKernel:
    """A kernel with the latency that the predictor was fitted on, to be measured again: has the target drifted?"""

    kernel: Kernel
    latency_ms: float

    def __post_init__(self) -> None:
        _check_latencies(self.latency_ms)


@dataclass(frozen=True)
class Report:
    """Held-out kernels, networks left out in turn, accuracy over time, and the reference kernels."""

    kernels: tuple[TestedKernel, ...] = ()
    networks: tuple[TestedNetwork, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    references: tuple[ReferenceKernel, ...] = ()

    def by_kind(self) -> dict[str, tuple[TestedKernel, ...]]:
        """The held-out kernels of each kind, the kind with most milliseconds first."""
        kinds: dict[str, list[TestedKernel]] = defaultdict(list)
        for kernel in self.kernels:
            kinds[kernel.kind].append(kernel)
        ranked = sorted(kinds.items(), key=lambda item: -sum(kernel.measured_ms for kernel in item[1]))
        return {kind: tuple(kernels) for kind, kernels in ranked}

    def figures(self, correction: Correction) -> dict[str, Any]:
        """How right the predictor with this correction is, as JSON's types.

        `held_out_kernels` and `held_out_networks` sum up `each_kind` (the one with most milliseconds first) and
        `each_network`; what is empty has no figures.
        """
        networks = _accuracy(self.networks)
        if networks:
            networks["coverage"] = float(np.mean([each.covered(correction) for each in self.networks]))
        total_ms = sum(kernel.measured_ms for kernel in self.kernels)
        return {
            "held_out_kernels": {"kernels": len(self.kernels), **_accuracy(self.kernels)},
            "held_out_networks": {"networks": len(self.networks), **networks},
            "each_kind": [
                {
                    "kind": kind,
                    "kernels": len(kernels),
                    "share": sum(kernel.measured_ms for kernel in kernels) / total_ms,
                    **_accuracy(kernels),
                }
                for kind, kernels in self.by_kind().items()
            ],
            "each_network": [{**asdict(each), "error": each.error} for each in self.networks],
            "curve": [asdict(point) for point in self.curve],
            "references": len(self.references),
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON's types; `from_dict` gives the report back."""
        return {
            "kernels": [asdict(kernel) for kernel in self.kernels],
            "networks": [asdict(network) for network in self.networks],
            "curve": [asdict(point) for point in self.curve],
            "references": [
                {"kernel": each.kernel.to_json(), "latency_ms": each.latency_ms} for each in self.references
            ],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Report:
        """Inverse of `to_dict`; raises InvalidInput or a built-in error for anything else."""
        return cls(
            tuple(TestedKernel(str(each["hash"]), str(each["kind"]), *_latencies(each)) for each in content["kernels"]),
            tuple(
                TestedNetwork(str(each["name"]), *_latencies(each), _spread(each.get("spread")))
                for each in content["networks"]
            ),
            tuple(
                CurvePoint(
                    float(each["seconds"]), int(each["kernels"]), float(each["within_5"]), float(each["within_10"])
                )
                for each in content["curve"]
            ),
            tuple(
                ReferenceKernel(_kernel(each["kernel"]), float(each["latency_ms"])) for each in content["references"]
            ),
        )


def _accuracy(tested: Sequence[TestedKernel | TestedNetwork]) -> dict[str, float]:
    if not tested:
        return {}
    return accuracy(np.array([each.predicted_ms for each in tested]), np.array([each.measured_ms for each in tested]))


def _latencies(entry: Mapping[str, Any]) -> tuple[float, float]:
    return float(entry["measured_ms"]), float(entry["predicted_ms"])


def _spread(value: Any) -> float | None:
    return None if value is None else float(value)


def _kernel(text: str) -> Kernel:
    kernel = Kernel.from_json(text)
    specs = [spec for spec in (*kernel.inputs, *kernel.outputs) if spec is not None]
    if (elements := sum(spec.size for spec in specs)) > MAX_REFERENCE_ELEMENTS:
        raise ValueError(f"a reference kernel has {elements} elements")
    return kernel


def _check_latencies(*latencies_ms: float) -> None:
    if not all(0 < value < math.inf for value in latencies_ms):
        raise ValueError(f"a latency is not positive: {latencies_ms}")
