"""From kernels to a network: the sum is corrected, and every answer gets an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from ..kernels.costs import weight_bytes
from ..kernels.kernel import Kernel

COVERAGE = 0.9
"""Share of networks whose latency lies in the interval."""
MIN_NETWORKS = 4


@dataclass(frozen=True)
class NetworkSum:
    """A network as the correction sees it: sum of its kernels, number of nodes, megabytes of weights."""

    kernels_ms: float
    nodes: int
    weight_mb: float

    @classmethod
    def of(cls, latency_ms: np.ndarray, kernels: Sequence[Kernel]) -> NetworkSum:
        """The sum over kernels with uncorrected milliseconds (kernels,)."""
        return cls(float(latency_ms.sum()), len(kernels), sum(map(weight_bytes, kernels)) / 1e6)

    def terms(self) -> np.ndarray:
        """(3,): what a, b and c multiply."""
        return np.array([self.kernels_ms, self.nodes, self.weight_mb])


@dataclass(frozen=True)
class Correction:
    """latency = a * sum of kernels + b * nodes + c * megabytes of weights; all non-negative.

    Isolated kernels run with warm caches and without the runtime's work between nodes: a, b and c give that
    back. `interval` = (below, above): 90 % of networks lie within [(1 - below), (1 + above)] x prediction
    (split-conformal on leave-one-out residuals, Vovk et al. 2005).
    """

    a: float
    b: float
    c: float
    interval: tuple[float, float]
    residuals: tuple[float, ...] = ()

    def latency_ms(self, network: NetworkSum) -> float:
        """Corrected milliseconds."""
        return float(network.terms() @ (self.a, self.b, self.c))


def fit_correction(networks: Sequence[NetworkSum], visits_ms: Sequence[Sequence[float]]) -> Correction:
    """Fit a, b and c on whole networks, each measured in one or more visits; the lowest visit is fitted.

    `residuals` are the leave-one-network-out relative errors against the lowest visits. The interval is calibrated
    against every visit, because whoever checks a prediction compares it with a visit of another day.
    """
    if len(networks) < MIN_NETWORKS:
        raise ValueError(f"a correction needs {MIN_NETWORKS} networks, not {len(networks)}")
    terms = np.stack([network.terms() for network in networks])
    measured = np.array([min(visits) for visits in visits_ms])
    a, b, c = map(float, _solve(terms, measured))
    left_out = []
    for i in range(len(networks)):
        keep = np.arange(len(networks)) != i
        left_out.append(float(terms[i] @ _solve(terms[keep], measured[keep])))
    residuals = tuple(float(error) for error in np.array(left_out) / measured - 1)
    pairs = zip(left_out, visits_ms, strict=True)
    against_visits = [predicted / visit - 1 for predicted, visits in pairs for visit in visits]
    return Correction(a, b, c, conformal_interval(against_visits), residuals)


def conformal_interval(errors: Sequence[float]) -> tuple[float, float]:
    """(below, above) as shares of the prediction, from signed errors (predicted - measured) / measured.

    The 90 % quantile of |log(measured / predicted)| with the finite-sample rank ceil((n + 1) * 0.9), or the largest
    residual where n is too small for it.
    """
    sizes = np.sort(np.abs(np.log1p(np.asarray(errors))))
    rank = min(len(sizes), math.ceil((len(sizes) + 1) * COVERAGE))
    width = float(sizes[rank - 1])
    return 1 - math.exp(-width), math.exp(width) - 1


def _solve(terms: np.ndarray, measured: np.ndarray) -> np.ndarray:
    weighted = terms / measured[:, None]
    scale = np.maximum(weighted.max(axis=0), 1e-300)
    # A faint pull towards "the sum of the kernels, nothing else" keeps small samples from trading a against b.
    pull = 0.05 * math.sqrt(len(measured)) * np.eye(3)
    towards = np.array([1.0, 0.0, 0.0]) * scale
    system = np.vstack([weighted / scale, pull])
    target = np.concatenate([np.ones(len(measured)), pull @ towards])
    solution, _ = nnls(system, target)
    return np.asarray(solution / scale)
