"""Costs of kernels learned from whole networks alone: non-negative least squares on amounts that kernels share.

The latency of a network is the sum over its kernels, whose cost is linear in the terms of `sum_terms`. Penalties pull
coefficients towards 0 in proportion to what their unit costs in a network as a whole, so that a term which few networks
have cannot become dear by accident; those of the finer levels, and of what moves data only, are stronger. How strong,
and how the runtime fuses operators, is chosen by leaving out each family of networks in turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import nnls

from ...kernels.kernel import Kernel
from ...kernels.operators.fusion import FUSIONS, Fusion
from .kernel_model import FLOOR_MS, KernelModel, KernelPredictions
from .sum_terms import UNITS, Column, kernel_terms

REWEIGHTINGS = 4
SMALL_ERROR = 0.03
"""Relative errors below this weigh alike."""
UNKNOWN_SPREAD = 0.5
"""Disagreement (in logarithms) that is said of a kernel whose path no network had."""


@dataclass(frozen=True)
class Penalties:
    """Strength of the pull towards 0 by level: shared by all, a group of products, their paths, other groups, paths."""

    shared: float
    group: float
    path: float
    other_group: float
    other_path: float

    def of(self, column: Column) -> float:
        """That of one coefficient."""
        if column.level == 0:
            return self.shared
        if column.is_product:
            return self.group if column.level == 1 else self.path
        return self.other_group if column.level == 1 else self.other_path


PENALTIES = tuple(
    Penalties(min(product, 1e-6), product, 10 * product, other, 10 * other)
    for product, other in ((1e-7, 1e-3), (1e-6, 1e-4), (1e-6, 1e-3), (1e-6, 1e-2), (1e-5, 1e-3), (1e-4, 1e-2))
)
"""The choice; the more networks there are, the less has to be assumed."""


@dataclass(frozen=True)
class Amounts:
    """Networks in columns: `matrix` (networks, columns), dense, in the units of `sum_terms`."""

    columns: tuple[Column, ...]
    matrix: np.ndarray


def network_amounts(networks: Sequence[Mapping[Kernel, int]], profiled: KernelModel | None = None) -> Amounts:
    """Amounts of networks given as kernels and how often each is executed.

    Where single kernels were `profiled` too, what they let expect of a kernel is one more term.
    """
    positions: dict[Column, int] = {}
    described = kernel_columns(list({kernel: None for network in networks for kernel in network}), profiled)
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    for row, network in enumerate(networks):
        totals: dict[Column, float] = defaultdict(float)
        for kernel, times in network.items():
            for column, amount in described[kernel].items():
                totals[column] += times * amount
        for column, amount in totals.items():
            rows.append(row)
            columns.append(positions.setdefault(column, len(positions)))
            values.append(amount)
    matrix = sp.csr_matrix((values, (rows, columns)), shape=(len(networks), len(positions)))
    return Amounts(tuple(positions), matrix.toarray())


def kernel_columns(kernels: Sequence[Kernel], profiled: KernelModel | None = None) -> dict[Kernel, dict[Column, float]]:
    """The amounts of each kernel by column, none for views."""
    found: dict[Kernel, dict[Column, float]] = {}
    expected = profiled.predict(kernels) if profiled is not None else None
    for i, kernel in enumerate(kernels):
        terms = kernel_terms(kernel)
        columns = terms.columns() if terms is not None else {}
        if terms is not None and expected is not None and expected.covered[i]:
            # What its own path would add, the profiled kernels tell better.
            columns = {column: amount for column, amount in columns.items() if column.level < 2}
            columns[Column(0, "*", "profiled")] = columns[Column(1, terms.group, "profiled")] = float(
                expected.latency_ms[i]
            )
        found[kernel] = columns
    return found


def solve(amounts: Amounts, latency_ms: np.ndarray, penalties: Penalties) -> np.ndarray:
    """Non-negative coefficients (columns,), milliseconds a unit, of the smallest relative errors.

    Errors count by their square when small and like their absolute value when large (reweighted least squares). A
    column that no network has gets 0.
    """
    relative = amounts.matrix / latency_ms[:, None]
    usual = relative.mean(axis=0)
    of_unit: dict[str, float] = defaultdict(float)
    for column, amount in zip(amounts.columns, usual, strict=True):
        if column.level < 2:  # a path has no more than its group
            of_unit[UNITS[column.term]] = max(of_unit[UNITS[column.term]], float(amount))
    scale = np.array([max(of_unit[UNITS[column.term]], 1e-300) for column in amounts.columns])
    system = relative / scale
    pull = np.diag([penalties.of(column) for column in amounts.columns]) * len(latency_ms)
    solution, weights = np.zeros(len(scale)), np.ones(len(latency_ms))
    for _ in range(REWEIGHTINGS):
        normal = (system * weights[:, None]).T @ system + pull
        # A drop of everything keeps the triangle regular where columns are copies of each other.
        triangle = np.linalg.cholesky(normal + 1e-10 * np.trace(normal) / len(normal) * np.eye(len(normal)))
        solution, _ = nnls(triangle.T, np.linalg.solve(triangle, system.T @ weights), maxiter=30 * len(normal))
        weights = 1 / np.maximum(np.abs(system @ solution - 1), SMALL_ERROR)
        weights *= len(weights) / weights.sum()
    return np.asarray(np.where(usual > 0, solution / scale, 0.0))


@dataclass(frozen=True)
class SumModel:
    """Costs of kernels, in milliseconds a unit of `columns`.

    `coefficients` (1 + folds, columns), folds >= 1: the first row was fitted to all networks, each other one without
    some of them; how far these disagree about a kernel is its spread. `fusion` is how the runtime fuses operators;
    `profiled` is the model of single kernels, if some were timed.
    """

    columns: tuple[Column, ...]
    coefficients: np.ndarray
    fusion: Fusion
    profiled: KernelModel | None = None

    @property
    def known(self) -> frozenset[str]:
        """Paths and groups that the networks had."""
        return frozenset(column.owner for column in self.columns)

    def predict(self, kernels: Sequence[Kernel]) -> KernelPredictions:
        """Milliseconds of each kernel inside a network; views cost nothing."""
        positions = {column: i for i, column in enumerate(self.columns)}
        known = self.known
        amounts = np.zeros((len(kernels), len(self.columns)))
        covered, views = np.ones(len(kernels), bool), np.zeros(len(kernels), bool)
        described = kernel_columns(kernels, self.profiled)
        for i, kernel in enumerate(kernels):
            columns = described[kernel]
            views[i] = not columns
            covered[i] = not columns or max(columns).owner in known or Column(0, "*", "profiled") in columns
            for column, amount in columns.items():
                if column in positions:
                    amounts[i, positions[column]] = amount
        latencies = np.where(views, 0.0, np.maximum(self.coefficients @ amounts.T, FLOOR_MS))
        spread = (
            np.log(np.maximum(latencies[1:], FLOOR_MS)).std(axis=0) if len(latencies) > 1 else np.zeros(len(kernels))
        )
        spread = np.where(views, 0.0, np.where(covered, spread, np.maximum(spread, UNKNOWN_SPREAD)))
        return KernelPredictions(latencies[0], spread, covered)

    def to_dict(self) -> dict[str, Any]:
        """All but the coefficients, as JSON's types."""
        return {"fusion": self.fusion, "columns": [list(column) for column in self.columns]}

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], coefficients: np.ndarray, profiled: KernelModel | None = None
    ) -> SumModel:
        """Inverse of `to_dict`; raises KeyError, TypeError or ValueError for anything else."""
        columns = tuple(Column(int(level), str(owner), str(term)) for level, owner, term in content["columns"])
        if content["fusion"] not in FUSIONS or any(column.term not in UNITS for column in columns):
            raise ValueError("it fuses or counts something unknown")
        if coefficients.ndim != 2 or len(coefficients) < 2 or coefficients.shape[1] != len(columns):
            raise ValueError("its costs have another shape than its columns")
        if not (np.isfinite(coefficients).all() and (coefficients >= 0).all()):
            raise ValueError("a cost is negative or not finite")
        return cls(columns, coefficients, content["fusion"], profiled)
