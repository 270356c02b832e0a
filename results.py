"""What the latency service answers: plain, frozen, the same in process and over the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

DeviceState = Literal["active", "draining"]
JobState = Literal["queued", "leased", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class KernelLatency:
    """One distinct kernel of a network: `latency_ms` is for one execution, `count` how often it occurs.

    `config` is a short human-readable description; `covered` is False when the kernel's path has no data and
    the bytes-and-MACs fallback was used. `spec` is the kernel itself as JSON, fit for asking again; empty where it
    is longer than the service takes.
    """

    kind: str
    config: str
    latency_ms: float
    count: int
    covered: bool = True
    spec: str = field(default="", repr=False)


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
class KernelLatencies:
    """Latencies of single kernels on one target, batch 1, each as its share of a network's latency.

    `kernels` has the order of the question, repeated ones included, with `count` 1; `predictor` names the version
    that answered (`TARGET@VERSION`).
    """

    kernels: tuple[KernelLatency, ...]
    predictor: str


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


@dataclass(frozen=True)
class Device:
    """A physical machine as the service knows it.

    `kind` is `local`, `agent`, `adb` or `imported`; `model` the name that it shares with its like, empty if none;
    `facts` what it says about itself, as JSON values. A device that drains finishes what it holds and takes no
    further jobs. `connected` tells whether its agent is connected now; `last_seen_at` (UTC) is None if it never was.
    """

    name: str
    kind: str
    model: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    state: DeviceState = "active"
    connected: bool = False
    last_seen_at: datetime | None = None


@dataclass(frozen=True)
class Visit:
    """One timed visit of a model on a device, in milliseconds.

    `latency_ms` is that of one inference, `spread_ms` the median minus it, `runs` the accepted runs. The probes are a
    fixed piece of work that tells how fast the machine was: the worst before and after a slice that counted, and the
    best recent one. A `disturbed` machine was slow or noisy all through.
    """

    latency_ms: float
    spread_ms: float
    runs: int
    probe_before_ms: float
    probe_after_ms: float
    probe_best_ms: float
    disturbed: bool = False


@dataclass(frozen=True)
class Job:
    """A measurement that was submitted.

    `key` is the client's name of it, `user` the token it was submitted with, `sha256` the model, `tries` how often a
    device has begun it, `device` the one that holds or ended it. `visits` are there once it is done; `failure` says in
    one sentence why it failed. Times are in UTC; `ended_at` is None until it has ended.
    """

    id: str
    key: str
    user: str
    target: str
    sha256: str
    state: JobState
    priority: int
    tries: int
    device: str
    visits: tuple[Visit, ...]
    failure: str
    created_at: datetime
    ended_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "failed", "cancelled")
