"""Latency of kernels: for each path of the runtime a physics fit, corrected by a tree ensemble."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from ...kernels.costs import is_view
from ...kernels.kernel import Kernel
from .features import tree_features
from .forest import Forest, fit_forest
from .physics import SIMPLE_TERMS, TERMS, family, path, physics_terms

MIN_FOREST_SAMPLES = 12
"""A path with fewer measured kernels is left to its physics."""
MIN_PHYSICS_SAMPLES = 6
"""A path with fewer takes the physics of its family, times a factor."""
FLOOR_MS = 2e-4
"""Shorter kernels cannot be told from an empty session: 0.2 microseconds, a tenth of a node's dispatch."""
ANY_PATH = "*"
UNKNOWN_SPREAD = 0.5
"""Disagreement (in logarithms) that is assumed of a family's physics."""
_SIMPLE = np.isin(TERMS, tuple(SIMPLE_TERMS))


@dataclass(frozen=True)
class PathModel:
    """Model of one path: latency = `coefficients` . terms x exp(forest), then `scale` x latency + `offset_ms`.

    `samples` kernels were measured; scale and offset adapt the model of one target to another. `spread` is the
    disagreement (in logarithms) that is said of a model without a forest.
    """

    coefficients: np.ndarray
    forest: Forest | None
    samples: int
    scale: float = 1.0
    offset_ms: float = 0.0
    spread: float = UNKNOWN_SPREAD

    def predict(self, kernels: Sequence[Kernel], terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(milliseconds, spread), both (kernels,): the spread is the trees' standard deviation in logarithms."""
        physics = np.maximum(terms @ self.coefficients, FLOOR_MS)
        if self.forest is None:
            return self._adapted(physics), np.full(len(kernels), self.spread)
        x = np.stack([tree_features(kernel, ms) for kernel, ms in zip(kernels, physics, strict=True)])
        trees = self.forest.predict_trees(x)
        return self._adapted(physics * np.exp(trees.mean(axis=1))), trees.std(axis=1)

    def _adapted(self, latency_ms: np.ndarray) -> np.ndarray:
        return np.asarray(self.scale * latency_ms + self.offset_ms)


@dataclass(frozen=True)
class KernelPredictions:
    """Arrays (kernels,): milliseconds, disagreement of the ensemble in logarithms, whether the path had data."""

    latency_ms: np.ndarray
    spread: np.ndarray
    covered: np.ndarray


@dataclass(frozen=True)
class KernelModel:
    """Models by path. A kernel of a path without data is left to the physics of its family, else to the path `*`."""

    paths: dict[str, PathModel]

    def predict(self, kernels: Sequence[Kernel]) -> KernelPredictions:
        """Predict isolated kernels; views cost nothing here, as inside a network they move nothing."""
        found = KernelPredictions(np.zeros(len(kernels)), np.zeros(len(kernels)), np.ones(len(kernels), bool))
        by_model: dict[str, list[int]] = defaultdict(list)
        for i, kernel in enumerate(kernels):
            if not is_view(kernel):  # the correction counts its dispatch
                name = path(kernel)
                found.covered[i] = name in self.paths
                names = (name, family(kernel), ANY_PATH)
                by_model[next(name for name in names if name in self.paths)].append(i)
        for name, indices in by_model.items():
            chosen = [kernels[i] for i in indices]
            terms = np.stack([physics_terms(kernel) for kernel in chosen])
            found.latency_ms[indices], found.spread[indices] = self.paths[name].predict(chosen, terms)
        return found


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
    paths = {ANY_PATH: PathModel(fit_physics(terms * _SIMPLE, latency_ms), None, len(kernels))}
    by_family: dict[str, list[int]] = defaultdict(list)
    by_path: dict[str, list[int]] = defaultdict(list)
    for i, kernel in enumerate(kernels):
        by_family[family(kernel)].append(i)
        by_path[path(kernel)].append(i)
    for name, indices in sorted(by_family.items()):
        paths[name] = PathModel(fit_physics(terms[indices] * _SIMPLE, latency_ms[indices]), None, len(indices))
    for name, indices in sorted(by_path.items()):
        prior = paths[family(kernels[indices[0]])].coefficients
        chosen = [kernels[i] for i in indices]
        paths[name] = _fit_path(chosen, terms[indices], latency_ms[indices], prior, seed)
    return KernelModel(paths)


def _fit_path(
    kernels: Sequence[Kernel], terms: np.ndarray, latency_ms: np.ndarray, prior: np.ndarray, seed: int
) -> PathModel:
    if len(kernels) < MIN_PHYSICS_SAMPLES:
        ratios = np.log(latency_ms / np.maximum(terms @ prior, FLOOR_MS))
        # One more kernel of exactly the family's latency, so that a single odd one does not rule.
        factor = math.exp(ratios.sum() / (len(kernels) + 1))
        return PathModel(prior * factor, None, len(kernels), spread=UNKNOWN_SPREAD / (len(kernels) + 1))
    coefficients = fit_physics(terms, latency_ms)
    physics = np.maximum(terms @ coefficients, FLOOR_MS)
    if len(kernels) < MIN_FOREST_SAMPLES:
        spread = float(np.sqrt((np.log(latency_ms / physics) ** 2).mean()))
        return PathModel(coefficients, None, len(kernels), spread=spread)
    x = np.stack([tree_features(kernel, ms) for kernel, ms in zip(kernels, physics, strict=True)])
    return PathModel(coefficients, fit_forest(x, np.log(latency_ms / physics), seed=seed), len(kernels))
