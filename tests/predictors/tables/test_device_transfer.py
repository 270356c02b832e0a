"""Ten measurements on a new device, many on known ones: choose, fit, predict."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from milliseek.errors import InvalidInput
from milliseek.predictors.tables.device_prior import DevicePrior, learn_prior
from milliseek.predictors.tables.device_transfer import choose_networks, fit_transfer, resolution

NETWORKS = 400
KNOWN = np.array([[4.0, 1.0, 0.5], [3.0, 2.0, 0.3], [5.0, 0.7, 1.0], [4.0, 1.5, 0.2]])
"""Milliseconds an operator of three types takes on four devices; one more for everything."""


def made_up(cost: np.ndarray, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    """Latencies (networks,) in ms of a device that pays so much for an operator of each type."""
    noisy = np.exp(np.random.default_rng(seed).normal(0, noise, NETWORKS))
    return np.asarray((1 + COUNTS @ cost) * noisy)


COUNTS = np.random.default_rng(5).integers(0, 6, (NETWORKS, 3)).astype(float)
KNOWN_MS = np.stack([made_up(cost, seed=10 + i) for i, cost in enumerate(KNOWN)])
MIXTURE = 0.5 * KNOWN[1] + 0.5 * KNOWN[2]


@pytest.fixture(scope="module")
def prior() -> DevicePrior:
    return learn_prior(KNOWN_MS, COUNTS)


def errors(
    new_ms: np.ndarray, prior: DevicePrior, count: int = 10, measured_ms: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Relative errors on the unmeasured networks, and the share inside their interval."""
    chosen = choose_networks(KNOWN_MS, count, COUNTS, prior=prior)
    given = (new_ms if measured_ms is None else measured_ms)[chosen]
    predicted, low, high = fit_transfer(KNOWN_MS, chosen, given, COUNTS, prior=prior).predict(KNOWN_MS, COUNTS)
    rest = np.delete(np.arange(NETWORKS), chosen)
    return (predicted / new_ms - 1)[rest], float(((low <= new_ms) & (new_ms <= high))[rest].mean())


def test_a_copy_of_a_known_device_at_another_speed(prior: DevicePrior) -> None:
    error, _ = errors(7 * made_up(KNOWN[0], seed=1), prior)
    assert (np.abs(error) < 0.05).mean() > 0.9


@pytest.mark.parametrize("factor", [1e-4, 1.0, 1e4])
def test_any_unit_gives_the_same_relative_errors(prior: DevicePrior, factor: float) -> None:
    plain, _ = errors(1.0001 * made_up(MIXTURE), prior)
    scaled, _ = errors(1.0001 * factor * made_up(MIXTURE), prior)
    np.testing.assert_allclose(scaled, plain, atol=0.01)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.15])
def test_intervals_cover_whatever_the_noise(prior: DevicePrior, noise: float) -> None:
    shares = [errors(made_up(MIXTURE, noise, seed), prior, count=20)[1] for seed in range(6)]
    assert 0.82 < np.mean(shares) <= 1.0


def test_more_measurements_help_on_a_strange_device(prior: DevicePrior) -> None:
    strange = made_up(np.array([0.5, 4.0, 3.0]), 0.02)
    few, many = (np.abs(errors(strange, prior, count)[0]).mean() for count in (3, 100))
    assert many < 0.05 < few


def test_three_measurements_rank_well(prior: DevicePrior) -> None:
    error, coverage = errors(made_up(MIXTURE), prior, count=3)
    assert np.abs(error).mean() < 0.1
    assert coverage > 0.8


def test_chosen_networks_beat_the_average_random_choice(prior: DevicePrior) -> None:
    new_ms = made_up(np.array([1.0, 3.0, 0.1]), 0.02)
    found = []
    for seed in range(10):
        chosen = np.random.default_rng(seed).choice(NETWORKS, 5, replace=False)
        predicted, _, _ = fit_transfer(KNOWN_MS, chosen, new_ms[chosen], COUNTS, prior=prior).predict(KNOWN_MS, COUNTS)
        found.append(np.abs(predicted / new_ms - 1).mean())
    assert np.abs(errors(new_ms, prior, count=5)[0]).mean() < np.mean(found)


def test_one_wrong_measurement_in_ten_does_little_harm(prior: DevicePrior) -> None:
    new_ms = made_up(MIXTURE)
    chosen = choose_networks(KNOWN_MS, 10, COUNTS, prior=prior)
    wrong = new_ms.copy()
    wrong[chosen[4]] *= 5
    error, _ = errors(new_ms, prior, measured_ms=wrong)
    assert np.abs(error).mean() < 0.06
    trust = fit_transfer(KNOWN_MS, chosen, wrong[chosen], COUNTS, prior=prior).trust
    assert trust.argmin() == 4
    assert trust[4] < 0.05 < 0.8 < np.delete(trust, 4).min()


def test_near_zero_measurements_are_left_out(prior: DevicePrior) -> None:
    chosen = choose_networks(KNOWN_MS, 10, COUNTS, prior=prior)
    measured_ms = made_up(MIXTURE)[chosen]
    measured_ms[3] = 0.003
    used = fit_transfer(KNOWN_MS, chosen, measured_ms, COUNTS, prior=prior).used
    assert set(used) == set(chosen) - {chosen[3]}


