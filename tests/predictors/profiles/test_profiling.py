"""How the time of a profile is spent, on a clock that only measuring moves."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from milliseek.predictors.models.kernel_model import fit_kernel_model
from milliseek.predictors.profiles import profiling
from milliseek.predictors.profiles.pool import Pool


class Clock:
    """Seconds that pass when something is measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class SlowDevice:
    """Stands for a Measurer: every visit takes one second."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.visited: set[str] = set()
        self.quiet: set[str] = set()
        self.failures: dict[str, str] = {}
        self.visits: dict = {}

    def measure_kernels(self, kernels, goes_on, on_visit) -> None:
        for kernel in kernels:
            if not goes_on():
                return
            self.clock.now += 1
            self.visited.add(kernel.hash)
            self.quiet.add(kernel.hash)
            self.visits[kernel] = [1e-3 * kernel.inputs[0].shape[1] ** 2]
            on_visit(len(self.visited))


@pytest.mark.parametrize("seconds", [60, 100, 400])
def test_a_slow_first_batch_does_not_end_the_first_pass(monkeypatch, make, seconds):
    clock = Clock()
    monkeypatch.setattr(profiling, "time", SimpleNamespace(monotonic=clock.monotonic))
    device = SlowDevice(clock)
    run = profiling._Run(None, None, profiling._Plan(seconds), None, np.random.default_rng(0), lambda *_: None)
    monkeypatch.setattr(run, "_kernel_visits", lambda: device.visits)
    kernels = [make.qconv(8 * c, 8 * c, hw) for c in range(1, 31) for hw in range(7, 27)]
    pool = Pool(Counter(kernels), dict.fromkeys(kernels, 1.0))
    run._visit_new_kernels(device, pool, fit_kernel_model, run.plan.deadline, None)
    assert clock.now == pytest.approx(run.plan.deadline, abs=1)
    assert len(device.visited) == clock.now
