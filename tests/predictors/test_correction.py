"""The correction finds what was put in, and its intervals hold what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milliseek.predictors.accuracy import accuracy, coverage
from milliseek.predictors.correction import Correction, NetworkSum, conformal_interval, fit_correction


def networks(count, rng):
    return [
        NetworkSum(float(rng.uniform(0.5, 20)), int(rng.integers(10, 200)), float(rng.uniform(0.05, 10)))
        for _ in range(count)
    ]


def truth(network, a=1.1, b=0.02, c=0.3):
    return a * network.kernels_ms + b * network.nodes + c * network.weight_mb


def test_it_recovers_the_terms():
    rng = np.random.default_rng(0)
    known = networks(200, rng)
    found = fit_correction(known, [[truth(n)] for n in known])
    assert (found.a, found.b, found.c) == pytest.approx((1.1, 0.02, 0.3), rel=0.15)
    fresh = networks(50, rng)
    predicted = np.array([found.latency_ms(n) for n in fresh])
    assert predicted == pytest.approx(np.array([truth(n) for n in fresh]), rel=0.08)


def test_it_never_subtracts():
    rng = np.random.default_rng(1)
    known = networks(30, rng)
    found = fit_correction(known, [[max(0.1, truth(n, b=-0.01, c=-0.2))] for n in known])
    assert min(found.a, found.b, found.c) >= 0


def test_networks_that_are_the_sum_of_their_kernels_need_no_correction():
    rng = np.random.default_rng(2)
    known = networks(5, rng)
    found = fit_correction(known, [[n.kernels_ms] for n in known])
    assert (found.a, found.b, found.c) == pytest.approx((1, 0, 0), abs=0.02)


def test_the_lowest_visit_counts_but_every_visit_widens_the_interval():
    rng = np.random.default_rng(3)
    known = networks(20, rng)
    quiet = fit_correction(known, [[truth(n)] * 3 for n in known])
    noisy = fit_correction(known, [[1.3 * truth(n), truth(n), 1.2 * truth(n)] for n in known])
    assert (noisy.a, noisy.b, noisy.c) == (quiet.a, quiet.b, quiet.c)
    assert noisy.residuals == quiet.residuals
    assert noisy.interval[1] > 0.2 > quiet.interval[1]


def test_too_few_networks_are_the_callers_mistake():
    known = networks(3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="4 networks, not 3"):
        fit_correction(known, [[1.0]] * 3)


def test_nine_of_ten_networks_lie_in_the_interval():
    """Averaged over many calibrations of 20 networks: split-conformal promises at least 90 % of new ones."""
    rng = np.random.default_rng(4)
    hits = []
    for _ in range(40):
        known, fresh = networks(20, rng), networks(25, rng)
        noise = rng.lognormal(0, 0.06, (2, 25))
        found = fit_correction(known, [[truth(n) * e] for n, e in zip(known, noise[0], strict=False)])
        below, above = found.interval
        for network, error in zip(fresh, noise[1], strict=True):
            predicted = found.latency_ms(network)
            hits.append(predicted * (1 - below) <= truth(network) * error <= predicted * (1 + above))
    assert 0.87 <= np.mean(hits) <= 0.98


@settings(deadline=None)
@given(st.lists(st.floats(-0.5, 1.0), min_size=1, max_size=60))
def test_the_conformal_interval_holds_nine_tenths_of_its_own_errors(errors):
    below, above = conformal_interval(errors)
    assert 0 <= below < 1
    assert above >= 0
    assert (1 - below) * (1 + above) == pytest.approx(1), "as far down as up, in the logarithm"
    shares = [1 / (1 + error) for error in errors]  # measured / predicted
    inside = np.mean([1 - below - 1e-9 <= share <= 1 + above + 1e-9 for share in shares])
    assert inside >= 0.9


def test_the_sum_of_a_network_counts_every_kernel(make):
    kernels = [make.qconv(8, 16, 4), make.qconv(8, 16, 4), make.reshape()]
    found = NetworkSum.of(np.array([0.5, 0.5, 0.0]), kernels)
    assert (found.kernels_ms, found.nodes) == (1.0, 3)
    assert found.weight_mb == pytest.approx((2 * (128 + 9 * 16 + 10) + 16) / 1e6)


def test_latency_is_linear_in_the_terms():
    assert Correction(2.0, 0.5, 3.0, (0.1, 0.1)).latency_ms(NetworkSum(10.0, 4, 1.0)) == 25.0


def test_accuracy_and_coverage():
    found = accuracy(np.array([1.04, 0.92, 1.2, 2.0]), np.array([1.0, 1.0, 1.0, 2.0]))
    assert found == pytest.approx(
        {"mape": 0.08, "within_5": 0.5, "within_10": 0.75, "rmspe": np.sqrt((0.04**2 + 0.08**2 + 0.2**2) / 4)}
    )
    assert coverage([(1, 2), (1, 2), (1, 2), (1, 2)], [1, 2, 0.99, 1.5]) == 0.75
