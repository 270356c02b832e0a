"""Q-T score: how good and how fast the INT8 subnets of a space are, without training it (SpaceEvo, section 3.2).

For every constraint T, `p` is the share of subnets that meet it and `quality` the mean NSR of the best of those;
    score = sum over T of 1 / (L * quality),  L = max(1, (t / p)^alpha),
with p floored at 1e-5 in L, and nothing for a T with p = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ...spaces.space import Space
from .score_tables import ScoreTables, space_cells

FEASIBLE_SHARE = 0.08
"""t of the paper: a space with fewer subnets than this share under the constraint is penalised."""
PENALTY_EXPONENT = 0.01
LEAST_SHARE = 1e-5
BEST_MASS = 5e-4
"""Share of all subnets whose mean NSR is the quality: the paper's best 50 of 100 000."""
BEST_SAMPLES = 50

ScoreKind = Literal["exact", "montecarlo"]


@dataclass(frozen=True)
class SpaceScore:
    """Score of one space: `p` (feasible share) and `quality` (mean NSR of the best, lower is better) per constraint."""

    score: float
    p: tuple[float, ...]
    quality: tuple[float, ...]


class Scorer(Protocol):
    """Scores spaces of one hyperspace; equal spaces get equal scores."""

    tables: ScoreTables
    constraints_ms: tuple[float, ...]

    def score(self, space: Space) -> SpaceScore:
        """Score of a space."""
        ...


def combined(p: Sequence[float], quality: Sequence[float]) -> SpaceScore:
    """The score of a space with these shares and qualities, one for each constraint."""
    total = 0.0
    for share, nsr in zip(p, quality, strict=True):
        if share > 0:
            penalty = max(1.0, (FEASIBLE_SHARE / max(share, LEAST_SHARE)) ** PENALTY_EXPONENT)
            total += 1 / (penalty * nsr)
    return SpaceScore(total, tuple(p), tuple(quality))


class MonteCarloScorer:
    """The paper's score: random subnets, and of those that meet a constraint the best 50, however many were drawn.

    Every space is scored with the same random numbers, so that two spaces differ by their rows, not by luck. `samples`
    are divided among the resolutions.
    """

    def __init__(
        self, tables: ScoreTables, constraints_ms: Sequence[float], *, samples: int = 100_000, seed: int = 0
    ) -> None:
        self.tables = tables
        self.constraints_ms = tuple(constraints_ms)
        each = -(-samples // len(tables.resolutions))
        shape = (len(tables.resolutions), len(tables.stages) + 1, each)
        self._uniform = np.random.default_rng(seed).random(shape)

    def score(self, space: Space) -> SpaceScore:
        """Score of a space."""
        latency_ms, nsr = self.sample(space)
        shares, qualities = [], []
        for constraint_ms in self.constraints_ms:
            feasible = nsr[latency_ms <= constraint_ms]
            shares.append(len(feasible) / len(nsr))
            if len(feasible) > BEST_SAMPLES:
                feasible = np.partition(feasible, BEST_SAMPLES - 1)[:BEST_SAMPLES]
            qualities.append(float(feasible.mean()) if len(feasible) else float("inf"))
        return combined(shares, qualities)

    def sample(self, space: Space) -> tuple[np.ndarray, np.ndarray]:
        """(latency_ms, nsr), both (samples,), of random subnets."""
        draws = [self._draw(space, i) for i in range(len(self.tables.resolutions))]
        latency_ms, nsr = (np.concatenate(part) for part in zip(*draws, strict=True))
        return latency_ms, nsr

    def _draw(self, space: Space, i: int) -> tuple[np.ndarray, np.ndarray]:
        """(latency_ms, nsr), both (samples,), of random subnets at the `i`-th resolution."""
        tables, uniform, resolution = self.tables, self._uniform[i], self.tables.resolutions[i]
        width = (uniform[0] * tables.widths[0]).astype(np.intp)
        latency_ms = tables.before_ms(resolution)[width]
        nsr = np.zeros(len(width))
        for number, cell in zip(uniform[1:], space_cells(tables, space, resolution), strict=True):
            rows = tables.rows(cell)
            row = (number * len(rows.nsr)).astype(np.intp)
            latency_ms += rows.ms[width, row] if len(rows.ms) > 1 else rows.ms[0][row]
            nsr += rows.nsr[row]
            width = rows.last[row]
        return latency_ms + tables.behind_ms(resolution)[width], nsr