def test_whole_milliseconds_widen_the_intervals_of_fast_networks(prior: DevicePrior) -> None:
    new_ms = made_up(MIXTURE) / 4
    chosen = choose_networks(KNOWN_MS, 20, COUNTS, prior=prior)
    transfer = fit_transfer(KNOWN_MS, chosen, np.maximum(1, np.rint(new_ms[chosen])), COUNTS, prior=prior)
    assert transfer.resolution_ms == 1.0
    predicted, low, high = transfer.predict(KNOWN_MS, COUNTS)
    order = np.argsort(predicted)
    width = (high / low)[order]
    assert width[:50].mean() > 1.05 * width[-50:].mean()
    assert (np.abs(predicted / new_ms - 1) < 0.1).mean() > 0.8


@pytest.mark.parametrize(
    ("values", "step"), [([3, 5, 12], 1.0), ([3.1, 5, 12], 0.1), ([3.12, 5, 1], 0.01), ([3.1234, 5, 1], 0.0)]
)
def test_resolution(values: list[float], step: float) -> None:
    assert resolution(np.array(values)) == step


def test_gaps_and_failed_rows_of_known_devices() -> None:
    known_ms = KNOWN_MS.copy()
    rng = np.random.default_rng(3)
    known_ms[rng.random(known_ms.shape) < 0.3] = np.nan
    known_ms[0, :40] = 1e-3
    known_ms[:, 99] = np.nan
    new_ms = made_up(MIXTURE)
    chosen = choose_networks(known_ms, 12, COUNTS)
    assert np.isfinite(known_ms[:, chosen]).all()
    predicted, low, high = fit_transfer(known_ms, chosen, new_ms[chosen], COUNTS).predict(known_ms, COUNTS)
    assert np.isnan(predicted[99])
    rest = np.isfinite(predicted)
    assert rest.sum() > 0.98 * NETWORKS
    assert ((low < predicted) & (predicted < high))[rest].all()
    assert np.abs(predicted / new_ms - 1)[rest].mean() < 0.06


def test_one_known_device_and_no_features() -> None:
    known_ms = KNOWN_MS[:1]
    chosen = choose_networks(known_ms, 6)
    predicted, _, _ = fit_transfer(known_ms, chosen, 3 * known_ms[0, chosen]).predict(known_ms)
    np.testing.assert_allclose(predicted, 3 * known_ms[0], rtol=0.02)


def test_the_choice_is_deterministic_and_among_what_can_be_measured(prior: DevicePrior) -> None:
    among = np.arange(0, NETWORKS, 7)
    first, second = (choose_networks(KNOWN_MS, 8, COUNTS, among=among, prior=prior, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(set(first)) == 8
    assert set(first) <= set(among)


def test_too_little_is_an_error_that_names_it(prior: DevicePrior) -> None:
    with pytest.raises(InvalidInput, match="2 usable measurements"):
        fit_transfer(KNOWN_MS, np.array([1, 2]), np.array([3.0, 4.0]), COUNTS, prior=prior)
    with pytest.raises(InvalidInput, match="Cannot choose 401 of 400"):
        choose_networks(KNOWN_MS, 401, COUNTS, prior=prior)
    with pytest.raises(InvalidInput, match="fewer than 3 latencies"):
        learn_prior(np.full((2, 5), np.nan))
    with pytest.raises(InvalidInput, match="Latencies of 2 known devices, not of 4"):
        prior.rows(KNOWN_MS[:2], COUNTS)
    with pytest.raises(InvalidInput, match="Features of 3 networks"):
        learn_prior(KNOWN_MS, COUNTS[:3])


def test_help_split_of_nasbench201(data_folder: Path) -> None:
    """Spearman with ten measurements against that of HELP (Lee et al., 2021), on its own split."""
    with np.load(data_folder / "help" / "nasbench201_latency_ms.npz") as stored:
        table = {name: stored[name].astype(float) for name in stored.files}
    with gzip.open(data_folder / "help" / "nasbench201_arch_str.json.gz") as file:
        cells = json.load(file)
    operators = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    counts = np.array([[cell.count(name) for name in operators] for cell in cells])
    gpus, phones = ("1080ti_1", "1080ti_32", "1080ti_256"), ("samsung_a50", "pixel3", "essential_ph_1", "samsung_s7")
    known_ms = np.stack([table[name] for name in (*gpus, "silver_4114", "silver_4210r", *phones)])
    prior = learn_prior(known_ms, counts)
    chosen = choose_networks(known_ms, 10, counts, prior=prior)
    for device, published in (("titan_rtx_256", 0.987), ("raspi4", 0.890), ("eyeriss", 0.940)):
        new_ms = table[device]
        predicted, _, _ = fit_transfer(known_ms, chosen, new_ms[chosen], counts, prior=prior).predict(known_ms, counts)
        rest = (new_ms > 0.05 * np.median(new_ms)) & np.isfinite(predicted)
        rest[chosen] = False
        assert rest.sum() > 15_000
        assert spearmanr(predicted[rest], new_ms[rest])[0] > published
