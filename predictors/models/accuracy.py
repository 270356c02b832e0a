"""How right predictions are: the figures that every report of this project uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def accuracy(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """`mape`, `within_5`, `within_10` and `rmspe` of (predicted - measured) / measured, as fractions."""
    error = predicted / measured - 1
    return {
        "mape": float(np.abs(error).mean()),
        "within_5": float((np.abs(error) <= 0.05).mean()),
        "within_10": float((np.abs(error) <= 0.10).mean()),
        "rmspe": float(np.sqrt((error**2).mean())),
    }


def coverage(intervals: Sequence[tuple[float, float]], measured: Sequence[float]) -> float:
    """Share of measured values inside their interval."""
    inside = [low <= value <= high for (low, high), value in zip(intervals, measured, strict=True)]
    return float(np.mean(inside))
