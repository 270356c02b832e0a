"""How the time of a profile is spent, on a clock that only measuring moves."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest

from milliseek.errors import MeasurementError
from milliseek.predictors.models.kernel_model import fit_kernel_model
from milliseek.predictors.profiles import profiling
from milliseek.predictors.profiles.fitting import fit_predictor
from milliseek.predictors.profiles.pool import Candidate, Pool


class Clock:
    """Seconds that pass when something is measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class SlowDevice:
    """Stands for a Measurer: every visit takes one second, and the first ones of some kernels are disturbed."""

    def __init__(self, clock: Clock, disturbed_first: frozenset = frozenset()) -> None:
        self.clock = clock
        self.disturbed_first = disturbed_first
        self.visited: set[str] = set()
        self.quiet: set[str] = set()
        self.failures: dict[str, str] = {}
        self.visits: dict = {}

    def measure_kernels(self, kernels, goes_on, on_visit) -> None:
        for kernel in kernels:
            if not goes_on():
                return
            self.clock.now += 1
            first = kernel.hash not in self.visited
            self.visited.add(kernel.hash)
            on_visit(len(self.visited))
            if first and kernel in self.disturbed_first:
                continue
            self.quiet.add(kernel.hash)
            self.visits.setdefault(kernel, []).append(1e-3 * kernel.inputs[0].shape[1] ** 2)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(profiling, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def run_of(seconds: float, device: SlowDevice, monkeypatch) -> profiling._Run:
    run = profiling._Run(None, None, profiling._Plan(seconds), None, np.random.default_rng(0), lambda *_: None)
    monkeypatch.setattr(run, "_kernel_visits", lambda: device.visits)
    return run


def pool_of(kernels: list) -> Pool:
    return Pool(Counter(kernels), dict.fromkeys(kernels, 1.0))


@pytest.mark.parametrize("seconds", [60, 100, 400])
def test_a_slow_first_batch_does_not_end_the_first_pass(monkeypatch, make, clock, seconds):
    device = SlowDevice(clock)
    run = run_of(seconds, device, monkeypatch)
    kernels = [make.qconv(8 * c, 8 * c, hw) for c in range(1, 31) for hw in range(7, 27)]
    run._visit_new_kernels(device, pool_of(kernels), fit_kernel_model, run.plan.deadline, None)
    assert clock.now == pytest.approx(run.plan.deadline, abs=1)
    assert len(device.visited) == clock.now


def test_a_kernel_whose_first_visit_was_disturbed_is_visited_again(monkeypatch, make, clock):
    kernels = [make.qconv(8 * c, 8 * c, 14) for c in range(1, 41)]
    device = SlowDevice(clock, frozenset(kernels[::2]))
    run = run_of(1000, device, monkeypatch)
    pool = pool_of(kernels)
    run._visit_new_kernels(device, pool, fit_kernel_model, run.plan.deadline, None)
    assert set(device.visits) == set(kernels[1::2])
    run._visit_again(device, pool, run.plan.deadline)
    assert set(device.visits) == set(kernels)


def test_a_limit_of_kernels_counts_those_of_an_interrupted_run(monkeypatch, make, clock):
    kernels = [make.qconv(8 * c, 8 * c, 14) for c in range(1, 41)]
    device = SlowDevice(clock)
    device.visits = {kernel: [1.0] for kernel in kernels[:7]}
    run = run_of(1000, device, monkeypatch)
    run._visit_new_kernels(device, pool_of(kernels), fit_kernel_model, run.plan.deadline, 10)
    assert len(device.visits) == 10


def test_networks_with_fewest_visits_come_first(monkeypatch, clock):
    visited: list[str] = []

    def visit(model, name: str) -> SimpleNamespace:
        clock.now += 1
        visited.append(name)
        return SimpleNamespace(disturbed=name == "b", latency_ms=1.0)

    run = run_of(100, SlowDevice(clock), monkeypatch)
    candidates = [Candidate(name, "family", lambda: None) for name in "abcdefgh"]
    measurer = SimpleNamespace(measure_network=visit)
    run._visit_networks(measurer, candidates, 7.0)
    run._visit_networks(measurer, candidates, 12.0)
    assert "".join(visited) == "abcdefg" + "bhacd"


def test_a_network_that_cannot_be_measured_is_left_out_and_more_of_them_are_an_error(monkeypatch, clock):
    tried: list[str] = []

    def visit(model, name: str) -> SimpleNamespace:
        clock.now += 1
        tried.append(name)
        if name.isupper():
            raise MeasurementError(f"{name} cannot be measured.", "")
        return SimpleNamespace(disturbed=False, latency_ms=1.0)

    run = run_of(100, SlowDevice(clock), monkeypatch)
    run.target = SimpleNamespace(kind="local")
    measurer = SimpleNamespace(measure_network=visit)
    few = [Candidate(name, "family", lambda: None) for name in "aBcdefgh"]
    run._visit_networks(measurer, few, run.plan.deadline)
    run._visit_networks(measurer, few, run.plan.deadline)
    assert "".join(tried) == "aBcdefgh" + "acdefgh"
    with pytest.raises(MeasurementError, match="E cannot"):
        run._visit_networks(measurer, [Candidate(name, "f", lambda: None) for name in "CDEFG"], run.plan.deadline)


def test_a_profile_tells_why_kernels_could_not_be_measured(monkeypatch, make, clock):
    device = SlowDevice(clock)
    device.failures = {"a": "no such op", "b": "no such type", "c": "no such op"}
    run = run_of(100, device, monkeypatch)
    monkeypatch.setattr(profiling, "open_device", lambda *_: nullcontext())
    monkeypatch.setattr(profiling, "Measurer", lambda *_: device)
    monkeypatch.setattr(run, "_recalled", lambda _: [])
    run.measure(pool_of([make.qconv(8 * c, 8 * c, 14) for c in range(1, 9)]), fit_kernel_model, None)
    assert run.failures.most_common() == [("no such op", 2), ("no such type", 1)]


def test_a_version_that_adds_rests_on_nothing_older_than_what_it_adds_to():
    then, later = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 3, 4, tzinfo=UTC)
    first = SimpleNamespace(created_at=then, held_out={"measured_since": None})
    afresh = SimpleNamespace(created_at=later, held_out={"measured_since": then.isoformat()})
    assert profiling.measured_since(None, add=False) is None
    assert profiling.measured_since(first, add=False) == then
    assert profiling.measured_since(first, add=True) is None
    assert profiling.measured_since(afresh, add=False) == later
    assert profiling.measured_since(afresh, add=True) == then, "what the first version rested on was superseded"


def test_too_few_kernels_make_no_predictor():
    with pytest.raises(MeasurementError, match="Only 0 kernels could be measured on here undisturbed; 5 are needed"):
        fit_predictor(SimpleNamespace(name="here"), {}, [], Counter(), min_kernels=5)
