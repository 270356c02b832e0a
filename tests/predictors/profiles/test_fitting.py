"""What a fit is estimated on: networks that it did not see."""

from __future__ import annotations

from collections import Counter

from milliseek.predictors.models.kernel_model import fit_kernel_model
from milliseek.predictors.profiles.fitting import FOLDS, CalibrationNetwork, _unseen_sums


def test_a_network_is_predicted_without_the_kernels_that_only_its_fold_has(make):
    """Also where the pool, which tells how many networks have a kernel, lacks the networks themselves."""
    shared, *own = [make.qconv(8 * c, 8 * c, 14) for c in range(1, FOLDS + 2)]
    networks = [CalibrationNetwork(f"n{i}", f"family{i}", (shared, kernel), (1.0,)) for i, kernel in enumerate(own)]
    filler = [make.qconv(16, 8 * c, 7) for c in range(1, 9)]
    train = dict.fromkeys((shared, *own, *filler), 1.0)
    fitted_on: list[set] = []

    def fit(kernels, latency_ms):
        fitted_on.append(set(kernels))
        return fit_kernel_model(kernels, latency_ms)

    assert len(_unseen_sums(fit, train, networks, Counter())) == FOLDS
    assert len(fitted_on) == FOLDS
    for kernels in fitted_on:
        assert shared in kernels
        assert len(set(own) - kernels) == 1
    fitted_on.clear()
    _unseen_sums(fit, train, networks, Counter(dict.fromkeys(own, 2)))
    assert all(set(own) <= kernels for kernels in fitted_on), "networks of the pool have them as well"
