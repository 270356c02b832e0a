"""From kernels to a network: the sum is corrected, and every answer gets an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from ...kernels.costs import input_bytes, is_view, macs, output_bytes, weight_bytes
from ...kernels.kernel import Kernel
from .kernel_model import KernelPredictions

COVERAGE = 0.9
"""Share of networks whose latency lies in the interval."""
MIN_NETWORKS = 4
SPREAD_FLOOR = 0.02
"""What whole networks scatter by (in logarithms) although every kernel is known."""
PULL, PULL_ADAPTED = 0.05, 0.2
"""How strongly the coefficients are drawn to "the sum of the kernels, nothing else", which keeps small samples from
trading one for another; more where a known target was adapted, whose kernels and networks are few."""
REWEIGHTINGS = 12
SMALL_ERROR = 0.01
"""Relative errors below this weigh alike."""


@dataclass(frozen=True)
class NetworkSum:
    """A network as the correction sees it.

    The sum of its kernels, the number of nodes, megabytes of weights, and megabytes of activations that pass through
    kernels that multiply nothing (`moved_mb`); and how much the kernel model disagrees with itself: the mean
    disagreement (in logarithms) of its kernels, weighted by their milliseconds.
    """

    kernels_ms: float
    nodes: int
    weight_mb: float
    moved_mb: float
    spread: float

    @classmethod
    def of(cls, predicted: KernelPredictions, kernels: Sequence[Kernel], times: Sequence[int]) -> NetworkSum:
        """The sum over distinct kernels, uncorrected, each executed so many times."""
        executed = np.array(times, float)
        terms = kernel_terms(predicted.latency_ms, kernels)
        kernels_ms, nodes, weight_mb, moved_mb = map(float, executed @ terms)
        spread = float(executed @ (predicted.latency_ms * predicted.spread)) / max(kernels_ms, 1e-12)
        return cls(kernels_ms, round(nodes), weight_mb, moved_mb, spread)

    def terms(self) -> np.ndarray:
        """(4,): what a, b, c and d multiply."""
        return np.array([self.kernels_ms, self.nodes, self.weight_mb, self.moved_mb])


def kernel_terms(latency_ms: np.ndarray, kernels: Sequence[Kernel]) -> np.ndarray:
    """(kernels, 4): each kernel's part of the terms of a network, from its uncorrected milliseconds (kernels,)."""
    weight_mb = np.array([weight_bytes(kernel) for kernel in kernels]) / 1e6
    moved_mb = np.array([_moved_bytes(kernel) for kernel in kernels]) / 1e6
    return np.column_stack([latency_ms, np.ones(len(kernels)), weight_mb, moved_mb])


def _moved_bytes(kernel: Kernel) -> int:
    return 0 if macs(kernel) or is_view(kernel) else input_bytes(kernel) + output_bytes(kernel)


@dataclass(frozen=True)
class Correction:
    """latency = a * sum of kernels + b * nodes + c * megabytes of weights + d * megabytes moved; all non-negative.

    Isolated kernels run with warm caches and without the runtime's work between nodes: a, b, c and d give that
    back. `interval` = (below, above): 90 % of networks lie within [(1 - below), (1 + above)] x prediction
    (split-conformal on leave-one-out residuals, Vovk et al. 2005).
    """

    a: float
    b: float
    c: float
    d: float
    width: float
    usual_spread: float
    residuals: tuple[float, ...] = ()

    def latency_ms(self, network: NetworkSum) -> float:
        """Corrected milliseconds."""
        return float(network.terms() @ self.coefficients)

    @property
    def coefficients(self) -> np.ndarray:
        """(4,): a, b, c and d."""
        return np.array([self.a, self.b, self.c, self.d])

    def half_width(self, spread: float) -> float:
        """Half the interval in logarithms."""
        return self.width * (SPREAD_FLOOR + spread)

    def interval_at(self, spread: float) -> tuple[float, float]:
        """(below, above): 90 % of networks lie within [(1 - below), (1 + above)] x prediction."""
        half = self.half_width(spread)
        return 1 - math.exp(-half), math.exp(half) - 1

    @property
    def interval(self) -> tuple[float, float]:
        """That of a usual network."""
        return self.interval_at(self.usual_spread)


def fit_correction(
    networks: Sequence[NetworkSum],
    unseen: Sequence[NetworkSum],
    visits_ms: Sequence[Sequence[float]],
    pull: float = PULL,
) -> tuple[Correction, list[float]]:
    """Fit a, b, c and d on whole networks, each measured in one or more visits; the lowest visit counts.

    `unseen` are the same networks, their kernels predicted by models that did not see the kernels that only they
    have. Also returned are predictions of each of these by a correction fitted without it, in milliseconds: what the
    accuracy on unseen networks is estimated from, and the interval calibrated on. `residuals` are their relative
    errors.
    """
    if len(networks) < MIN_NETWORKS:
        raise ValueError(f"a correction needs {MIN_NETWORKS} networks, not {len(networks)}")
    terms = np.stack([network.terms() for network in networks])
    measured = np.array([min(visits) for visits in visits_ms])
    a, b, c, d = map(float, _solve(terms, measured, pull))
    left_out = []
    for i, network in enumerate(unseen):
        keep = np.arange(len(networks)) != i
        left_out.append(float(network.terms() @ _solve(terms[keep], measured[keep], pull)))
    residuals = np.array(left_out) / measured - 1
    spread = np.array([network.spread for network in unseen])
    width = conformal_width(np.abs(np.log1p(residuals)) / (SPREAD_FLOOR + spread))
    return Correction(a, b, c, d, width, float(np.median(spread)), tuple(residuals.tolist())), left_out


def conformal_width(scores: np.ndarray) -> float:
    """The score (n,) that 90 % of new ones do not exceed: normalised split-conformal prediction (Lei et al. 2018).

    The k-th smallest score covers k / (n + 1) of what is exchangeable with them; between two of them it is
    interpolated, as two dozen networks would otherwise promise 90 % and cover 93. Where n is too small, the largest.
    """
    ranks = np.arange(1, len(scores) + 1)
    return float(np.interp((len(scores) + 1) * COVERAGE, ranks, np.sort(scores)))


def _solve(terms: np.ndarray, measured: np.ndarray, pull: float) -> np.ndarray:
    """Non-negative coefficients (4,) of the least absolute relative errors, by reweighted least squares.

    Absolute errors, because a few networks are always far off, for reasons that these terms don't know.
    """
    weighted = terms / measured[:, None]
    scale = np.maximum(weighted.max(axis=0), 1e-300)
    drawn = pull * math.sqrt(len(measured)) * np.eye(terms.shape[1])
    towards = np.zeros(terms.shape[1])
    towards[0] = scale[0]
    weights = np.ones(len(measured))
    for _ in range(REWEIGHTINGS):
        system = np.vstack([weighted / scale * weights[:, None], drawn])
        solution, _ = nnls(system, np.concatenate([weights, drawn @ towards]))
        errors = np.abs(weighted / scale @ solution - 1)
        weights = 1 / np.sqrt(np.maximum(errors, SMALL_ERROR))
        weights *= math.sqrt(len(weights) / (weights**2).sum())
    return np.asarray(solution / scale)
