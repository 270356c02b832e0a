"""How invocations on a phone become a visit."""

from __future__ import annotations

import pytest

from milliseek.devices.phone.benchmark_model import Runs
from milliseek.devices.phone.protocol import PhoneProtocol, Slice, visit_of


def invocation(low_us: float, typical_us: float | None = None, before_ms: float = 0.1, after_ms: float = 0.1) -> Slice:
    return Slice(Runs(50, low_us, typical_us or low_us), before_ms, after_ms)


def test_two_quiet_invocations_make_a_visit() -> None:
    visit = visit_of([invocation(1000, 1040), invocation(1020, 1060)], 0.01, 0.1, PhoneProtocol())
    assert visit.latency_ms == pytest.approx(1.0)
    assert visit.spread_ms == pytest.approx(0.04)
    assert (visit.runs, visit.disturbed, visit.error) == (100, False, None)
    assert visit.is_good()


def test_what_ran_beside_a_slow_probe_does_not_count() -> None:
    slow = invocation(3000, before_ms=0.1, after_ms=0.2)
    visit = visit_of([slow, invocation(1000), invocation(1010)], 0.0, 0.1, PhoneProtocol())
    assert visit.latency_ms == pytest.approx(1.005)
    assert (visit.runs, visit.probe_after_ms, visit.disturbed) == (100, 0.1, False)


@pytest.mark.parametrize(
    "slices",
    [
        [invocation(1000, after_ms=0.2)] * 5,  # never quiet
        [invocation(1000), *[invocation(1000, before_ms=0.2)] * 4],  # too seldom
        [invocation(1000), invocation(1300)],  # quiet, but two answers
        [invocation(1000, 1300)] * 2,  # quiet, but most runs were slow
    ],
)
def test_a_phone_that_is_not_quiet_gives_a_disturbed_visit(slices: list[Slice]) -> None:
    visit = visit_of(slices, 0.0, 0.1, PhoneProtocol())
    assert visit.disturbed
    assert visit.latency_ms is not None


def test_a_better_probe_that_came_later_judges_earlier_invocations() -> None:
    slices = [invocation(1300, before_ms=0.13, after_ms=0.13), invocation(1000), invocation(1000)]
    assert visit_of(slices, 0.0, 0.1, PhoneProtocol()).latency_ms == pytest.approx(1.0)


def test_a_model_as_fast_as_an_empty_one_takes_no_time() -> None:
    assert visit_of([invocation(2.0), invocation(0.0)], 0.003, 0.1, PhoneProtocol()).latency_ms == 0.0
