"""Top-1 of subnets that have not been run, from those that have."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ...spaces.codes import encode_genes
from ...spaces.counting import count
from ...spaces.space import Subnet


class AccuracyPredictor:
    """A Gaussian process on the genes of subnets and their logarithmic size, fitted on evaluated ones."""

    def __init__(self, subnets: Sequence[Subnet], top1: Sequence[float], seed: int = 0) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        features = _features(subnets)
        length = float(features.shape[1]) ** 0.5
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(length, (length / 10, 100 * length), nu=2.5)
        process = GaussianProcessRegressor(
            kernel + WhiteKernel(0.1, (1e-3, 1.0)), normalize_y=True, n_restarts_optimizer=1, random_state=seed
        )
        self._model = make_pipeline(StandardScaler(), process)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a hyperparameter at its bound is good enough
            self._model.fit(features, np.asarray(top1))

    def __call__(self, subnets: Sequence[Subnet]) -> tuple[np.ndarray, np.ndarray]:
        """Expected top-1 (subnets,) and the standard deviation (subnets,) of that expectation."""
        mean, deviation = self._model.predict(_features(subnets), return_std=True)
        return mean, deviation


def _features(subnets: Sequence[Subnet]) -> np.ndarray:
    """(subnets, features): genes, zeros for absent blocks, and logarithms of multiply-accumulates and parameters."""
    sizes = np.log([count(subnet) for subnet in subnets])
    return np.hstack([encode_genes(subnets).astype(float), sizes])
