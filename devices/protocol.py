"""The gated measuring protocol as data: its constants, and what one visit yields.

A visit of a candidate is: load and warm up; then slices of a few milliseconds, each with a probe (a tiny
session, about 0.1 ms) before and after; a slice counts when both probes are within `probe_threshold` of the best
probe of this sitting, otherwise wait briefly and go on. A visit that runs out of patience is kept but flagged.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class ProtocolConfig:
    """Constants of the measuring protocol; the defaults suit kernels and whole networks alike.

    probe_threshold: a probe above this multiple of the best recent one means that the machine is slow now.
    probe_runs, probe_repeats: a probe is the best of `probe_repeats` means over `probe_runs` runs.
    probe_horizon_s: how long the best probe counts; a machine that throttles finds a new level after it.
    warm_up_ms, warm_up_runs: a candidate runs for at least that long, but not more often than that, unmeasured.
    slice_ms: time between two probes; one run when a run is longer.
    visit_ms, min_runs: a visit ends when its good slices reach both.
    batch_ms: runs shorter than this are timed several at a time, so that reading the clocks costs nothing.
    cpu_tolerance: a batch whose wall time exceeds its CPU time by this share was preempted and is dropped. With several
        threads a slice is dropped where they waited for a core for that share of it, taken together (on Linux).
    patience_ms: the longest a visit may take beyond the time of its good slices; more for a network so slow that
        `min_runs` need longer.
    pause_ms: the wait before the next probe while the machine is slow.
    quantile: the latency is this quantile of the batches of all good slices: of the candidates tried
        (minimum, 0.1, 0.25, median) the lowest ones repeat best, and 0.1 does not hang on one lucky batch.
    spread_limit: a visit whose median exceeds the latency by this factor is flagged as disturbed too.
    gate_patience_s: how long an agent waits for a moment in which the gate opens before it gives a job back.
    time_limit_s: wall time for one candidate, loading included, before its process is killed.
    """

    probe_threshold: float = 1.12
    probe_runs: int = 16
    probe_repeats: int = 2
    probe_horizon_s: float = 120.0
    warm_up_ms: float = 2.0
    warm_up_runs: int = 50
    slice_ms: float = 5.0
    visit_ms: float = 25.0
    min_runs: int = 5
    batch_ms: float = 0.1
    cpu_tolerance: float = 0.03
    patience_ms: float = 1500.0
    pause_ms: float = 10.0
    quantile: float = 0.1
    spread_limit: float = 1.12
    gate_patience_s: float = 30.0
    time_limit_s: float = 60.0

    def to_dict(self) -> dict[str, float]:
        """Fields by name; `ProtocolConfig(**config.to_dict())` gives it back."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Visit:
    """One timed visit of a model on a target, in milliseconds.

    latency_ms: `quantile` of the accepted batches minus `probe_best_ms`, what an empty session costs; None on error.
    spread_ms: median minus that quantile. runs: accepted runs.
    probe_before_ms, probe_after_ms: the worst probe before and after any slice that counted.
    probe_best_ms: the best recent probe of the sitting at the end of the visit.
    disturbed: the machine was slow or noisy all through; keep the record, but do not fit on it.
    error: one sentence when the model could not be loaded, run or timed.
    """

    latency_ms: float | None
    spread_ms: float = 0.0
    runs: int = 0
    probe_before_ms: float = 0.0
    probe_after_ms: float = 0.0
    probe_best_ms: float = 0.0
    disturbed: bool = False
    error: str | None = None

    @classmethod
    def failed(cls, error: str) -> Visit:
        """The visit of a model that could not be measured."""
        return cls(latency_ms=None, error=error)

    def is_good(self, probe_best_ms: float | None = None, probe_threshold: float = 1.12) -> bool:
        """Whether the visit may be fitted on, seen from a better probe that came later in the sitting."""
        return self.error is None and not self.disturbed and self.is_quiet(probe_best_ms, probe_threshold)

    def is_quiet(self, probe_best_ms: float | None = None, probe_threshold: float = 1.12) -> bool:
        """Whether the gate was open for what counted; a visit may be disturbed all the same, by noise of its own."""
        best = self.probe_best_ms if probe_best_ms is None else min(self.probe_best_ms, probe_best_ms)
        return max(self.probe_before_ms, self.probe_after_ms) <= probe_threshold * best
