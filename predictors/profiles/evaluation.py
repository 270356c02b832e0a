"""Predicted against measured: the honest test of a predictor on files it has never seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...db.engine import Database
from ...errors import MeasurementError
from ..conversions import cache_folder
from ..models.accuracy import accuracy, coverage
from ..models.kernel_model import FLOOR_MS
from ..networks.files import PreparedModel, prepare
from ..targets import DeviceTarget, open_device
from .measuring import Measurer

VISITS = 5
MORE_VISITS = 6
"""A network of which every visit was disturbed gets up to so many more."""


@dataclass(frozen=True)
class MeasuredModel:
    """A file measured on a target: the lowest of its undisturbed visits, `FLOOR_MS` at least.

    `disturbed` is True where no visit was quiet: the lowest of all is then given, and is worth less.
    """

    path: str
    latency_ms: float
    visits: int
    disturbed: bool
    notes: tuple[str, ...]


def measure_models(
    database: Database,
    target: DeviceTarget,
    files: Sequence[tuple[str, bytes]],
    *,
    visits: int = VISITS,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[MeasuredModel]:
    """Measure (name, bytes) in rounds, so that the visits of one file lie apart in time; every visit is stored."""
    prepared = [prepare(cache_folder(database), data, target, name) for name, data in files]
    with open_device(database, target) as device:
        measurer = Measurer(database, target, device)
        good: list[list[float]] = [[] for _ in files]
        seen: list[list[float]] = [[] for _ in files]

        def visit(i: int, model: PreparedModel) -> None:
            result = measurer.measure_network(model, files[i][0])
            assert result.latency_ms is not None
            seen[i].append(result.latency_ms)
            if not result.disturbed:
                good[i].append(result.latency_ms)

        for round_ in range(visits + MORE_VISITS):
            for i, model in enumerate(prepared):
                if round_ < visits or not good[i]:
                    visit(i, model)
                    on_progress(round_ * len(files) + i + 1, visits * len(files))
            if round_ >= visits - 1 and all(good):
                break
    return [
        MeasuredModel(name, max(FLOOR_MS, min(good[i] or seen[i])), len(seen[i]), not good[i], prepared[i].notes)
        for i, (name, _) in enumerate(files)
    ]


@dataclass(frozen=True)
class EvaluatedModel:
    """Prediction and measurement of one file; `error` = (predicted - measured) / measured."""

    path: str
    predicted_ms: float
    interval_ms: tuple[float, float]
    measured_ms: float
    uncovered: float
    disturbed: bool
    notes: tuple[str, ...]

    @property
    def error(self) -> float:
        """Signed relative error, a fraction."""
        return self.predicted_ms / self.measured_ms - 1


def summary(models: Sequence[EvaluatedModel]) -> dict[str, float]:
    """`mape`, `within_5`, `within_10`, `rmspe` and interval `coverage` over files, fractions."""
    if not models:
        raise MeasurementError("There is nothing to evaluate.", "Name at least one model file.")
    predicted = np.array([model.predicted_ms for model in models])
    measured = np.array([model.measured_ms for model in models])
    covered = coverage([model.interval_ms for model in models], [model.measured_ms for model in models])
    return {**accuracy(predicted, measured), "coverage": covered}
