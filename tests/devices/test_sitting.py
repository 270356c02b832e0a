"""The gated protocol, on a runtime whose speed the test sets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace

import pytest

from milliseek.devices.protocol import ProtocolConfig, Visit
from milliseek.devices.runtimes.runtime import TensorInfo
from milliseek.devices.sitting import Sitting
from milliseek.devices.target import Target
from milliseek.errors import MeasurementError

PROBE_MS, MODEL_MS = 0.004, 0.5


class Clock:
    """Time that passes only when a session runs or somebody sleeps."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.cpu_ns = 0
        self.slow: Callable[[float], float] = lambda now_s: 1.0

    def run(self, milliseconds: float) -> None:
        spent = int(milliseconds * 1e6 * self.slow(self.now_ns / 1e9))
        self.now_ns += spent
        self.cpu_ns += spent

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


class FakeRuntime:
    name = "fake"
    probe_model = b"probe"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def version(self) -> str:
        return "1"

    def optimise(self, model: bytes, target: Target) -> bytes:
        return model

    def tensor_shapes(self, model: bytes, target: Target) -> dict[str, TensorInfo]:
        return {}

    def load(self, model: bytes, target: Target, *, optimise: bool) -> FakeSession:
        if model == b"bad":
            raise MeasurementError("It does not load.")
        if model == b"tiring":
            return TiringSession(self.clock, MODEL_MS)
        return FakeSession(self.clock, PROBE_MS if model == self.probe_model else MODEL_MS)


class FakeSession:
    def __init__(self, clock: Clock, milliseconds: float) -> None:
        self.clock, self.milliseconds = clock, milliseconds

    def run(self) -> None:
        self.clock.run(self.milliseconds)


class TiringSession(FakeSession):
    """One that fails after some runs."""

    runs = 0

    def run(self) -> None:
        super().run()
        self.runs += 1
        if self.runs > 30:
            raise MeasurementError("It fails while it runs.")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    fake = SimpleNamespace(
        perf_counter_ns=lambda: clock.now_ns,
        thread_time_ns=lambda: clock.cpu_ns,
        monotonic=lambda: clock.now_ns / 1e9,
        sleep=clock.sleep,
    )
    monkeypatch.setattr("milliseek.devices.sitting.time", fake)
    return clock


def start(clock: Clock, config: ProtocolConfig | None = None) -> Sitting:
    return Sitting(FakeRuntime(clock), Target("d", "fake", "fp32"), config or ProtocolConfig())


def one_visit(sitting: Sitting) -> Visit:
    return sitting.measure(b"model", optimise=False)[0]


def test_a_quiet_visit_subtracts_the_empty_session(clock: Clock) -> None:
    visit = one_visit(start(clock))
    assert visit.latency_ms == pytest.approx(MODEL_MS - PROBE_MS, rel=1e-3)
    assert visit.probe_before_ms == visit.probe_after_ms == visit.probe_best_ms == pytest.approx(PROBE_MS, rel=1e-3)
    assert visit.runs >= 40
    assert visit.is_good()


def test_slow_phases_are_waited_out(clock: Clock) -> None:
    sitting = start(clock)
    begin = clock.now_ns / 1e9
    clock.slow = lambda now_s: 1.5 if now_s < begin + 0.6 else 1.0
    visit = one_visit(sitting)
    assert clock.now_ns / 1e9 > begin + 0.6
    assert visit.latency_ms == pytest.approx(MODEL_MS - PROBE_MS, rel=1e-3)
    assert visit.is_good()


def test_a_machine_that_stays_slow_gives_a_flagged_value(clock: Clock) -> None:
    sitting = start(clock)
    clock.slow = lambda now_s: 1.5
    begin = clock.now_ns
    visit = one_visit(sitting)
    assert visit.disturbed
    assert not visit.is_good()
    assert visit.latency_ms == pytest.approx(1.5 * MODEL_MS, rel=0.02)
    assert clock.now_ns - begin < 2e9


def test_a_machine_that_throttles_for_good_finds_a_new_level(clock: Clock) -> None:
    sitting = start(clock)
    clock.slow = lambda now_s: 1.5
    one_visit(sitting)
    clock.sleep(ProtocolConfig().probe_horizon_s)
    sitting.probe()
    assert one_visit(sitting).is_good()


def test_preempted_runs_do_not_count(clock: Clock) -> None:
    sitting = start(clock)
    calls = iter(range(10**9))

    def slow(now_s: float) -> float:
        if next(calls) % 7 == 0:
            clock.now_ns += 200_000  # another program's share: wall time without CPU time
        return 1.0

    undisturbed = one_visit(sitting).latency_ms
    clock.slow = slow
    visit = one_visit(sitting)
    assert visit.latency_ms == pytest.approx(undisturbed, rel=0.02)


def test_slices_in_which_a_thread_waited_for_a_core_do_not_count(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    slices, waited = count(), [0]

    def waited_ns() -> int:
        n = next(slices)
        if n % 2 and n < 40:  # at the end of a slice
            waited[0] += 1_000_000
            clock.now_ns += 1_000_000
        return waited[0]

    monkeypatch.setattr("milliseek.devices.sitting._waited_ns", waited_ns)
    sitting = Sitting(FakeRuntime(clock), Target("d", "fake", "fp32", threads=2), ProtocolConfig())
    visit = one_visit(sitting)
    assert next(slices) > 40, "it went on until nobody waited"
    assert visit.is_good()

    monkeypatch.setattr("milliseek.devices.sitting._waited_ns", count(step=5_000_000).__next__)
    assert one_visit(sitting).disturbed


TWO_ON_ONE_CORE = """
import hashlib, os, threading, time
from milliseek.devices.sitting import _waited_ns

os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
end = time.monotonic() + 1.0

def work():
    while time.monotonic() < end:
        hashlib.sha256(bytes(1 << 20))  # without Python's lock

before = _waited_ns()
thread = threading.Thread(target=work)
thread.start()
work()
print(_waited_ns() - before)
thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels keep no such account")
def test_a_thread_that_shares_its_core_waits() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_ON_ONE_CORE], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0.2e9


def test_a_later_and_better_probe_condemns_a_visit(clock: Clock) -> None:
    visit = one_visit(start(clock))
    assert visit.is_good(probe_best_ms=visit.probe_best_ms / 1.05)
    assert not visit.is_good(probe_best_ms=visit.probe_best_ms / 1.5)


def test_a_slow_network_still_gets_its_runs(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "MODEL_MS", 3000.0)
    visit = one_visit(start(clock))
    assert visit.runs >= ProtocolConfig().min_runs
    assert visit.is_good()


def test_a_model_that_fails_later_is_data(clock: Clock) -> None:
    sitting = start(clock)
    visit = sitting.measure(b"tiring", optimise=False)[0]
    assert visit.error == "It fails while it runs."
    assert one_visit(sitting).error is None


def test_a_stall_in_the_first_probe_leaves_a_value(clock: Clock) -> None:
    sitting = start(clock)
    stalls = iter([60.0])
    probe = sitting.probe

    def stalled() -> float:
        clock.sleep(next(stalls, 0.0))
        return probe()

    sitting.probe = stalled  # type: ignore[method-assign]
    assert one_visit(sitting).latency_ms == pytest.approx(MODEL_MS - PROBE_MS, rel=1e-2)


def test_a_model_that_does_not_load_is_data(clock: Clock) -> None:
    visits = start(clock).measure(b"bad", optimise=False, visits=2)
    assert visits == [Visit.failed("It does not load.")] * 2
    assert not visits[0].is_good()
