"""Measuring on a phone as data: the constants, and how invocations of `benchmark_model` become a visit."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..protocol import Visit
from .benchmark_model import Runs


@dataclass(frozen=True)
class PhoneProtocol:
    """Constants of measuring on a phone, where every look at the clock is a process of its own.

    `benchmark_model` tells quantiles of its runs, not each of them. So what a slice is to `ProtocolConfig` is one
    invocation here: it counts when a probe before and one after it are within `probe_threshold` of the best probe of
    the last `probe_horizon_s`. A probe is an invocation too, of a small model that depends on the clocks alone.

    repeats, tries: a visit ends after so many good invocations, or so many in all; then it is flagged as disturbed.
    warm_up_s: unmeasured runs, long enough for a governor that was idle to raise the clocks.
    run_s, min_runs: an invocation runs as long as both ask for, but not beyond half of its time limit.
    pause_s: the wait after a slow probe, for the phone to cool down or to finish what it does.
    spread_limit: a visit is disturbed if its typical run takes longer than its low one by this factor, or if its
        invocations differ by that.
    time_limit_s: wall time of one invocation on the phone, loading included.
    """

    probe_threshold: float = 1.12
    probe_horizon_s: float = 120.0
    repeats: int = 2
    tries: int = 5
    warm_up_s: float = 0.2
    run_s: float = 0.1
    min_runs: int = 10
    pause_s: float = 0.5
    spread_limit: float = 1.12
    time_limit_s: float = 60.0


class Slice(NamedTuple):
    """The runs of one invocation, and the probes around it in milliseconds."""

    runs: Runs
    before_ms: float
    after_ms: float

    def is_quiet(self, threshold_ms: float) -> bool:
        """Whether both probes were within the threshold."""
        return max(self.before_ms, self.after_ms) <= threshold_ms


def visit_of(slices: Sequence[Slice], empty_ms: float, probe_best_ms: float, protocol: PhoneProtocol) -> Visit:
    """The visit that these invocations, at least one, make up; `empty_ms` is what an empty model takes.

    Its latency is the median over the good invocations (over all if none is) of their low time, minus `empty_ms`: the
    low time leaves out what interrupted single runs, the median a process that lay badly in memory or luckily.
    """
    good = [item for item in slices if item.is_quiet(protocol.probe_threshold * probe_best_ms)]
    used = good or slices
    lows = [item.runs.low_us / 1e3 for item in used]
    low_ms = statistics.median(lows)
    typical_ms = statistics.median(item.runs.typical_us for item in used) / 1e3
    spread = max(typical_ms / low_ms, max(lows) / min(lows)) if min(lows) > 0 else 1.0
    return Visit(
        latency_ms=max(low_ms - empty_ms, 0.0),
        spread_ms=max(typical_ms - low_ms, 0.0),
        runs=sum(item.runs.count for item in used),
        probe_before_ms=max(item.before_ms for item in used),
        probe_after_ms=max(item.after_ms for item in used),
        probe_best_ms=probe_best_ms,
        disturbed=len(good) < protocol.repeats or spread > protocol.spread_limit,
    )
