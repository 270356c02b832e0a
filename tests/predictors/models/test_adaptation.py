"""A few kernels of a new target bend the model of a known one."""

import numpy as np
import pytest

from milliseek.predictors.models.adaptation import adapt
from milliseek.predictors.models.kernel_model import fit_kernel_model
from milliseek.predictors.models.physics import family


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


def test_small_kernels_may_gain_less_than_large_ones(known, kernels):
    """As they do from threads: each waits a little for the others."""
    adapted = adapt(known, kernels, np.array([0.5 * known_ms(kernel) + 0.002 for kernel in kernels]))
    assert adapted.paths["QLinearConv:uint8:pointwise"].offset_ms == pytest.approx(0.002, rel=0.3)
    assert adapted.predict(kernels).latency_ms == pytest.approx(
        [0.5 * known_ms(kernel) + 0.002 for kernel in kernels], rel=0.08
    )


def test_a_path_that_was_not_measured_follows_its_like(known, kernels, sums):
    """Threads help kernels that multiply; those that do not may stay as they are."""
    measured = np.array([*(0.5 * known_ms(kernel) for kernel in kernels), *(known_ms(kernel) for kernel in sums)])
    adapted = adapt(known, [*kernels, *sums], measured)
    assert adapted.paths[family(kernels[0])].scale == pytest.approx(0.5, rel=0.2)
    assert adapted.paths[family(sums[0])].scale == pytest.approx(1.0, rel=0.2)


def test_odd_visits_do_not_rule(known, kernels):
    measured = np.array([2 * known_ms(kernel) for kernel in kernels])
    measured[::6] *= 3
    adapted = adapt(known, kernels, measured)
    assert adapted.predict(kernels).latency_ms == pytest.approx([2 * known_ms(k) for k in kernels], rel=0.08)


def test_adapting_twice_is_adapting_to_the_last(known, kernels):
    once = adapt(known, kernels, np.array([2 * known_ms(kernel) for kernel in kernels]))
    back = adapt(once, kernels, np.array([known_ms(kernel) for kernel in kernels]))
    assert back.predict(kernels).latency_ms == pytest.approx([known_ms(k) for k in kernels], rel=0.05)
