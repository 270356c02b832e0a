"""The paper's search: evolution for one latency budget after the other (SpaceEvo, section 3.4)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import partial

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial

from ...errors import InvalidInput
from ..design.evolution import Identity, Params
from ..studies import finished_trials
from .objectives import TOP1, Constraint, Goal, Metric, met
from .subnet_costs import SubnetCosts
from .subnet_sampler import SubnetSampler, metrics_of

WINDOW = 0.85
"""A candidate for budget c has a predicted latency in [WINDOW * c, c]: slower is better as long as it fits."""


class BudgetEvolution(SubnetSampler):
    """Proposes, in turn for every budget, a subnet whose predicted latency just fits it.

    The first `warm_up` proposals of a budget are random subnets of its latency window; later ones are mutations
    and crossovers of those with the best top-1. Candidates are drawn by the hundred, filtered by the latency table and
    by the other constraints, and one that fits is taken. Other objectives than top-1 are recorded only.
    """

    DRAWS = (32, 224)
    """Candidates of a round, drawn until one fits."""
    ROUNDS = 20
    ELITE = 5

    def __init__(
        self,
        costs: SubnetCosts,
        goal: Goal,
        latency: Metric,
        budgets_ms: Sequence[float],
        *,
        warm_up: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(costs, goal, seed)
        self.latency = latency
        self.budgets_ms = tuple(budgets_ms)
        self.warm_up = warm_up

    def budget_of(self, place: int) -> float:
        """Milliseconds that the trial in this place is proposed for."""
        return self.budgets_ms[place % len(self.budgets_ms)]

    def propose(self, study: Study, trial: FrozenTrial, place: int, known: Container[Identity]) -> Params:
        """A subnet that fits the budget of this place."""
        rng = self.generator(place)
        budget_ms = self.budget_of(place)
        window = (Constraint(self.latency, ">=", WINDOW * budget_ms), Constraint(self.latency, "<=", budget_ms))
        finished = [(metrics_of(each, self.goal), dict(each.params)) for each in finished_trials(study)]
        fitting = [each for each in finished if met((*self.goal.cost_constraints, *window), each[0])]
        elite = [params for _, params in sorted(fitting, key=lambda each: -each[0][TOP1])[: self.ELITE]]
        for round_ in range(self.ROUNDS):
            # After a fruitless round with the elite's children, fall back to fresh blood.
            parents = elite if len(fitting) >= self.warm_up and round_ < self.ROUNDS // 2 else []
            found = self.first_fitting(partial(self._candidate, parents, rng), known, self.DRAWS, window)
            if found is not None:
                return found
        return self._nearest(budget_ms, rng)

    def _candidate(self, parents: Sequence[Params], rng: np.random.Generator) -> Params:
        if not parents:
            return self.domain.random(rng)
        parent = parents[int(rng.integers(len(parents)))]
        if len(parents) > 1 and rng.random() < 0.5:
            return self.domain.crossed(parent, parents[int(rng.integers(len(parents)))], rng)
        return self.domain.mutated(parent, rng)

    def _nearest(self, budget_ms: float, rng: np.random.Generator) -> Params:
        """The slowest of many random subnets, and the smallest one, that fits at all."""
        candidates = [self.domain.smallest(), *(self.domain.random(rng) for _ in range(sum(self.DRAWS)))]
        latency_ms = self.costs.of(self.latency, [self.domain.subnet(params) for params in candidates])
        if latency_ms.min() > budget_ms:
            raise InvalidInput(
                f"No subnet of {self.domain.space.encoding} meets {budget_ms:.3g} ms on {self.latency.target}: "
                f"its fastest needs {float(latency_ms.min()):.3g} ms.",
                "Raise the budget.",
            )
        fits = self.fitting(candidates, [Constraint(self.latency, "<=", budget_ms)])
        if not fits:
            return self.fallback(rng, ())
        return max(fits, key=lambda params: float(self.costs.of(self.latency, [self.domain.subnet(params)])[0]))
