"""Which scorer a study uses: its kind, its targets, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from ...spaces.space import Space
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


class SeveralTargets:
    """Scores spaces for several targets at once: the sum of the scores for each of them.

    So score(a) = sum over targets D and constraints T of D of 1 / (L * quality), with p and quality of the subnets that
    meet T on D; `p` and `quality` hold those of the first target's constraints first. `tables` are the first target's.
    """

    def __init__(self, scorers: Mapping[str, Scorer]) -> None:
        self.scorers = tuple(scorers.values())
        self.tables = self.scorers[0].tables
        self.constraints_ms = tuple(ms for scorer in self.scorers for ms in scorer.constraints_ms)

    @classmethod
    def of(cls, scorers: Mapping[str, Scorer]) -> Scorer:
        """The scorer itself where there is but one."""
        return cls(scorers) if len(scorers) > 1 else next(iter(scorers.values()))

    def score(self, space: Space) -> SpaceScore:
        """Score of a space."""
        each = [scorer.score(space) for scorer in self.scorers]
        return SpaceScore(
            sum(result.score for result in each),
            tuple(p for result in each for p in result.p),
            tuple(nsr for result in each for nsr in result.quality),
        )


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
