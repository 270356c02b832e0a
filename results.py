"""What the latency service answers: plain, frozen, the same in process and over the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class KernelLatency:
    """One distinct kernel of a network: `latency_ms` is for one execution, `count` how often it occurs.

    `config` is a short human-readable description; `covered` is False when the kernel's path has no data and
    the bytes-and-MACs fallback was used.
    """

    kind: str
    config: str
    latency_ms: float
    count: int
    covered: bool = True


@dataclass(frozen=True)
class Prediction:
    """Latency of one network on one target, batch 1.

    `interval_ms` holds the true latency in 90 % of cases; `uncovered` is the share of `latency_ms` that comes
    from kernels without data; `predictor` names the version that answered (`TARGET@VERSION`).
    """

    target: str
    predictor: str
    latency_ms: float
    interval_ms: tuple[float, float]
    uncovered: float = 0.0
    kernels: tuple[KernelLatency, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LatencyTable:
    """A space compiled for a target: every unique block predicted once.

    `keys`: int32 array (blocks, columns), the integers of `milliseek.spaces.codes.BlockKey`;
    `latency_ms`: float64 array (blocks,). The latency of a subnet is `constant_ms` + the sum over its blocks;
    its 90 % interval is that times (1 - `interval`[0], 1 + `interval`[1]).
    """

    space: str
    target: str
    predictor: str
    keys: np.ndarray
    latency_ms: np.ndarray
    constant_ms: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class SubnetLatencies:
    """Latencies of many subnets on one target, batch 1.

    `latency_ms`: float64 array (subnets,); the 90 % interval of each is its latency times (1 - `interval`[0],
    1 + `interval`[1]); `predictor` names the version that answered (`TARGET@VERSION`).
    """

    latency_ms: np.ndarray
    interval: tuple[float, float]
    predictor: str


@dataclass(frozen=True)
class TargetInfo:
    """A target that can be predicted.

    `predictor` is `TARGET@VERSION`, `runtime_version` the version of the runtime that was measured, and
    `held_out` the accuracy on held-out networks and kernels as fractions (`within_5`, `within_10`, `rmspe`,
    ...): JSON values only, hence no NaN.
    """

    name: str
    predictor: str
    runtime_version: str
    held_out: dict[str, Any] = field(default_factory=dict)
