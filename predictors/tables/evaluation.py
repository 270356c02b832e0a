"""How right a predictor learned from a table is: on the rows of a table, or on parts of it that were left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.optimize import nnls
from scipy.stats import kendalltau, spearmanr

from ...errors import InvalidInput
from ...kernels.costs import macs
from ...kernels.kernel import Kernel
from ..models.accuracy import accuracy, coverage
from ..models.kernel_model import KernelModel
from ..models.predictor import Predictor
from ..models.sum_terms import kernel_terms
from ..networks.named import named_network
from .imported import OnProgress, predict_operators
from .latency_rows import Fields, read_rows
from .sums import SumData, SumFit, TimedNetwork

Split = Literal["family", "random"]
FOLDS = 5
WIDER = 0.2


@dataclass(frozen=True)
class TableRow:
    """One row: what was predicted, with its 90 % interval, and what the table says, in milliseconds."""

    name: str
    family: str
    predicted_ms: float
    interval_ms: tuple[float, float]
    measured_ms: float
    uncovered: float

    @property
    def error(self) -> float:
        """Signed relative error, a fraction."""
        return self.predicted_ms / self.measured_ms - 1


def predict_table(
    predictor: Predictor, paths: Sequence[Path], fields: Fields, on_progress: OnProgress = lambda *_: None
) -> list[TableRow]:
    """Predict every network of tables; raises InvalidInput as an import of them would."""
    found: list[TableRow] = []
    for path in paths:
        for row in read_rows(path, fields):
            on_progress("predicting", len(found), 0)
            try:
                uses = named_network(row.network, path.parent)
            except InvalidInput as error:
                raise InvalidInput(f"{row.place}: {error.message}", error.remedy) from error
            prediction = predict_operators(predictor, uses, row.name)
            found.append(
                TableRow(
                    row.name,
                    row.family,
                    prediction.latency_ms,
                    prediction.interval_ms,
                    row.latency_ms,
                    prediction.uncovered,
                )
            )
    if not found:
        raise InvalidInput("The tables have no network with a latency.", "Check --latency.")
    return found


def figures(rows: Sequence[TableRow]) -> dict[str, float]:
    """`accuracy`, `within_20`, rank correlations and interval coverage; correlations need three rows."""
    predicted = np.array([row.predicted_ms for row in rows])
    measured = np.array([row.measured_ms for row in rows])
    found = point_figures(predicted, measured)
    return {**found, "coverage": coverage([row.interval_ms for row in rows], measured.tolist())}


def by_family(rows: Sequence[TableRow]) -> dict[str, dict[str, float]]:
    """`n`, `mape`, `within_5`, `within_10` and more of each family."""
    families: dict[str, list[TableRow]] = defaultdict(list)
    for row in rows:
        families[row.family].append(row)
    return {family: {"n": len(members), **figures(members)} for family, members in sorted(families.items())}


def evaluate_split(
    networks: Sequence[TimedNetwork],
    split: Split,
    profiled: KernelModel | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> tuple[list[TableRow], dict[str, dict[str, float]]]:
    """Learn from a part of the networks, predict the rest, for every part in turn; and what baselines make of it.

    `family` leaves out one family at a time, `random` a fifth. What is chosen in learning is chosen without the part
    that is left out. The baselines are a non-negative linear model of counts, multiply-accumulates and elements by
    operator and window, and multiply-accumulates alone; their figures are means over the parts, like `mean` of ours.
    """
    data = SumData(networks, profiled)
    parts = _parts(networks, split)
    found: list[TableRow] = []
    scores: dict[str, list[dict[str, float]]] = defaultdict(list)
    for i, (name, part) in enumerate(parts.items()):
        on_progress(f"leaving out: {name}", i, len(parts))
        rest = np.setdiff1d(np.arange(len(networks)), part)
        others, left_out = [networks[j] for j in rest], [networks[j] for j in part]
        rows = _predicted(data.fit(rest), left_out)
        found += rows
        measured = np.array([network.latency_ms for network in left_out])
        scores["mean"].append(figures(rows))
        for baseline, predict in _BASELINES.items():
            scores[baseline].append(point_figures(predict(others, left_out), measured))
    means = {
        name: {key: float(np.mean([each[key] for each in parts_ if key in each])) for key in parts_[0]}
        for name, parts_ in scores.items()
    }
    return found, means


def _parts(networks: Sequence[TimedNetwork], split: Split) -> dict[str, list[int]]:
    if split == "random":
        order = np.random.default_rng(0).permutation(len(networks)).tolist()
        return {f"part {i + 1}": order[i::FOLDS] for i in range(FOLDS)}
    parts: dict[str, list[int]] = defaultdict(list)
    for i, network in enumerate(networks):
        parts[network.family].append(i)
    if len(parts) < 2:
        raise InvalidInput("The tables have a single family.", "Use --split random, or name the column with --family.")
    return parts


def _predicted(fit: SumFit, left_out: Sequence[TimedNetwork]) -> list[TableRow]:
    predictor = Predictor("", "", fit.model, fit.correction)
    found = []
    for network in left_out:
        kernels = network.kernels[fit.model.fusion]
        prediction = predictor.predict([kernel for kernel, times in kernels.items() for _ in range(times)], "")
        found.append(
            TableRow(
                network.name,
                network.family,
                prediction.latency_ms,
                prediction.interval_ms,
                network.latency_ms,
                prediction.uncovered,
            )
        )
    return found


def point_figures(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """`figures` without intervals, of (rows,) and (rows,) milliseconds."""
    error = np.abs(predicted / measured - 1)
    found = {**accuracy(predicted, measured), "within_20": float((error <= WIDER).mean())}
    if len(predicted) > 2 and np.ptp(predicted) > 0 and np.ptp(measured) > 0:
        found["spearman"] = float(spearmanr(predicted, measured).statistic)
        found["kendall"] = float(kendalltau(predicted, measured).statistic)
    return found


def _linear(rest: Sequence[TimedNetwork], left_out: Sequence[TimedNetwork]) -> np.ndarray:
    """Non-negative least squares of the relative error on counts, products and elements of each kind of operator."""
    positions: dict[tuple[str, str], int] = {}
    tables = [[_features(_kernels(network)) for network in part] for part in (rest, left_out)]
    for features in tables[0]:
        for key in features:
            positions.setdefault(key, len(positions))
    known, asked = (np.array([[features.get(key, 0.0) for key in positions] for features in table]) for table in tables)
    relative = known / np.array([network.latency_ms for network in rest])[:, None]
    scale = np.maximum(relative.max(axis=0), 1e-300)
    solution, _ = nnls(relative / scale, np.ones(len(rest)), maxiter=50 * len(scale))
    return np.asarray(np.maximum(asked @ (solution / scale), 1e-9))


def _kernels(network: TimedNetwork) -> Mapping[Kernel, int]:
    return next(iter(network.kernels.values()))


def _features(kernels: Mapping[Kernel, int]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = defaultdict(float)
    for kernel, times in kernels.items():
        terms = kernel_terms(kernel)
        if terms is None:
            continue
        for term in ("calls", "macs", "weights", "elements", "inputs", "outputs"):
            if amount := terms.own.get(term, 0.0):
                owner = terms.path if term in ("calls", "macs") else "*"
                found[owner, term] += times * amount
    return found


def _macs_alone(rest: Sequence[TimedNetwork], left_out: Sequence[TimedNetwork]) -> np.ndarray:
    """Proportional to multiply-accumulates, by the median ratio."""

    def work(networks: Sequence[TimedNetwork]) -> np.ndarray:
        totals = [sum(times * macs(k) for k, times in _kernels(n).items()) for n in networks]
        return np.asarray(np.maximum(np.array(totals, float), 1.0))

    ratio = np.median(np.array([network.latency_ms for network in rest]) / work(rest))
    return np.asarray(work(left_out) * ratio)


_BASELINES: dict[str, Callable[[Sequence[TimedNetwork], Sequence[TimedNetwork]], np.ndarray]] = {
    "linear": _linear,
    "macs": _macs_alone,
}
