"""From whole networks and their latencies to a predictor of kernels, and how right it is on families it never saw."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InvalidInput
from ...kernels.kernel import Kernel, KernelUse
from ...kernels.operators.fusion import FUSIONS, Fusion, fused
from ..models.accuracy import accuracy
from ..models.correction import SPREAD_FLOOR, Correction, conformal_width
from ..models.kernel_model import KernelModel
from ..models.sum_model import PENALTIES, Amounts, Penalties, SumModel, network_amounts, solve

MIN_NETWORKS = 10
MIN_FAMILIES, MAX_FOLDS = 3, 10
RANDOM_FOLDS = 5
MAX_ERROR = 0.3
"""Relative errors beyond this are equally bad when settings are compared."""

OnProgress = Callable[[str, float, float], None]


@dataclass(frozen=True)
class TimedNetwork:
    """A network as a table has it: what each fusion makes of it (kernel and how often), and its latency."""

    name: str
    family: str
    kernels: Mapping[Fusion, Mapping[Kernel, int]]
    latency_ms: float

    @classmethod
    def of(
        cls, name: str, family: str, uses: Sequence[KernelUse], latency_ms: float, fusions: Sequence[Fusion] = FUSIONS
    ) -> TimedNetwork:
        """From the unfused operators of a network."""
        return cls(name, family, {fusion: Counter(fused(uses, fusion)) for fusion in fusions}, latency_ms)


@dataclass(frozen=True)
class SumFit:
    """What was learned: the model, its correction (which only gives the interval), and every network left out in turn.

    `left_out_ms` (networks,): each predicted without its family, or without its fifth where families are few.
    """

    model: SumModel
    correction: Correction
    left_out_ms: np.ndarray
    penalties: Penalties


def fit_sums(
    networks: Sequence[TimedNetwork],
    profiled: KernelModel | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> SumFit:
    """Learn from networks, and from a model of single kernels that were `profiled` there or on a like device.

    Fusion, of those that the networks come in, and penalties are those that do best on families left out. Raises
    InvalidInput for too few networks.
    """
    return SumData(networks, profiled).fit(on_progress=on_progress)


class SumData:
    """Networks in columns, once for each way of fusing, to be learned from as a whole or in part."""

    def __init__(self, networks: Sequence[TimedNetwork], profiled: KernelModel | None = None) -> None:
        self.networks = networks
        self._profiled = profiled
        self._latency_ms = np.array([network.latency_ms for network in networks])
        self._amounts = {
            fusion: network_amounts([network.kernels[fusion] for network in networks], self._profiled)
            for fusion in (networks[0].kernels if networks else ())
        }

    def fit(self, chosen: np.ndarray | None = None, on_progress: OnProgress = lambda *_: None) -> SumFit:
        """Learn from the networks with these numbers, all if None; raises InvalidInput for too few."""
        numbers = np.arange(len(self.networks)) if chosen is None else chosen
        if len(numbers) < MIN_NETWORKS:
            raise InvalidInput(
                f"There are {len(numbers)} networks; {MIN_NETWORKS} are needed to learn the costs of kernels.",
                "Give a longer table, or learn from other devices: --from-devices A,B,C.",
            )
        folds = _folds([self.networks[i].family for i in numbers.tolist()])
        measured_ms = self._latency_ms[numbers]
        best: tuple[float, Fusion, Penalties, np.ndarray, np.ndarray] | None = None
        choices = [(fusion, penalties) for fusion in self._amounts for penalties in PENALTIES]
        for i, (fusion, penalties) in enumerate(choices):
            on_progress("learning from sums", i, len(choices))
            left_out_ms, without = self._left_out(fusion, penalties, numbers, folds)
            errors = np.abs(left_out_ms / measured_ms - 1)
            # A family counts as one, however many networks it has.
            loss = float(np.mean([np.minimum(errors[fold], MAX_ERROR).mean() for fold in folds]))
            if best is None or loss < best[0]:
                best = loss, fusion, penalties, left_out_ms, without
        assert best is not None
        _, fusion, penalties, left_out_ms, without = best
        whole = self._solve(fusion, penalties, numbers)
        model = SumModel(self._amounts[fusion].columns, np.vstack([whole, without]), fusion, self._profiled)
        networks = [self.networks[i] for i in numbers.tolist()]
        return SumFit(model, _correction(model, networks, left_out_ms), left_out_ms, penalties)

    def _solve(self, fusion: Fusion, penalties: Penalties, numbers: np.ndarray) -> np.ndarray:
        """Coefficients (columns,) from the networks with these numbers."""
        amounts = self._amounts[fusion]
        return solve(Amounts(amounts.columns, amounts.matrix[numbers]), self._latency_ms[numbers], penalties)

    def _left_out(
        self, fusion: Fusion, penalties: Penalties, numbers: np.ndarray, folds: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(milliseconds of each network predicted without its fold, coefficients (folds, columns))."""
        predicted = np.zeros(len(numbers))
        found = []
        for fold in folds:
            coefficients = self._solve(fusion, penalties, np.delete(numbers, fold))
            predicted[fold] = self._amounts[fusion].matrix[numbers[fold]] @ coefficients
            found.append(coefficients)
        return np.maximum(predicted, 1e-9), np.stack(found)


def _folds(families: Sequence[str]) -> list[np.ndarray]:
    """Positions of each family, or of several where there are many; of every fifth network where there are too few."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, family in enumerate(families):
        members[family].append(i)
    if len(members) < MIN_FAMILIES:
        order = np.random.default_rng(0).permutation(len(families))
        return [order[i::RANDOM_FOLDS] for i in range(RANDOM_FOLDS)]
    folds: list[list[int]] = [[] for _ in range(min(MAX_FOLDS, len(members)))]
    for positions in sorted(members.values(), key=len, reverse=True):
        min(folds, key=len).extend(positions)
    return [np.array(sorted(fold)) for fold in folds]


def _correction(model: SumModel, networks: Sequence[TimedNetwork], left_out_ms: np.ndarray) -> Correction:
    """No correction: the sum is what was fitted. The interval is calibrated on the networks left out."""
    unique = list({kernel: None for network in networks for kernel in network.kernels[model.fusion]})
    found = model.predict(unique)
    position = {kernel: i for i, kernel in enumerate(unique)}
    spread = np.zeros(len(networks))
    for i, network in enumerate(networks):
        kernels = network.kernels[model.fusion]
        each_ms = found.latency_ms[chosen := [position[kernel] for kernel in kernels]] * list(kernels.values())
        spread[i] = each_ms @ found.spread[chosen] / max(each_ms.sum(), 1e-12)
    residuals = left_out_ms / np.array([network.latency_ms for network in networks]) - 1
    width = conformal_width(np.abs(np.log1p(residuals)) / (SPREAD_FLOOR + spread))
    return Correction(1.0, 0.0, 0.0, 0.0, width, float(np.median(spread)))


def held_out_summary(fit: SumFit, networks: Sequence[TimedNetwork]) -> dict[str, Any]:
    """What the database keeps of how right a predictor is, as JSON's types."""
    measured_ms = np.array([network.latency_ms for network in networks])
    return {
        "networks": {"networks": len(networks), **accuracy(fit.left_out_ms, measured_ms)},
        "fusion": fit.model.fusion,
        "families": len({network.family for network in networks}),
    }
