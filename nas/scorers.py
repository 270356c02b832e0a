"""Which scorer a study uses, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..spaces.space import Space
from .exact_score import ExactScorer
from .score import MonteCarloScorer, ScoreKind, Scorer, SpaceScore
from .score_tables import ScoreTables


def make_scorer(
    kind: ScoreKind, tables: ScoreTables, constraints_ms: Sequence[float], *, samples: int, seed: int
) -> Scorer:
    """The scorer of that kind; `samples` and `seed` are Monte Carlo's."""
    if kind == "exact":
        return ExactScorer(tables, constraints_ms)
    return MonteCarloScorer(tables, constraints_ms, samples=samples, seed=seed)


class TimedScorer:
    """A scorer that knows how many `seconds` it has spent scoring."""

    def __init__(self, scorer: Scorer) -> None:
        self.tables = scorer.tables
        self.constraints_ms = scorer.constraints_ms
        self.seconds = 0.0
        self._scorer = scorer

    def score(self, space: Space) -> SpaceScore:
        """Score of a space."""
        started = time.perf_counter()
        result = self._scorer.score(space)
        self.seconds += time.perf_counter() - started
        return result
