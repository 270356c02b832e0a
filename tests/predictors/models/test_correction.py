"""The correction finds what was put in, and its intervals hold what they promise."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milliseek.predictors.models.accuracy import accuracy, coverage
from milliseek.predictors.models.correction import Correction, NetworkSum, conformal_width, fit_correction
from milliseek.predictors.models.kernel_model import KernelPredictions


def networks(count, rng):
    ranges = (0.5, 20), (10, 200), (0.05, 10), (0.1, 50)
    kernels_ms, nodes, weight_mb, moved_mb = (rng.uniform(*range_, count) for range_ in ranges)
    return [
        NetworkSum(*map(float, row), spread=0.03)
        for row in zip(kernels_ms, nodes.round(), weight_mb, moved_mb, strict=True)
    ]


def truth(network, a=1.1, b=0.02, c=0.3, d=0.02):
    return float(network.terms() @ (a, b, c, d))


def fitted(known, visits_ms):
    """The correction of networks of which every kernel was seen."""
    return fit_correction(known, known, visits_ms)[0]


def test_it_recovers_the_terms():
    rng = np.random.default_rng(0)
    known = networks(200, rng)
    found = fitted(known, [[truth(n)] for n in known])
    assert found.coefficients == pytest.approx([1.1, 0.02, 0.3, 0.02], rel=0.15)
    fresh = networks(50, rng)
    predicted = np.array([found.latency_ms(n) for n in fresh])
    assert predicted == pytest.approx(np.array([truth(n) for n in fresh]), rel=0.08)


def test_it_never_subtracts():
    rng = np.random.default_rng(1)
    known = networks(30, rng)
    found = fitted(known, [[max(0.1, truth(n, b=-0.01, c=-0.2, d=-0.01))] for n in known])
    assert found.coefficients.min() >= 0


def test_networks_that_are_the_sum_of_their_kernels_need_no_correction():
    rng = np.random.default_rng(2)
    known = networks(5, rng)
    found = fitted(known, [[n.kernels_ms] for n in known])
    assert found.coefficients == pytest.approx([1, 0, 0, 0], abs=0.02)


def test_the_lowest_visit_counts():
    known = networks(20, np.random.default_rng(3))
    quiet = fitted(known, [[truth(n)] * 3 for n in known])
    assert fitted(known, [[1.3 * truth(n), truth(n), 1.2 * truth(n)] for n in known]) == quiet


def test_a_few_odd_networks_do_not_bend_it():
    known = networks(30, np.random.default_rng(6))
    measured = [truth(n) * (1.4 if i % 10 == 0 else 1) for i, n in enumerate(known)]
    found = fitted(known, [[ms] for ms in measured])
    ordinary = [i for i in range(30) if i % 10]
    errors = np.array([found.latency_ms(known[i]) / measured[i] - 1 for i in ordinary])
    assert np.median(np.abs(errors)) < 0.01


def test_too_few_networks_are_the_callers_mistake():
    known = networks(3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="4 networks, not 3"):
        fitted(known, [[1.0]] * 3)


def test_accuracy_is_estimated_on_networks_as_if_they_were_never_seen():
    """Kernels that only a network has are predicted 20 % too slow when it is left out: the errors must show that."""
    known = networks(20, np.random.default_rng(5))
    unseen = [replace(n, kernels_ms=1.2 * n.kernels_ms) for n in known]
    found, left_out_ms = fit_correction(known, unseen, [[n.kernels_ms] for n in known])
    assert found.coefficients == pytest.approx([1, 0, 0, 0], abs=0.02)
    assert np.array(left_out_ms) == pytest.approx([1.2 * n.kernels_ms for n in known], rel=0.02)
    assert found.residuals == pytest.approx([0.2] * 20, abs=0.02)
    assert found.interval[1] == pytest.approx(0.2, abs=0.02)


def test_nine_of_ten_networks_lie_in_the_interval():
    """Averaged over many calibrations of 20 networks: split-conformal promises at least 90 % of new ones."""
    rng = np.random.default_rng(4)
    hits = []
    for _ in range(40):
        known, fresh = networks(20, rng), networks(25, rng)
        noise = rng.lognormal(0, 0.06, (2, 25))
        found = fitted(known, [[truth(n) * e] for n, e in zip(known, noise[0], strict=False)])
        below, above = found.interval
        for network, error in zip(fresh, noise[1], strict=True):
            predicted = found.latency_ms(network)
            hits.append(predicted * (1 - below) <= truth(network) * error <= predicted * (1 + above))
    assert 0.87 <= np.mean(hits) <= 0.98


@given(st.lists(st.floats(0, 5), min_size=1, max_size=60))
def test_the_width_holds_nine_tenths_of_its_own_scores(scores):
    assert np.mean(np.array(scores) <= conformal_width(np.array(scores))) >= 0.9


@pytest.mark.parametrize("networks", [12, 26, 44])
def test_the_width_covers_nine_tenths_of_new_scores_however_many_it_rests_on(networks: int) -> None:
    scores = np.random.default_rng(0).random((4000, networks))  # uniform: the width is the share that it covers
    assert np.mean([conformal_width(row) for row in scores]) == pytest.approx(0.9, abs=0.005)


def test_networks_of_doubtful_kernels_have_wider_intervals():
    rng = np.random.default_rng(7)
    known = [replace(n, spread=0.2 if i % 2 else 0.0) for i, n in enumerate(networks(40, rng))]
    noise = [0.15 if i % 2 else 0.015 for i in range(40)]
    found = fitted(known, [[truth(n) * rng.lognormal(0, scale)] for n, scale in zip(known, noise, strict=True)])
    below, above = found.interval_at(0.2)
    assert (1 - below) * (1 + above) == pytest.approx(1), "as far down as up, in the logarithm"
    assert above > 4 * found.interval_at(0.0)[1]


def predictions(latency_ms):
    count = len(latency_ms)
    return KernelPredictions(np.array(latency_ms), np.full(count, 0.1), np.ones(count, bool))


def test_the_sum_of_a_network_counts_every_kernel(make):
    kernels = [make.qconv(8, 16, 4), make.reshape()]
    found = NetworkSum.of(predictions([0.5, 0.0]), kernels, [2, 1])
    assert (found.kernels_ms, found.nodes) == (1.0, 3)
    assert found.weight_mb == pytest.approx((2 * (128 + 9 * 16 + 10) + 16) / 1e6)
    assert (found.moved_mb, found.spread) == (0, pytest.approx(0.1))


def test_what_multiplies_nothing_moves_bytes(make):
    found = NetworkSum.of(predictions([0.5]), [make.add(8, 5)], [3])
    assert found.moved_mb == pytest.approx(3 * 3 * 800 / 1e6)


def test_latency_is_linear_in_the_terms():
    assert Correction(2.0, 0.5, 3.0, 0.1, 2.0, 0.03).latency_ms(NetworkSum(10.0, 4, 1.0, 20.0, 0.0)) == 27.0


def test_accuracy_and_coverage():
    found = accuracy(np.array([1.04, 0.92, 1.2, 2.0]), np.array([1.0, 1.0, 1.0, 2.0]))
    assert found == pytest.approx(
        {"mape": 0.08, "within_5": 0.5, "within_10": 0.75, "rmspe": np.sqrt((0.04**2 + 0.08**2 + 0.2**2) / 4)}
    )
    assert coverage([(1, 2), (1, 2), (1, 2), (1, 2)], [1, 2, 0.99, 1.5]) == 0.75
