"""A few kernels of a new target bend the model of a known one."""

from collections import Counter
from functools import partial

import numpy as np
import pytest

from milliseek.devices.target import parse
from milliseek.predictors.adaptation import BENDS, adapt, bend
from milliseek.predictors.fitting import CalibrationNetwork, fit_predictor
from milliseek.predictors.kernel_model import fit_kernel_model
from milliseek.predictors.targets import LocalTarget


@pytest.fixture(scope="module")
def kernels(make):
    return [make.qconv(cin, cout, hw) for cin in (8, 24, 40, 64) for cout in (16, 32, 72) for hw in (7, 14, 28)]


@pytest.fixture(scope="module")
def sums(make):
    return [make.add(channels, hw) for channels in (8, 32, 128) for hw in (7, 14, 28)]


def known_ms(kernel):
    out = kernel.outputs[0]
    return 0.002 + out.size * (1e-5 if kernel.filter is not None else 2e-6)


@pytest.fixture(scope="module")
def known(kernels, sums):
    every = [*kernels, *sums]
    return fit_kernel_model(every, np.array([known_ms(kernel) for kernel in every]))


def test_one_factor_is_found_from_few_kernels_and_holds_for_all(known, kernels, sums):
    few = kernels[::4]
    adapted = adapt(known, few, np.array([1.7 * known_ms(kernel) for kernel in few]))
    assert adapted.predict(sums).latency_ms / known.predict(sums).latency_ms == pytest.approx(1.7, rel=0.05)


def test_a_path_has_a_factor_of_its_own(known, kernels, sums):
    measured = np.array([*(1.5 * known_ms(kernel) for kernel in kernels), *(0.8 * known_ms(kernel) for kernel in sums)])
    adapted = adapt(known, [*kernels, *sums], measured)
    assert adapted.predict(kernels).latency_ms / known.predict(kernels).latency_ms == pytest.approx(1.5, rel=0.06)
    ratio = np.median(adapted.predict(sums).latency_ms / known.predict(sums).latency_ms)
    assert 0.8 <= ratio <= 1.05, "nine kernels count against the prior of three"


def test_large_kernels_may_gain_more_than_small_ones(known, kernels):
    """As they do from threads: latency to the power of 0.8."""
    adapted = adapt(known, kernels, np.array([known_ms(kernel) ** 0.8 for kernel in kernels]))
    assert adapted.paths["QLinearConv:uint8:pointwise"].exponent == pytest.approx(0.8, abs=0.03)
    assert adapted.predict(kernels).latency_ms == pytest.approx([known_ms(k) ** 0.8 for k in kernels], rel=0.08)


def test_adapting_twice_is_adapting_to_the_last(known, kernels):
    once = adapt(known, kernels, np.array([2 * known_ms(kernel) for kernel in kernels]))
    back = adapt(once, kernels, np.array([known_ms(kernel) for kernel in kernels]))
    assert back.predict(kernels).latency_ms == pytest.approx([known_ms(k) for k in kernels], rel=0.05)


def test_a_bent_model_spreads_large_and_small_kernels(known, kernels):
    bent = bend(known, 1.2)
    assert bent.predict(kernels).latency_ms == pytest.approx(known.predict(kernels).latency_ms ** 1.2)
    assert bend(bent, 1 / 1.2).predict(kernels).latency_ms == pytest.approx(known.predict(kernels).latency_ms)


def test_whole_networks_tell_what_isolated_kernels_do_not(known, kernels):
    """Alone, every kernel of the new target takes what the known one's does; inside networks small ones gain."""
    target = LocalTarget(parse("board/onnxruntime/int8/2t"), 1, "1.0", 8)
    inside = {kernel: known_ms(kernel) ** 1.15 for kernel in kernels}
    rng = np.random.default_rng(0)
    networks = []
    for i in range(12):
        chosen = tuple(kernels[j] for j in rng.integers(0, len(kernels), 3 + 4 * i))
        networks.append(CalibrationNetwork(f"n{i}", f"f{i}", chosen, (sum(inside[kernel] for kernel in chosen),)))
    measured = {kernel: known_ms(kernel) for kernel in kernels}
    uses = Counter(dict.fromkeys(kernels, 100))
    plain, bent = (
        fit_predictor(target, measured, networks, uses, (), partial(adapt, known), bends)[1]["networks"]
        for bends in ((1.0,), BENDS)
    )
    assert bent["mape"] < 0.5 * plain["mape"]
