"""Measuring under the gated protocol, inside the process that is pinned for it."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import MilliseekError
from .protocol import ProtocolConfig, Visit
from .runtimes.runtime import Runtime, Session
from .target import Target

_CLOCK_SLACK_NS = 3000
"""Reading the CPU clock is a system call; a batch may exceed its CPU time by that much."""
_TASKS = Path("/proc/self/task")
"""Linux: a folder for each thread of this process; its `schedstat` is nanoseconds run, nanoseconds waited, turns."""


@dataclass
class _Slices:
    """Batches of the slices of one visit: nanoseconds per run, and the probes around them."""

    times_ns: list[float] = field(default_factory=list)
    runs: int = 0
    spent_ns: float = 0.0
    before_ms: float = 0.0
    after_ms: float = 0.0

    def add(self, times_ns: list[float], batch: int, spent_ns: float, before_ms: float, after_ms: float) -> None:
        """Take batches of `batch` runs each, and the probes around them."""
        self.times_ns += times_ns
        self.runs += batch * len(times_ns)
        self.spent_ns += spent_ns
        self.before_ms = max(self.before_ms, before_ms)
        self.after_ms = max(self.after_ms, after_ms)


class Sitting:
    """A row of visits on one target, sharing the best probe and the empty session's overhead.

    `probe_best_ms` hands over the best probe of a sitting that this one continues.
    """

    def __init__(
        self, runtime: Runtime, target: Target, config: ProtocolConfig, probe_best_ms: float | None = None
    ) -> None:
        self._runtime = runtime
        self._target = target
        self._config = config
        self._probe_session = runtime.load(runtime.probe_model, target, optimise=False)
        self._probes: deque[tuple[float, float]] = deque()
        if probe_best_ms is not None:
            self._probes.append((time.monotonic(), probe_best_ms))
        for _ in range(100):
            self.probe()

    @property
    def probe_best_ms(self) -> float:
        """Lowest probe within the horizon."""
        return self._probes[0][1]

    def probe(self) -> float:
        """Milliseconds of one run of the empty session, now."""
        runs, best = self._config.probe_runs, float("inf")
        for _ in range(self._config.probe_repeats):
            start = time.perf_counter_ns()
            for _ in range(runs):
                self._probe_session.run()
            best = min(best, (time.perf_counter_ns() - start) / runs / 1e6)
        # A queue whose values ascend from the left: its head is the lowest of the horizon.
        now = time.monotonic()
        while self._probes and self._probes[-1][1] >= best:
            self._probes.pop()
        self._probes.append((now, best))
        while self._probes[0][0] < now - self._config.probe_horizon_s:
            self._probes.popleft()
        return best

    def measure(self, model: bytes, *, optimise: bool, visits: int = 1) -> list[Visit]:
        """Load a model once and visit it `visits` times; a model that fails yields visits with an error."""
        try:
            session = self._runtime.load(model, self._target, optimise=optimise)
            self._warm_up(session)
            return [self._visit(session) for _ in range(visits)]
        except MilliseekError as error:
            return [Visit.failed(str(error))] * visits

    def _warm_up(self, session: Session) -> None:
        end = time.perf_counter_ns() + self._config.warm_up_ms * 1e6
        for _ in range(self._config.warm_up_runs):
            session.run()
            if time.perf_counter_ns() >= end:
                break

    def _visit(self, session: Session) -> Visit:
        config = self._config
        batch, run_ms = self._batch_size(session)
        patience_ms = max(config.patience_ms, 4 * config.min_runs * run_ms)
        good, bad = _Slices(), _Slices()
        start = time.perf_counter_ns()
        before = self.probe()
        while good.spent_ns < config.visit_ms * 1e6 or good.runs < config.min_runs:
            tried = good.times_ns or bad.times_ns
            if tried and time.perf_counter_ns() - start - good.spent_ns > patience_ms * 1e6:
                break
            if bad.times_ns and not self._is_quiet(before):
                # One slow slice is enough to have a value at all; from then on wait for a quiet moment.
                time.sleep(config.pause_ms / 1e3)
                before = self.probe()
                continue
            slice_start = time.perf_counter_ns()
            clean, preempted = self._slice(session, batch)
            spent = time.perf_counter_ns() - slice_start
            after = self.probe()
            kept = good if self._is_quiet(before) and self._is_quiet(after) else bad
            if clean:
                kept.add(clean, batch, spent * len(clean) / (len(clean) + len(preempted)), before, after)
            if preempted:
                bad.add(preempted, batch, 0, before, after)
            before = after
        complete = good.spent_ns >= config.visit_ms * 1e6 and good.runs >= config.min_runs
        used = good if good.times_ns else bad
        return self._result(used, disturbed=not complete)

    def _result(self, used: _Slices, *, disturbed: bool) -> Visit:
        latency, median = np.quantile(used.times_ns, [self._config.quantile, 0.5]) / 1e6
        return Visit(
            latency_ms=max(float(latency) - self.probe_best_ms, 0.0),
            spread_ms=float(median - latency),
            runs=used.runs,
            probe_before_ms=used.before_ms,
            probe_after_ms=used.after_ms,
            probe_best_ms=self.probe_best_ms,
            disturbed=disturbed or bool(median > self._config.spread_limit * latency),
        )

    def _is_quiet(self, probe_ms: float) -> bool:
        return probe_ms <= self._config.probe_threshold * self.probe_best_ms

    def _batch_size(self, session: Session) -> tuple[int, float]:
        """Runs that together take about `batch_ms`, and roughly the milliseconds of one."""
        runs, limit = 1, self._config.batch_ms * 1e6
        while True:
            start = time.perf_counter_ns()
            for _ in range(runs):
                session.run()
            spent = time.perf_counter_ns() - start
            if spent >= limit / 2 or runs >= 1024:
                return max(1, round(runs * min(1.0, limit / max(spent, 1)))), spent / runs / 1e6
            runs *= 2

    def _slice(self, session: Session, batch: int) -> tuple[list[float], list[float]]:
        """Nanoseconds per run of the batches of one slice: undisturbed ones, and preempted ones."""
        clean: list[float] = []
        preempted: list[float] = []
        check_cpu = self._target.threads == 1
        waited = 0 if check_cpu else _waited_ns()
        start_of_slice = now = time.perf_counter_ns()
        end = now + self._config.slice_ms * 1e6
        while now < end:
            cpu = time.thread_time_ns()
            start = time.perf_counter_ns()
            for _ in range(batch):
                session.run()
            now = time.perf_counter_ns()
            cpu = time.thread_time_ns() - cpu
            wall = now - start
            quiet = not check_cpu or wall <= cpu * (1 + self._config.cpu_tolerance) + _CLOCK_SLACK_NS
            (clean if quiet else preempted).append(wall / batch)
        if not check_cpu:
            waited = _waited_ns() - waited
            if waited > self._config.cpu_tolerance * (now - start_of_slice) + _CLOCK_SLACK_NS:
                return [], clean
        return clean, preempted


def _waited_ns() -> int:
    """Nanoseconds that threads of this process had to wait for a core, up to now; 0 where no kernel tells."""
    waited = 0
    for task in _TASKS.iterdir() if _TASKS.exists() else ():
        try:
            waited += int((task / "schedstat").read_bytes().split()[1])
        except (OSError, IndexError):  # it has ended, or the kernel keeps no account
            continue
    return waited
