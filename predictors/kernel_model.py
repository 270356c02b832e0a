"""Latency of kernels: for each path of the runtime a physics fit, corrected by a tree ensemble."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from ..kernels.costs import is_view
from ..kernels.kernel import Kernel
from .features import TERMS, path, physics_terms, tree_features
from .forest import Forest, fit_forest

MIN_FOREST_SAMPLES = 12
"""A path with fewer measured kernels is left to its physics."""
FLOOR_MS = 2e-4
"""Shorter kernels cannot be told from an empty session: 0.2 microseconds, a tenth of a node's dispatch."""
ANY_PATH = "*"
_ANY_TERMS = np.isin(TERMS, ("constant", "macs", "input_bytes", "output_bytes", "weight_bytes"))


@dataclass(frozen=True)
class PathModel:
    """Model of one path: latency = `coefficients` . terms x exp(forest); `samples` kernels were measured."""

    coefficients: np.ndarray
    forest: Forest | None
    samples: int

    def predict(self, kernels: Sequence[Kernel], terms: np.ndarray) -> np.ndarray:
        """Milliseconds (kernels,)."""
        physics = np.maximum(terms @ self.coefficients, FLOOR_MS)
        if self.forest is None:
            return np.asarray(physics)
        x = np.stack([tree_features(kernel, ms) for kernel, ms in zip(kernels, physics, strict=True)])
        return np.asarray(physics * np.exp(self.forest.predict(x)))


@dataclass(frozen=True)
class KernelModel:
    """Models by path; the path `*` is the bytes-and-MACs fallback for kernels without data."""

    paths: dict[str, PathModel]

    def predict(self, kernels: Sequence[Kernel]) -> tuple[np.ndarray, np.ndarray]:
        """(milliseconds, covered), both (kernels,); `covered` is False where the fallback answered."""
        latency_ms = np.zeros(len(kernels))
        covered = np.ones(len(kernels), bool)
        by_path: dict[str, list[int]] = defaultdict(list)
        for i, kernel in enumerate(kernels):
            if not is_view(kernel):  # inside a network it moves nothing; the correction counts its dispatch
                by_path[path(kernel)].append(i)
        for name, indices in by_path.items():
            chosen = [kernels[i] for i in indices]
            terms = np.stack([physics_terms(kernel) for kernel in chosen])
            latency_ms[indices] = self.paths.get(name, self.paths[ANY_PATH]).predict(chosen, terms)
            covered[indices] = name in self.paths
        return latency_ms, covered


def fit_physics(terms: np.ndarray, latency_ms: np.ndarray) -> np.ndarray:
    """Non-negative coefficients (terms,) that minimise the squared relative error."""
    weighted = terms / latency_ms[:, None]
    scale = np.maximum(weighted.max(axis=0), 1e-300)
    solution, _ = nnls(weighted / scale, np.ones(len(latency_ms)))
    return np.asarray(solution / scale)


def fit_kernel_model(kernels: Sequence[Kernel], latency_ms: np.ndarray, seed: int = 0) -> KernelModel:
    """Fit all paths that occur among the measured kernels; latencies (kernels,) in milliseconds."""
    latency_ms = np.maximum(latency_ms, FLOOR_MS)
    terms = np.stack([physics_terms(kernel) for kernel in kernels])
    by_path: dict[str, list[int]] = defaultdict(list)
    for i, kernel in enumerate(kernels):
        by_path[path(kernel)].append(i)
    paths = {ANY_PATH: PathModel(fit_physics(terms * _ANY_TERMS, latency_ms), None, len(kernels))}
    for name, indices in sorted(by_path.items()):
        paths[name] = _fit_path([kernels[i] for i in indices], terms[indices], latency_ms[indices], seed)
    return KernelModel(paths)


def _fit_path(kernels: Sequence[Kernel], terms: np.ndarray, latency_ms: np.ndarray, seed: int) -> PathModel:
    coefficients = fit_physics(terms, latency_ms)
    if len(kernels) < MIN_FOREST_SAMPLES:
        return PathModel(coefficients, None, len(kernels))
    physics = np.maximum(terms @ coefficients, FLOOR_MS)
    x = np.stack([tree_features(kernel, ms) for kernel, ms in zip(kernels, physics, strict=True)])
    return PathModel(coefficients, fit_forest(x, np.log(latency_ms / physics), seed=seed), len(kernels))
